"""Variety and novelty of texts, by counting.

n-grams are over the tokens of spaCy's English rules, as published, or without spaCy over words; in scripts without
spaces over characters.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from ld4lg_fast.evaluation.unavailable import Unavailable, require
from ld4lg_fast.export.runtime.similarity import set_apart, word_pattern

DIVERSITY_ORDERS = (2, 3, 4)
MEMORIZATION_ORDER = 4


@cache
def _tokenizer() -> Any:
    # The rules alone: the published code takes those of en_core_web_sm, which are the same.
    return require("spacy", "spacy").blank("en").tokenizer


def tokens_of(texts: Sequence[str]) -> list[list[str]]:
    """Tokens of each text; raises `Unavailable` without spaCy."""
    tokenizer = _tokenizer()
    return [[token.text for token in tokenizer(set_apart(text))] for text in texts]


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """Words of each text, without punctuation; needs no package."""
    return [word_pattern(r"\w").findall(text) for text in texts]


def best_tokens() -> tuple[str, Callable[[Sequence[str]], list[list[str]]]]:
    """What is appended to the name of a metric over n-grams, and its tokens: spaCy's, else ``_words``."""
    try:
        _tokenizer()
    except Unavailable:
        return "_words", words_of
    return "", tokens_of


def ngrams(tokens: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[start:] for start in range(order)), strict=False)


def diversity(tokens: Sequence[Sequence[str]]) -> float:
    """Product over n = 2, 3, 4 of the share of distinct n-grams among all n-grams of the texts together."""
    product = 1.0
    for order in DIVERSITY_ORDERS:
        found = [gram for row in tokens for gram in ngrams(row, order)]
        if not found:
            raise Unavailable(f"no text is as long as {order} tokens")
        product *= len(set(found)) / len(found)
    return product


def ngram_hashes(tokens: Sequence[Sequence[str]], order: int = MEMORIZATION_ORDER) -> np.ndarray:
    """64-bit hashes of all n-grams of the texts, in order, repetitions included."""
    grams = (
        "\x1f".join(gram).encode(errors="surrogatepass") for row in tokens for gram in ngrams(row, order)
    )
    hashes = b"".join(hashlib.blake2b(gram, digest_size=8).digest() for gram in grams)
    return np.frombuffer(hashes, dtype=np.uint64)


def memorization(tokens: Sequence[Sequence[str]], training: np.ndarray) -> float:
    """Share of the texts' 4-grams that are among ``training``, the hashes of the training set's 4-grams."""
    hashes = ngram_hashes(tokens)
    if not len(hashes):
        raise Unavailable(f"no text is as long as {MEMORIZATION_ORDER} tokens")
    return float(np.isin(hashes, training).mean())


def unique_words(texts: Sequence[str]) -> int:
    """Number of distinct lower-cased words of at least two characters, as word_count of `evaluate`; in scripts without
    spaces, of distinct characters."""
    pattern = word_pattern(r"\w", shortest=2)
    return len({word for text in texts for word in pattern.findall(text.lower())})
