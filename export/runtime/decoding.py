"""`DecodingRules`: decoding options and their effect on scores, in transformers' order; nucleus sampling of a token.

Letters: R rows (sentences times beams), T tokens so far, V vocabulary.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from .errors import RuntimeInputError
from .option_checks import OPTIONS, Choice, WholeNumber
from .records import ListOf, Maybe, key, parse
from .similarity import CHOICES

STRATEGIES = ("greedy", "beam", "nucleus")
MOST_TOKENS = 2**16  # of a text
TOKEN = WholeNumber(0, 2**24)


@dataclass(frozen=True)
class DecodingRules:
    """Decoding options; the defaults are the paper's (Lovelace et al. 2023), a folder stores those of its run.

    The fields after ``choose_decode`` come from the language model's generation config.

    Args:
        max_length, min_length: in tokens, the start token included.
        top_k: of nucleus sampling, the number of most probable tokens to sample from; 0 for all.
        num_decodes: of nucleus sampling, texts sampled from each latent, of which one is kept.
        choose_decode: which one is kept: ``score``, the highest mean log-probability per token, or the most similar to
            the others by ``bleu`` or ``rougeL``.

    Raises:
        RuntimeInputError: an unknown strategy or a value out of range.
    """

    strategy: str = key(Choice(STRATEGIES), default="beam")
    max_length: int = key(OPTIONS["max_length"], default=64)
    min_length: int = key(OPTIONS["min_length"], default=5)
    num_beams: int = key(OPTIONS["num_beams"], default=4)
    no_repeat_ngram_size: int = key(OPTIONS["no_repeat_ngram_size"], default=3)
    repetition_penalty: float = key(OPTIONS["repetition_penalty"], default=1.2)
    top_p: float = key(OPTIONS["top_p"], default=0.95)
    temperature: float = key(OPTIONS["temperature"], default=1.0)
    top_k: int = key(OPTIONS["top_k"], default=0)
    num_decodes: int = key(OPTIONS["num_decodes"], default=1)
    choose_decode: str = key(Choice(CHOICES), default="bleu")
    start_token: int = key(TOKEN, default=0)
    pad_token: int = key(TOKEN, default=0)
    eos_tokens: tuple[int, ...] = key(ListOf(TOKEN, 100), default=())
    forced_bos_token: int | None = key(Maybe(TOKEN), default=None)
    forced_eos_token: int | None = key(Maybe(TOKEN), default=None)
    early_stopping: bool | str = key(OPTIONS["early_stopping"], default=False)
    length_penalty: float = key(OPTIONS["length_penalty"], default=1.0)

    def __post_init__(self) -> None:
        for entry in fields(self):
            name = "decoding strategy" if entry.name == "strategy" else entry.name
            parse(entry.metadata["shape"], getattr(self, entry.name), name)
        if self.max_length < self.min_length:
            raise RuntimeInputError(
                f"max_length is {self.max_length}; it must be at least min_length, {self.min_length}."
            )
        if self.num_decodes > 1 and self.strategy != "nucleus":
            raise RuntimeInputError(
                f"num_decodes {self.num_decodes} needs strategy nucleus; {self.strategy} draws nothing."
            )

    def after(self, num_prefix: int) -> "DecodingRules":
        """The rules of texts that begin with so many given tokens, which lengths do not count."""
        lengths = {name: getattr(self, name) + num_prefix for name in ("max_length", "min_length")}
        return replace(self, **lengths)

    def check_vocabulary(self, size: int) -> None:
        """Refuses token ids beyond a vocabulary of that size, and more beams than it has tokens.

        Raises:
            RuntimeInputError: names the field.
        """
        for name in ("start_token", "pad_token", "forced_bos_token", "forced_eos_token", "eos_tokens"):
            value = getattr(self, name)
            for token in value if isinstance(value, tuple) else (value,):
                if token is not None and token >= size:
                    raise RuntimeInputError(f"{name} is {token}; this model has the tokens 0 to {size - 1}.")
        for name, count in (
            ("num_beams", self.num_beams),
            ("the number of eos_tokens", len(self.eos_tokens)),
        ):
            if count > size:
                raise RuntimeInputError(f"{name} is {count}; this model has {size} tokens: ask for fewer.")

    def apply(self, tokens: np.ndarray, scores: np.ndarray) -> None:
        """Applies the rules in place to scores (R, V) of the token after tokens (R, T), in transformers' order."""
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
    # Sorts fewer tokens: those with smaller shares sum to less than 1 - top_p.
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
