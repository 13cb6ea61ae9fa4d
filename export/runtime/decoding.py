"""The rules of a decoding, in transformers' order, and the draw of a token from a nucleus.

Letters: R rows (sentences times beams), T tokens so far, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np

from .choice import SIMILARITIES
from .errors import RuntimeInputError

STRATEGIES = ("greedy", "beam", "nucleus")
CHOICES = ("score", *SIMILARITIES)


@dataclass(frozen=True)
class DecodingRules:
    """How latents become text: the paper's values (Lovelace et al. 2023), in place of which an exported folder has
    the run's own, and what the language model's generation settings say (the fields after ``choose_decode``).

    Args:
        max_length, min_length: in tokens, the start token included.
        top_k: of nucleus sampling, the most probable tokens that are drawn from; 0 for all.
        num_decodes: of nucleus sampling, how many texts are drawn from each latent, of which one is kept.
        choose_decode: the one that is kept: ``score``, the most probable a token, or the one most like the others
            by ``bleu`` or ``rougeL``.

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
    num_decodes: int = 1
    choose_decode: str = "bleu"
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
        if self.choose_decode not in CHOICES:
            raise RuntimeInputError(
                f"Unknown choose_decode {self.choose_decode!r}; choose one of {', '.join(CHOICES)}."
            )
        if self.num_decodes > 1 and self.strategy != "nucleus":
            raise RuntimeInputError(
                f"num_decodes {self.num_decodes} needs strategy nucleus; {self.strategy} draws nothing."
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
            ("num_decodes", self.num_decodes >= 1, "at least 1"),
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


def draw_nucleus(scores: np.ndarray, rules: DecodingRules, uniform: np.ndarray) -> np.ndarray:
    """Tokens (R,) from scores (R, V): the first whose cumulative probability within the nucleus exceeds the row's
    number in ``uniform`` (R,)."""
    return np.array([_draw(row, rules, number) for row, number in zip(scores, uniform, strict=True)])


def _draw(scores: np.ndarray, rules: DecodingRules, number: float) -> int:
    if rules.temperature != 1.0:
        scores = scores / np.float32(rules.temperature)
    places = np.arange(len(scores))
    if 0 < rules.top_k < len(scores):
        places = np.flatnonzero(scores >= np.partition(scores, -rules.top_k)[-rules.top_k])
    shares = np.exp(scores[places] - scores.max())
    shares /= shares.sum()
    # Fewer need sorting: those of so small a share are below 1 - top_p even all together.
    large = shares * len(places) > 1 - rules.top_p
    rest, places, shares = shares[~large].sum(dtype=np.float64), places[large], shares[large]
    order = np.argsort(shares, kind="stable")
    cumulative = (rest + np.cumsum(shares[order], dtype=np.float64)).astype(np.float32)
    inside = cumulative > np.float32(1 - rules.top_p)
    inside[-1] = True
    places = np.sort(places[order[inside]])
    cumulative = np.cumsum(np.exp((scores[places] - scores.max()).astype(np.float64)))
    return places[
        np.searchsorted(cumulative, number * cumulative[-1], side="right").clip(max=len(places) - 1)
    ]
