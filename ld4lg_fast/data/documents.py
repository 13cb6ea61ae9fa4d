"""Documents cut into blocks: whole sentences packed up to a number of tokens.

A block is an exact part of its document, so the blocks of a document joined give the document back.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np

from ld4lg_fast.data.corpus import SPLITS, TextDataset, TextSplit

# After the end of a sentence with its closing quotes, or at a line break; white space goes with the next sentence.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|(?=\n)(?<!\n)")
_WORD = re.compile(r"\s*\S+")
_SPACES, _BREAKS = re.compile(r"[^\S\n]+"), re.compile(r"\s*\n\s*\n\s*")

Counter = Callable[[Sequence[str]], Sequence[int]]
"""Texts to their numbers of tokens, special tokens not counted."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of several documents: document i has ``texts[offsets[i] : offsets[i + 1]]``.

    ``offsets``: int64 (documents + 1,).
    """

    texts: list[str]
    offsets: np.ndarray

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1


def tidied(document: str) -> str:
    """A document with single spaces, single line breaks, and empty lines between paragraphs."""
    document = _SPACES.sub(" ", document.strip())
    return _BREAKS.sub("\n\n", document).replace(" \n", "\n").replace("\n ", "\n")


def one_text_a_source(split: TextSplit) -> TextSplit:
    """The texts of equal sources joined by spaces, in the order in which the sources come first."""
    groups: dict[str, list[str]] = {}
    for source, text in zip(split.sources or (), split.texts, strict=True):
        groups.setdefault(source, []).append(text)
    return TextSplit([" ".join(filter(None, texts)) for texts in groups.values()])


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space before it; joined they are the text."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    places = sorted({0, *ends, len(text)})
    parts = [text[start:end] for start, end in pairwise(places)]
    whole: list[str] = []
    for part in parts:
        if part.isspace() and whole:
            whole[-1] += part
        else:
            whole.append(part)
    return whole


def cut_into_blocks(documents: Sequence[str], count: Counter, max_tokens: int) -> Blocks:
    """Packs whole sentences into blocks of at most ``max_tokens`` tokens; a longer sentence is cut between words.

    Args:
        documents: their white space as `tidied` leaves it.
        count: numbers of tokens without special tokens; of a text about the sum of those of its parts.
    """
    pieces = [sentences(document) for document in documents]
    lengths = iter(count([piece for parts in pieces for piece in parts]))
    texts: list[str] = []
    sizes: list[int] = []
    for parts in pieces:
        counted = [(piece, next(lengths)) for piece in parts]
        blocks = list(_packed(_shortened(counted, count, max_tokens), max_tokens))
        texts += blocks
        sizes.append(len(blocks))
    offsets = np.fromiter(accumulate(sizes, initial=0), dtype=np.int64)
    return _within(Blocks(texts, offsets), count, max_tokens)


def _shortened(
    pieces: Sequence[tuple[str, int]], count: Counter, max_tokens: int
) -> Iterator[tuple[str, int]]:
    """The pieces, those that are too long as words, and words that are too long as halves."""
    for piece, length in pieces:
        if length <= max_tokens:
            yield piece, length
            continue
        words = _WORD.findall(piece)
        words[-1] += piece[sum(map(len, words)) :]
        parts = words if len(words) > 1 else [piece[: len(piece) // 2], piece[len(piece) // 2 :]]
        if len(piece) == 1:  # a character of many bytes
            yield piece, max_tokens
            continue
        yield from _shortened(list(zip(parts, count(parts), strict=True)), count, max_tokens)


def _packed(pieces: Iterator[tuple[str, int]], max_tokens: int) -> Iterator[str]:
    block, size = "", 0
    for piece, length in pieces:
        if block and size + length > max_tokens:
            yield block
            block, size = "", 0
        block, size = block + piece, size + length
    if block:
        yield block


def _within(blocks: Blocks, count: Counter, max_tokens: int) -> Blocks:
    """The blocks, where those that became longer than the sum of their parts are cut in two."""
    over = {i for i, length in enumerate(count(blocks.texts)) if length > max_tokens}
    if not over:
        return blocks
    texts: list[str] = []
    added = np.zeros(len(blocks.texts) + 1, dtype=np.int64)
    for i, text in enumerate(blocks.texts):
        words = _WORD.findall(text)
        if i in over and len(words) > 1:
            middle = len("".join(words[: len(words) // 2]))
            texts += [text[:middle], text[middle:]]
            added[i + 1] = 1
        else:
            texts.append(text)
    if len(texts) == len(blocks.texts):
        return blocks
    return _within(Blocks(texts, blocks.offsets + added.cumsum()[blocks.offsets]), count, max_tokens)


def cut_places(text: str) -> list[int]:
    """Where a text can be cut in two: before each word but the first, the white space going with the word."""
    return [match.start() for match in _WORD.finditer(text)][1:]


def ends_with_sentence(text: str) -> bool:
    """Whether nothing more is needed to end the last sentence of a text."""
    return re.search(r"[.!?…][\"'”’)\]]*\s*$", text) is not None


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
            labels = np.repeat(split.labels, np.diff(offsets)).tolist()
        return TextSplit(texts, labels, None, offsets)

    return replace(dataset, **{name: cut(getattr(dataset, name)) for name in SPLITS})
