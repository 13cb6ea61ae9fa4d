"""Blocks of documents as token ids: the tokens before a block, and blocks cut in two.

A cut block stands for a prompt that ends within a sentence: its head is context, its tail is what is to be written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ld4lg_fast.data import TokenizedTexts


@dataclass(frozen=True)
class BlockTokens:
    """Token ids of all blocks of a corpus; document i has the blocks ``offsets[i] : offsets[i + 1]``.

    ``before`` and ``after``: how many special tokens the tokenizer puts before a text and after it.
    """

    tokens: TokenizedTexts
    offsets: np.ndarray
    before: int
    after: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def firsts(self) -> np.ndarray:
        """Of each block the number of its document's first block, int64."""
        return np.repeat(self.offsets[:-1], np.diff(self.offsets))

    def text(self, block: int) -> list[int]:
        """A block's tokens without special ones."""
        row = self.tokens[block]
        return row[self.before : len(row) - self.after]

    def preceding(self, block: int, first: int, count: int) -> list[int]:
        """The last tokens before a block of the document that begins with block ``first``, at most ``count``."""
        found: list[int] = []
        while block > first and len(found) < count:
            block -= 1
            found = self.text(block) + found
        return found[-count:] if count else []

    def head(self, block: int, place: int) -> list[int]:
        """The first ``place`` tokens of a block between special tokens."""
        row = self.tokens[block]
        return row[: self.before + place] + row[len(row) - self.after :]

    def tail(self, block: int, place: int) -> list[int]:
        """The others."""
        row = self.tokens[block]
        return row[: self.before] + row[self.before + place :]

    def cut_in_two(self, share: float, seed: int) -> tuple[np.ndarray, TokenizedTexts, TokenizedTexts]:
        """About ``share`` of the blocks, each cut at a random place: their numbers (C,), their heads and their tails.

        Blocks of less than two tokens are not cut.
        """
        rng = np.random.default_rng(seed)
        coins, places = rng.random((2, len(self)))
        sizes = self.tokens.lengths - self.before - self.after
        chosen = np.flatnonzero((coins < share) & (sizes > 1))
        places = 1 + (places * (sizes - 1)).astype(int)
        pairs = [(int(block), int(places[block])) for block in chosen]
        heads, tails = (_joined([part(*pair) for pair in pairs]) for part in (self.head, self.tail))
        return chosen, heads, tails


def _joined(rows: Sequence[list[int]]) -> TokenizedTexts:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    flat = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(offsets[-1]))
    return TokenizedTexts(flat, offsets, 0)
