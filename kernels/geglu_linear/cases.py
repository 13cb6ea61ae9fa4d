from collections.abc import Callable
from typing import Any

import torch

from ld4lg_fast.kernels.testing import Arguments, OpCase


def geglu_linear_arguments(
    *lead: int, inner: int, width: int, dropout: float = 0.0
) -> Callable[[torch.Generator], Arguments]:
    """x is (*lead, inner), the weight (2·width, inner)."""

    def make(generator: torch.Generator) -> Arguments:
        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        return {
            "x": randn(*lead, inner),
            "weight": inner**-0.5 * randn(2 * width, inner),
            "bias": 0.2 * randn(2 * width),
            "dropout": dropout,
            "seed": torch.tensor([2**40 + 17]) if dropout else None,
        }

    return make


def _geglu_linear(name: str, *lead: int, **options: Any) -> OpCase:
    fields = {key: options.pop(key) for key in ("dtypes", "keep", "differentiable") if key in options}
    return OpCase("geglu_linear", name, geglu_linear_arguments(*lead, **options), **fields)


CASES = (
    _geglu_linear("paper", 32, inner=768, width=3072, dtypes=(torch.bfloat16,)),
    _geglu_linear("small", 2, 3, inner=4, width=8, dropout=0.3),
    _geglu_linear("odd", 67, inner=37, width=41),
    _geglu_linear("odd without gradients", 67, inner=37, width=41, differentiable=False),
    _geglu_linear("many rows without gradients", 513, inner=5, width=16, differentiable=False),
    _geglu_linear("empty", 0, 3, inner=4, width=8),
    _geglu_linear("empty without gradients", 0, 3, inner=4, width=8, differentiable=False),
)


def benchmarks(batch: int) -> tuple[OpCase, ...]:
    """The paper's denoiser block."""
    return (_geglu_linear(f"{batch}x32x768x3072", batch, 32, inner=768, width=3072),)
