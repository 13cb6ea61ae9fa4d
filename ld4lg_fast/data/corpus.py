"""A corpus: three splits of texts, optionally with labels or source texts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ld4lg_fast.data.texts import Column
from ld4lg_fast.errors import DataError

SPLITS = ("train", "validation", "test")

_SPACES = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def clean_up_spaces(text: str) -> str:
    """Removes the spaces that a word tokenizer adds before punctuation and English clitics.

    The rules and their order are those of BERT-style detokenization in both published systems.
    """
    for spaced, joined in _SPACES:
        text = text.replace(spaced, joined)
    return text


@dataclass(frozen=True)
class TextSplit:
    """Texts, optionally with a label (an index into ``TextDataset.class_names``) or a source text for each.

    ``offsets``, int64 (documents + 1,), if the texts are blocks of documents (`documents.in_blocks`): document i has
    ``texts[offsets[i] : offsets[i + 1]]``, the last of which is empty and marks its end.
    """

    texts: Sequence[str]
    labels: Sequence[int] | None = None
    sources: Sequence[str] | None = None
    offsets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Iterable[int]) -> "TextSplit":
        """The examples at ``indices``, in that order."""
        places = indices if isinstance(indices, np.ndarray) else np.fromiter(indices, dtype=np.int64)

        def pick(column: Any) -> Any:
            if isinstance(column, Column):
                return column.select(places)
            return None if column is None else [column[place] for place in places.tolist()]

        return TextSplit(pick(self.texts), pick(self.labels), pick(self.sources))

    def filled(self) -> np.ndarray:
        """Indices of the examples whose text and source, if there are sources, are not empty."""
        sources = self.texts if self.sources is None else self.sources
        pairs = zip(self.texts, sources, strict=True)
        found = np.flatnonzero(np.fromiter((bool(text and source) for text, source in pairs), dtype=bool))
        return found.astype(np.int32) if len(self) < 2**31 else found


@dataclass(frozen=True)
class TextDataset:
    """A corpus ready for training.

    ``origin`` describes how it was read: the texts and skipped rows of each file, guesses about its format, and how
    splits were made.
    """

    name: str
    train: TextSplit
    validation: TextSplit
    test: TextSplit
    class_names: tuple[str, ...] | None
    origin: str

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None for a corpus without labels."""
        return None if self.class_names is None else len(self.class_names)

    def require_labels(self) -> None:
        """Raises ``DataError`` unless every text has a class label."""
        if self.class_names is None:
            raise DataError(
                f"dataset={self.name} has no class labels (read from {self.origin}): name the column that "
                "holds them with dataset.label_column=..., or train without class conditions"
            )

    def require_sources(self) -> None:
        """Raises ``DataError`` unless every text has a source text."""
        if self.train.sources is None:
            raise DataError(
                f"dataset={self.name} has no source texts (read from {self.origin}): name the column that "
                "holds them with dataset.source_column=..., or train without sequence-to-sequence conditions"
            )
