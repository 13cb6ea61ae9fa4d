"""From next-token logits to token ids: greedy, beam and nucleus decoding with transformers' rules in NumPy.

Letters: B sentences, K beams, R rows (B, or B·K), T tokens so far, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .errors import RuntimeInputError

STRATEGIES = ("greedy", "beam", "nucleus")
DEAD = np.float32(-1e9)  # transformers' score of what must not be chosen


@dataclass(frozen=True)
class DecodingRules:
    """How latents become text: the paper's values (Lovelace et al. 2023), and what the language model's own
    generation settings say (the fields after ``top_k``).

    Args:
        max_length, min_length: in tokens, the start token included.
        top_k: of nucleus sampling, the most probable tokens that are drawn from; 0 for all.

    Raises:
        RuntimeInputError: an unknown strategy or a value out of range.
    """

    strategy: str = "beam"
    max_length: int = 64
    min_length: int = 5
    num_beams: int = 4
    no_repeat_ngram_size: int = 3
    repetition_penalty: float = 1.2
    top_p: float = 0.95
    temperature: float = 1.0
    top_k: int = 0
    start_token: int = 0
    pad_token: int = 0
    eos_tokens: tuple[int, ...] = ()
    forced_bos_token: int | None = None
    forced_eos_token: int | None = None
    early_stopping: bool | str = False
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise RuntimeInputError(
                f"Unknown decoding strategy {self.strategy!r}; choose one of {', '.join(STRATEGIES)}."
            )
        for name, good, rule in (
            ("max_length", self.max_length >= max(2, self.min_length), "at least 2 and min_length"),
            ("min_length", self.min_length >= 0, "0 or more"),
            ("num_beams", self.num_beams >= 1, "at least 1"),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "0 or more"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("temperature", self.temperature > 0, "above 0"),
            ("top_k", self.top_k >= 0, "0 or more"),
        ):
            if not good:
                raise RuntimeInputError(f"{name} {getattr(self, name)} must be {rule}.")

    def apply(self, tokens: np.ndarray, scores: np.ndarray) -> None:
        """Changes scores (R, V) of the token after tokens (R, T) in place, in transformers' order."""
        length = tokens.shape[1]
        if self.repetition_penalty != 1.0:
            seen = np.take_along_axis(scores, tokens, axis=1)
            penalty = np.float32(self.repetition_penalty)
            np.put_along_axis(scores, tokens, np.where(seen < 0, seen * penalty, seen / penalty), axis=1)
        size = self.no_repeat_ngram_size
        if size and length >= size:
            windows = np.lib.stride_tricks.sliding_window_view(tokens, size, axis=1)
            prefix = tokens[:, None, length + 1 - size :]
            row, window = np.nonzero((windows[..., :-1] == prefix).all(axis=-1))
            scores[row, windows[row, window, -1]] = -np.inf
        if length < self.min_length:
            scores[:, self.eos_tokens] = -np.inf
        for token, place in ((self.forced_bos_token, 1), (self.forced_eos_token, self.max_length - 1)):
            if token is not None and length == place:
                scores[:] = -np.inf
                scores[:, token] = 0.0


class Decoder(Protocol):
    """The language model as decoding sees it: caches inside, one token a row at a time."""

    def step(self, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Logits (R, V) after tokens (R,); row r continues what was row ``rows[r]`` in the last step."""


Pick = Callable[[int, np.ndarray], np.ndarray]


def decode_tokens(
    decoder: Decoder, count: int, rules: DecodingRules, uniform: np.ndarray | None
) -> np.ndarray:
    """Token ids (B, T) of ``count`` sentences; ``uniform`` (B, max_length) is nucleus sampling's.

    ``decoder`` has B rows, or B·K for beam search, the K of a sentence side by side.
    """
    if rules.strategy == "beam" and rules.num_beams > 1:
        return _beam_search(decoder, count, rules)
    pick = _most_likely
    if rules.strategy == "nucleus":

        def pick(length: int, scores: np.ndarray) -> np.ndarray:
            return _nucleus(scores, rules, uniform[:, length - 1])

    return _one_by_one(decoder, count, rules, pick)


def _one_by_one(decoder: Decoder, count: int, rules: DecodingRules, pick: Pick) -> np.ndarray:
    tokens = np.full((count, 1), rules.start_token, np.int64)
    rows, running = np.arange(count), np.ones(count, bool)
    while running.any() and tokens.shape[1] < rules.max_length:
        scores = decoder.step(tokens[:, -1], rows)
        rules.apply(tokens, scores)
        chosen = np.where(running, pick(tokens.shape[1], scores), rules.pad_token)
        tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
        running &= ~np.isin(chosen, rules.eos_tokens)
    return tokens


def _most_likely(length: int, scores: np.ndarray) -> np.ndarray:
    return scores.argmax(axis=1)


def _nucleus(scores: np.ndarray, rules: DecodingRules, uniform: np.ndarray) -> np.ndarray:
    """The first token whose cumulative probability within the nucleus exceeds the row's uniform number."""
    if rules.temperature != 1.0:
        scores = scores / np.float32(rules.temperature)
    if 0 < rules.top_k < scores.shape[1]:
        worst = np.partition(scores, -rules.top_k, axis=1)[:, -rules.top_k, None]
        scores = np.where(scores < worst, np.float32(-np.inf), scores)
    order = np.argsort(scores, axis=1, kind="stable")
    sorted_scores = np.take_along_axis(scores, order, axis=1)
    cumulative = np.cumsum(_softmax(sorted_scores), axis=1, dtype=np.float64).astype(np.float32)
    outside = cumulative <= np.float32(1 - rules.top_p)
    outside[:, -1] = False
    np.put_along_axis(scores, order, np.where(outside, np.float32(-np.inf), sorted_scores), axis=1)
    cumulative = np.cumsum(_softmax(scores.astype(np.float64)), axis=1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return np.minimum((cumulative <= threshold).sum(axis=1), scores.shape[1] - 1)


def _softmax(scores: np.ndarray) -> np.ndarray:
    exp = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits


def _top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest of each row, in falling order: values and their places."""
    places = np.sort(np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:], axis=1)
    values = np.take_along_axis(scores, places, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(places, order, axis=1)


def _pick_beams(tensor: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(tensor, index[:, :, None], axis=1)


def _beam_search(decoder: Decoder, count: int, rules: DecodingRules) -> np.ndarray:
    """transformers' beam search: 2K candidates a sentence, K of them running, the K best finished kept."""
    beams, keep = rules.num_beams, max(2, 1 + len(rules.eos_tokens)) * rules.num_beams
    early = rules.early_stopping
    running = np.full((count, beams, rules.max_length), rules.pad_token, np.int64)
    running[:, :, 0] = rules.start_token
    running_scores = np.full((count, beams), DEAD, np.float32)
    running_scores[:, 0] = 0  # the beams are equal at first; only one may be continued
    finished, finished_scores = running.copy(), np.full((count, beams), DEAD, np.float32)
    is_finished, may_improve = np.zeros((count, beams), bool), np.ones((count, 1), bool)
    in_front = np.arange(keep) < beams
    rows = np.arange(count * beams)
    for length in range(1, rules.max_length):
        tokens = running[:, :, :length].reshape(count * beams, length)
        scores = _log_softmax(decoder.step(tokens[:, -1], rows))
        rules.apply(tokens, scores)
        vocab = scores.shape[1]
        scores = scores.reshape(count, beams, vocab) + running_scores[:, :, None]
        top_scores, top = _top_k(scores.reshape(count, beams * vocab), keep)
        candidates = _pick_beams(running, top // vocab)
        candidates[:, :, length] = top % vocab
        ends = np.isin(top % vocab, rules.eos_tokens) | (length + 1 >= rules.max_length)

        running_scores, chosen = _top_k(top_scores + ends * DEAD, beams)
        running = _pick_beams(candidates, chosen)
        sources = np.take_along_axis(top // vocab, chosen, axis=1)
        rows = (sources + beams * np.arange(count)[:, None]).reshape(-1)

        done = ends & in_front
        ending = top_scores / np.float32(length**rules.length_penalty)
        full = is_finished.all(axis=1, keepdims=True) & (early is True)
        ending = ending + full * DEAD + ~may_improve * DEAD + ~done * DEAD
        finished_scores, best = _top_k(np.concatenate([finished_scores, ending], axis=1), beams)
        finished = _pick_beams(np.concatenate([finished, candidates], axis=1), best)
        is_finished = np.take_along_axis(np.concatenate([is_finished, done], axis=1), best, axis=1)

        horizon = rules.max_length - 1 if early == "never" and rules.length_penalty > 0 else length
        possible = running_scores[:, :1] / np.float32(horizon**rules.length_penalty)
        worst = np.where(is_finished, finished_scores.min(axis=1, keepdims=True), DEAD)
        may_improve &= (possible > worst).any(axis=1, keepdims=True)
        if not may_improve.any() or ends.all() or (early is True and is_finished.all()):
            break
    return finished[:, 0]
