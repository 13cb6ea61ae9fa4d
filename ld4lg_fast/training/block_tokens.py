"""Blocks of documents as token ids: the tokens before a block, and blocks cut in two.

A cut block stands for a prompt: its head is context, its tail is what is to be written. Prompts mostly end with a
sentence, but may end anywhere; so do the heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ld4lg_fast.data import TokenizedTexts

# Numbers (C,) of blocks that are cut, ascending, their heads and their tails.
TokensCutInTwo = tuple[np.ndarray, TokenizedTexts, TokenizedTexts]
SENTENCE_SHARE = 0.5  # of the blocks that are cut, those that are cut between sentences


@dataclass(frozen=True)
class BlockTokens:
    """Token ids of all blocks of a corpus; document i has the blocks ``offsets[i] : offsets[i + 1]``.

    Args:
        before, after: how many special tokens the tokenizer puts before a text and after it.
        ends_sentence: (vocabulary,) whether a token is, or ends with, the end of a sentence.
    """

    tokens: TokenizedTexts
    offsets: np.ndarray
    before: int
    after: int
    ends_sentence: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def firsts(self) -> np.ndarray:
        """Of each block the number of its document's first block, int64."""
        return np.repeat(self.offsets[:-1], np.diff(self.offsets))

    def text(self, block: int) -> list[int]:
        """A block's tokens without special ones."""
        return self.without_special(self.tokens[block])

    def without_special(self, row: list[int]) -> list[int]:
        """The tokens of a block, or of a part of it, between the special ones."""
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

    def place_to_cut(self, block: int, coin: float) -> int:
        """Where a block of two or more tokens is cut, by a ``coin`` in [0, 1): after so many of its tokens.

        In half of the cases at the end of one of its sentences but the last, if there is one.
        """
        text = np.asarray(self.text(block)[:-1])
        places = 1 + np.arange(len(text))
        if coin < SENTENCE_SHARE:
            places, coin = 1 + np.flatnonzero(self.ends_sentence[text]), coin / SENTENCE_SHARE
            if not len(places):
                places = 1 + np.arange(len(text))
        else:
            coin = (coin - SENTENCE_SHARE) / (1 - SENTENCE_SHARE)
        return int(places[int(coin * len(places))])

    def cut_in_two(self, share: float, seed: int) -> TokensCutInTwo:
        """About ``share`` of the blocks, each cut in two. Blocks of less than two tokens are not cut."""
        rng = np.random.default_rng(seed)
        coins, places = rng.random((2, len(self)))
        sizes = self.tokens.lengths - self.before - self.after
        chosen = np.flatnonzero((coins < share) & (sizes > 1))
        pairs = [(int(block), self.place_to_cut(int(block), float(places[block]))) for block in chosen]
        heads, tails = (_joined([part(*pair) for pair in pairs]) for part in (self.head, self.tail))
        return chosen, heads, tails


def _joined(rows: Sequence[list[int]]) -> TokenizedTexts:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    flat = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(offsets[-1]))
    return TokenizedTexts(flat, offsets, 0)
