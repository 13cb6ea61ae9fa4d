"""Corpora of documents: texts joined to documents, documents cut into blocks (`export.runtime.documents`)."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from ld4lg_fast.data.corpus import SPLITS, TextDataset, TextSplit
from ld4lg_fast.export.runtime.documents import Counter, cut_into_blocks


def one_text_a_source(split: TextSplit) -> TextSplit:
    """The texts of equal sources joined by spaces, in the order in which the sources come first."""
    groups: dict[str, list[str]] = {}
    for source, text in zip(split.sources or (), split.texts, strict=True):
        groups.setdefault(source, []).append(text)
    return TextSplit([" ".join(filter(None, texts)) for texts in groups.values()])


def in_blocks(dataset: TextDataset, count: Counter, max_tokens: int) -> TextDataset:
    """A corpus of documents as one of blocks, each document's last one empty; labels go with every block."""

    def cut(split: TextSplit) -> TextSplit:
        blocks = cut_into_blocks(split.texts, count, max_tokens)
        texts: list[str] = []
        for start, end in pairwise(blocks.offsets.tolist()):
            texts += [*blocks.texts[start:end], ""]
        offsets = blocks.offsets + np.arange(len(blocks.offsets))
        labels = None
        if split.labels is not None:
            labels = np.repeat(np.asarray(split.labels), np.diff(offsets)).tolist()
        return TextSplit(texts, labels, None, offsets)

    parts: dict[str, Any] = {name: cut(getattr(dataset, name)) for name in SPLITS}
    return replace(dataset, **parts)
