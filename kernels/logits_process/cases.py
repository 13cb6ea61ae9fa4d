from collections.abc import Callable
from typing import Any

import torch

from ld4lg_fast.kernels.testing import Arguments, OpCase

NO_RULES = {
    **{"min_length": 0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "normalize": False},
    **{"temperature": 1.0, "top_k": 0, "top_p": 1.0},
}


def logits_arguments(
    rows: int,
    vocabulary: int,
    tokens: int,
    length: int,
    *,
    forced: int | None = None,
    words: int = 5,
    strided: bool = False,
    **rules: Any,
) -> Callable[[torch.Generator], Arguments]:
    """Arguments of `ops.logits_process`: texts of few different words, so that n-grams repeat."""

    def make(generator: torch.Generator) -> Arguments:
        logits = 4 * torch.randn(rows, vocabulary + 3 * strided, generator=generator, dtype=torch.float64)
        ids = torch.randint(0, min(words, vocabulary), (rows, tokens), generator=generator)
        table = torch.full((tokens,), -1)
        if forced is not None:
            table[length] = forced
        return {
            "logits": logits[:, :vocabulary],
            "ids": ids,
            "length": torch.tensor([length]),
            "eos": torch.tensor([vocabulary - 1, 1][: rules.get("num_eos", 1)]),
            "forced": table,
            **(NO_RULES | {name: value for name, value in rules.items() if name != "num_eos"}),
        }

    return make


def _case(name: str, *sizes: int, **options: Any) -> OpCase:
    return OpCase("logits_process", name, logits_arguments(*sizes, **options), differentiable=False)


PAPER = {"min_length": 5, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3}

CASES = (
    _case("paper", 8, 50265, 64, 20, **PAPER, normalize=True),
    _case("paper-greedy", 8, 50265, 64, 20, **PAPER),
    _case("small", 4, 37, 12, 9, **PAPER, normalize=True),
    _case("no-rules", 3, 37, 12, 9),
    _case("first-token", 3, 37, 12, 1, **PAPER, normalize=True),
    _case("too-short", 3, 37, 12, 3, min_length=5, num_eos=2),
    _case("forced", 3, 37, 12, 9, forced=7, **PAPER, normalize=True),
    _case("no-word-twice", 2, 37, 12, 9, no_repeat_ngram_size=1),
    _case("long-ngrams", 2, 37, 12, 11, no_repeat_ngram_size=6, words=1),
    _case("reward", 2, 37, 12, 11, repetition_penalty=0.7),
    _case("odd-strided", 3, 4099, 7, 5, strided=True, normalize=True, repetition_penalty=1.3),
    _case("last-place", 1, 5, 4, 3, no_repeat_ngram_size=2, normalize=True),
    _case("cool", 3, 37, 12, 9, temperature=0.7, **PAPER),
    _case("top-k", 3, 37, 12, 9, top_k=5, temperature=1.5),
    _case("top-k-of-many", 3, 4099, 12, 9, top_k=40),
    _case("top-k-all", 3, 37, 12, 9, top_k=40),
    _case("one-token", 3, 37, 12, 9, top_k=1, top_p=0.9),
    _case("paper-nucleus", 2, 50265, 64, 20, **PAPER, top_p=0.95),
    _case("small-nucleus", 3, 37, 12, 9, top_p=1e-6),
    _case("top-k-nucleus", 3, 1031, 12, 9, top_k=200, top_p=0.9, temperature=0.8, strided=True),
    _case("forced-nucleus", 3, 37, 12, 9, forced=7, top_k=3, top_p=0.9),
    _case("no-rows", 0, 37, 12, 9, normalize=True),
)


def benchmarks(batch: int) -> tuple[OpCase, ...]:
    """One step of the paper's decoding with bart-base: beam search with four beams a sentence, nucleus sampling."""
    return (
        _case(f"{4 * batch}x50265", 4 * batch, 50265, 64, 20, **PAPER, normalize=True),
        _case(f"{batch}x50265, nucleus", batch, 50265, 64, 20, **PAPER, top_p=0.95),
    )
