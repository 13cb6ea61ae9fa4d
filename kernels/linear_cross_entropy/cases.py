from collections.abc import Callable
from typing import Any

import torch

from ld4lg_fast.kernels.testing import Arguments, OpCase


def loss_arguments(
    *lead: int, width: int, vocabulary: int, bias: bool = True, ignored: float = 0.3
) -> Callable[[torch.Generator], Arguments]:
    """x is (*lead, width); a share ``ignored`` of the targets is -100."""

    def make(generator: torch.Generator) -> Arguments:
        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        targets = torch.randint(vocabulary, lead, generator=generator)
        targets[torch.rand(lead, generator=generator) < ignored] = -100
        return {
            "x": randn(*lead, width),
            "weight": width**-0.5 * randn(vocabulary, width),
            "targets": targets,
            "bias": 0.2 * randn(vocabulary) if bias else None,
        }

    return make


def _loss(name: str, *lead: int, **options: Any) -> OpCase:
    return OpCase("linear_cross_entropy", name, loss_arguments(*lead, **options))


CASES = (
    _loss("small", 2, 5, width=4, vocabulary=7),
    _loss("without-bias", 33, width=16, vocabulary=50, bias=False),
    _loss("nothing-ignored", 3, 4, width=8, vocabulary=11, ignored=0.0),
    _loss("long-rows", 6, width=4, vocabulary=2500),
)


def benchmarks(batch: int) -> tuple[OpCase, ...]:
    """BART's head on the paper's 64 tokens; a small batch already shows the rate."""
    return (_loss(f"{batch}x64x768x50265", batch, 64, width=768, vocabulary=50265),) if batch <= 8 else ()
