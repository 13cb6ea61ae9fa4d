"""Greedy search, nucleus sampling and transformers' beam search in NumPy.

Letters: S sentences, W beams, T = max_length tokens, V vocabulary.
"""

from typing import Protocol

import numpy as np

from .decoding import DecodingRules, draw_nucleus

IMPOSSIBLE = np.float32(-1e9)  # score of beams that must not be chosen, as in transformers
BLOCK = 128  # block size of `top_k`


class Decoder(Protocol):
    """The language model for decoding: one token for each beam at a time, with key-value caches."""

    def is_full(self) -> bool:
        """Whether `grow` must be called before the next step."""

    def grow(self, sentences: np.ndarray) -> None:
        """Makes room for more tokens and keeps only ``sentences``."""

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Logits (S, W, V) of the token after ``tokens`` (S, W)."""

    def choose(self, parents: np.ndarray) -> None:
        """Beam w of each sentence goes on from beam ``parents[:, w]`` (S, W)."""


def decode_tokens(
    decoder: Decoder,
    count: int,
    rules: DecodingRules,
    uniform: np.ndarray | None,
    prefix: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (S, T) of ``count`` sentences, and their mean log-probabilities (S,) if the rules choose by them.

    Args:
        uniform: (S, T) random numbers for nucleus sampling.
        prefix: (S, P) int64, tokens that the decoder reads after the start token; lengths of ``rules`` include them.
    """
    num_prefix = 0 if prefix is None else prefix.shape[1]
    beams = rules.strategy == "beam" and rules.num_beams > 1
    search = BeamSearch(count, rules, num_prefix) if beams else SingleSearch(count, rules, uniform)
    tokens = np.full((count, rules.max_length), rules.pad_token, np.int64)
    scores, rows = np.zeros(count), np.arange(count)
    if prefix is not None:
        search.texts[..., 1 : 1 + num_prefix] = prefix if search.texts.ndim == 2 else prefix[:, None]
        for place in range(num_prefix):
            if decoder.is_full():
                decoder.grow(rows)
            decoder.step(search.texts.reshape(count, -1, rules.max_length)[:, :, place])
    for length in range(1 + num_prefix, rules.max_length):
        done = search.done()
        if done.all():
            break
        if decoder.is_full():
            tokens[rows], scores[rows] = search.result()
            left = np.flatnonzero(~done)
            rows = rows[left]
            search.keep(left)
            decoder.grow(left)
        search.advance(decoder, length)
    tokens[rows], scores[rows] = search.result()
    return tokens, scores


class SingleSearch:
    """One text for each sentence: the most probable token at each step, or one sampled with ``uniform`` (S, T)."""

    def __init__(self, count: int, rules: DecodingRules, uniform: np.ndarray | None) -> None:
        self.rules, self.uniform = rules, uniform
        self.texts = np.full((count, rules.max_length), rules.pad_token, np.int64)
        self.texts[:, 0] = rules.start_token
        self.finished, self.counts = np.zeros(count, bool), np.zeros(count, np.int64)
        self.log_probs = np.zeros(count)

    def done(self) -> np.ndarray:
        return self.finished

    def advance(self, decoder: Decoder, length: int) -> None:
        """Adds one token to every text of ``length`` tokens."""
        rules = self.rules
        scores = decoder.step(self.texts[:, length - 1 : length])[:, 0]
        log_probs = _log_softmax(scores.copy()) if rules.choose_decode == "score" else None
        rules.apply(self.texts[:, :length], scores)
        if rules.strategy == "nucleus" and self.uniform is not None:
            chosen = draw_nucleus(scores, rules, self.uniform[:, length - 1])
        else:
            chosen = scores.argmax(axis=1)
        self.texts[:, length] = np.where(self.finished, rules.pad_token, chosen)
        if log_probs is not None:
            self.log_probs += log_probs[np.arange(len(chosen)), chosen] * ~self.finished
        self.counts += ~self.finished
        self.finished |= np.isin(chosen, rules.eos_tokens)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        return self.texts, self.log_probs / self.counts.clip(min=1)

    def keep(self, sentences: np.ndarray) -> None:
        """Drops all sentences but those."""
        for name in ("texts", "finished", "counts", "log_probs"):
            setattr(self, name, getattr(self, name)[sentences])
        self.uniform = None if self.uniform is None else self.uniform[sentences]


class BeamSearch:
    """2W candidates for each sentence, of which W continue; the W best finished texts are kept."""

    def __init__(self, count: int, rules: DecodingRules, num_prefix: int) -> None:
        beams, self.num_prefix = rules.num_beams, num_prefix
        self.rules, self.candidates = rules, max(2, 1 + len(rules.eos_tokens)) * beams
        self.texts = np.full((count, beams, rules.max_length), rules.pad_token, np.int64)
        self.texts[:, :, 0] = rules.start_token
        self.scores = np.full((count, beams), IMPOSSIBLE, np.float32)
        self.scores[:, 0] = 0  # all beams are equal at first; only one may continue
        self.finished, self.finished_scores = (
            self.texts.copy(),
            np.full((count, beams), IMPOSSIBLE, np.float32),
        )
        self.is_finished, self.may_improve = np.zeros((count, beams), bool), np.ones((count, 1), bool)

    def done(self) -> np.ndarray:
        complete = self.is_finished.all(axis=1) & (self.rules.early_stopping is True)
        return complete | ~self.may_improve[:, 0]

    def advance(self, decoder: Decoder, length: int) -> None:
        """Adds one token to every running text of ``length`` tokens."""
        rules, (count, beams, _) = self.rules, self.texts.shape
        scores = decoder.step(self.texts[:, :, length - 1])
        vocab = scores.shape[2]
        rows = _log_softmax(scores.reshape(count * beams, vocab))
        rules.apply(self.texts[:, :, :length].reshape(count * beams, length), rows)
        scores = (rows.reshape(count, beams, vocab) + self.scores[:, :, None]).reshape(count, -1)
        scores, top = top_k(scores, self.candidates)
        candidates = _pick(self.texts, top // vocab)
        candidates[:, :, length] = top % vocab
        ends = np.isin(top % vocab, rules.eos_tokens) | (length + 1 >= rules.max_length)

        self.scores, chosen = top_k(scores + ends * IMPOSSIBLE, beams)
        self.texts = _pick(candidates, chosen)
        decoder.choose(np.take_along_axis(top // vocab, chosen, axis=1))
        self._finish(candidates, scores, ends, length)

        whole = rules.early_stopping == "never" and rules.length_penalty > 0
        horizon = rules.max_length - 1 if whole else length
        possible = self.scores[:, :1] / np.float32((horizon - self.num_prefix) ** rules.length_penalty)
        worst = np.where(self.is_finished, self.finished_scores.min(axis=1, keepdims=True), IMPOSSIBLE)
        self.may_improve &= (possible > worst).any(axis=1, keepdims=True)

    def _finish(self, candidates: np.ndarray, scores: np.ndarray, ends: np.ndarray, length: int) -> None:
        """Merges the texts that have just ended into the finished ones and keeps the best."""
        beams = self.rules.num_beams
        done = ends & (np.arange(self.candidates) < beams)
        full = self.done()[:, None]
        ending = (
            scores / np.float32((length - self.num_prefix) ** self.rules.length_penalty)
            + full * IMPOSSIBLE
            + ~done * IMPOSSIBLE
        )
        self.finished_scores, best = top_k(np.concatenate([self.finished_scores, ending], axis=1), beams)
        self.finished = _pick(np.concatenate([self.finished, candidates], axis=1), best)
        self.is_finished = np.take_along_axis(np.concatenate([self.is_finished, done], axis=1), best, axis=1)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        return self.finished[:, 0], self.finished_scores[:, 0]

    def keep(self, sentences: np.ndarray) -> None:
        """Drops all sentences but those."""
        for name in ("texts", "scores", "finished", "finished_scores", "is_finished", "may_improve"):
            setattr(self, name, getattr(self, name)[sentences])


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest values of each row (R, V), in descending order, and their indices, both (R, k).

    They are in the k blocks with the largest maxima, so only those are searched.
    """
    rows, size = scores.shape
    if size > 4 * k * BLOCK:
        whole = size - size % BLOCK
        blocks = _largest(scores[:, :whole].reshape(rows, -1, BLOCK).max(axis=2), k)
        places = (blocks[:, :, None] * BLOCK + np.arange(BLOCK)).reshape(rows, -1)
        tail = np.broadcast_to(np.arange(whole, size), (rows, size - whole))
        places = np.concatenate([places, tail], axis=1)
        values, chosen = top_k(np.take_along_axis(scores, places, axis=1), k)
        return values, np.take_along_axis(places, chosen, axis=1)
    places = _largest(scores, k)
    values = np.take_along_axis(scores, places, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(places, order, axis=1)


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest values of each row, ascending."""
    return np.sort(np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:], axis=1)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-softmax in place along the last axis of (R, V)."""
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits


def _pick(texts: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The texts ``index`` (S, C) of each sentence's (S, W, T)."""
    return np.take_along_axis(texts, index[:, :, None], axis=1)
