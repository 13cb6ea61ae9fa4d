"""Tokens of texts from those of their words: a byte-level BPE sees a word alone, so each is encoded once.

The pre-tokenizer of byte-level BPEs (Radford et al. 2019) begins a piece at every space between two characters that are
none; so the tokens of a text are those of its parts between such spaces, one after the other.
"""

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST_WORDS = 2**17  # that are known at once
LONGEST_WORD, LONGEST_TEXT = 64, 100_000  # characters; longer words are not kept, as they hardly occur again
# Python's \S is none of the white space of the pre-tokenizer's rule.
_words = re.compile(r"(?<=\S)(?= \S)").split


class WordTokens:
    """The known words of a byte-level BPE.

    Args:
        encode: to a ``tokenizers.Encoding`` of each text, without special tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", encode: Callable[[list[str]], Sequence]) -> None:
        self._encode, self._known = encode, dict[str, bytes]()
        added = tokenizer.added_tokens_decoder.values()
        # Special tokens may be plain text.
        found = [token.content for token in added if not (token.special and tokenizer.split_special_tokens)]
        self._is_added = re.compile("|".join(map(re.escape, found))).search if found else None

    @staticmethod
    def suit(tokenizer: Any) -> bool:
        """Whether a tokenizer splits texts as it is written above."""
        from tokenizers import models, pre_tokenizers

        backend = tokenizer.backend_tokenizer
        rule, model = backend.pre_tokenizer, backend.model
        is_rule = isinstance(rule, pre_tokenizers.ByteLevel) and rule.use_regex and not rule.add_prefix_space
        return is_rule and backend.normalizer is None and isinstance(model, models.BPE) and not model.dropout

    def ids(self, texts: list[str]) -> list[bytes] | None:
        """Ids (int32) of each text; None if one is very long, or has a token in it that was added to the vocabulary."""
        if max(map(len, texts)) > LONGEST_TEXT or (self._is_added and any(map(self._is_added, texts))):
            return None
        if len(self._known) > MOST_WORDS:
            self._known.clear()
        split, known = list(map(_words, texts)), self._known
        unknown = list(set(chain.from_iterable(split)) - known.keys())
        new = (np.array(encoding.ids, np.int32).tobytes() for encoding in self._encode(unknown))
        known.update(zip(unknown, new, strict=True))
        rows = [b"".join([known[word] for word in words]) for words in split]
        for word in unknown:
            if len(word) > LONGEST_WORD:
                del known[word]
        return rows
