"""Variety and novelty of texts, by counting.

n-grams are over the tokens of spaCy's English rules, as published, or without spaCy over words; in scripts without
spaces over characters.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property
from itertools import chain
from typing import Any

import numpy as np

from ld4lg_fast.data.texts import Texts
from ld4lg_fast.evaluation.cache import ArrayCache, fingerprint
from ld4lg_fast.evaluation.unavailable import Unavailable, require
from ld4lg_fast.export.runtime.similarity import set_apart, word_pattern

DIVERSITY_ORDERS = (2, 3, 4)
MEMORIZATION_ORDER = 4
RUN_HASHES = 2**22  # 32 MB
_CHUNK_TEXTS = 2**14


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


def sorted_runs(chunks: Iterable[np.ndarray], run_hashes: int = RUN_HASHES) -> Iterator[np.ndarray]:
    """Hashes (uint64) in sorted runs of ``run_hashes``, the last one shorter; each hash occurs once in its run."""
    run = np.empty(0, np.uint64)
    for chunk in chunks:
        run = np.union1d(run, chunk)
        while len(run) > run_hashes:
            yield run[:run_hashes]
            run = run[run_hashes:]
    yield run


class TrainingNgrams:
    """The 4-grams of training texts as hashes in `sorted_runs`, built or opened in ``cache`` at the first use.

    A lookup maps one run at a time into memory, so it needs as much for any number of texts.
    """

    def __init__(self, texts: Sequence[str], cache: ArrayCache) -> None:
        self.texts, self.cache = texts, cache
        self._counts: dict[str, int] = {}

    def count_texts(self, texts: Sequence[str]) -> int:
        """How many of ``texts`` are training texts; counted once for the same texts."""
        key = fingerprint(texts)
        if key not in self._counts:
            wanted = set(texts)
            known = {text for text in self.texts if text in wanted}
            self._counts[key] = sum(text in known for text in texts)
        return self._counts[key]

    @cached_property
    def hashes(self) -> np.ndarray:
        """All runs one after the other, uint64, memory-mapped if the cache has a directory."""
        kind, tokens_of = best_tokens()
        starts = range(0, len(self.texts), _CHUNK_TEXTS)

        def runs() -> Iterator[np.ndarray]:
            texts = (self.texts[start : start + _CHUNK_TEXTS] for start in starts)
            return sorted_runs(ngram_hashes(tokens_of(chunk)) for chunk in texts)

        key = self.texts.key if isinstance(self.texts, Texts) else ""
        content = [key] if key else map(set_apart, self.texts)
        parts = chain([f"{MEMORIZATION_ORDER}{kind}, runs of {RUN_HASHES}"], content)
        return self.cache.mapped("training_ngrams", parts, runs)


def _found(hashes: np.ndarray, training: np.ndarray, run_hashes: int) -> np.ndarray:
    """Which of ``hashes`` are among those of `sorted_runs`; bool."""
    found = np.zeros(len(hashes), dtype=bool)
    for start in range(0, len(training), run_hashes):
        run = training[start : start + run_hashes]
        if isinstance(training, np.memmap) and training.filename is not None:
            # A mapping of this run alone, which is given back after the search.
            offset = training.offset + start * training.itemsize
            run = np.memmap(training.filename, training.dtype, "r", offset, run.shape)
        places = np.searchsorted(run, hashes)
        found |= run[places.clip(max=len(run) - 1)] == hashes
    return found


def memorization(
    tokens: Sequence[Sequence[str]], training: np.ndarray, run_hashes: int = RUN_HASHES
) -> float:
    """Share of the texts' 4-grams that are among ``training``, the training set's 4-grams as `sorted_runs`."""
    hashes = ngram_hashes(tokens)
    if not len(hashes):
        raise Unavailable(f"no text is as long as {MEMORIZATION_ORDER} tokens")
    distinct, places = np.unique(hashes, return_inverse=True)
    return float(_found(distinct, training, run_hashes)[places].mean())


def unique_words(texts: Sequence[str]) -> int:
    """Number of distinct lower-cased words of at least two characters, as word_count of `evaluate`; in scripts without
    spaces, of distinct characters."""
    pattern = word_pattern(r"\w", shortest=2)
    return len({word for text in texts for word in pattern.findall(text.lower())})
