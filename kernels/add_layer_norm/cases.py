from collections.abc import Callable
from typing import Any

import torch

from ld4lg_fast.kernels.testing import Arguments, OpCase


def add_layer_norm_arguments(
    *lead: int, width: int, offset: float = 0.0, strided: bool = False
) -> Callable[[torch.Generator], Arguments]:
    """branch and residual are (*lead, width)."""

    def make(generator: torch.Generator) -> Arguments:
        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        def rows() -> torch.Tensor:
            if not strided:
                return randn(*lead, width) + offset
            return (randn(*(size + 1 for size in lead), width + 3) + offset)[
                (*(slice(1, None) for _ in lead), slice(2, -1))
            ]

        return {
            "branch": rows(),
            "residual": rows(),
            "weight": 1 + 0.2 * randn(width),
            "bias": 0.2 * randn(width),
        }

    return make


def _add_layer_norm(name: str, *lead: int, **options: Any) -> OpCase:
    fields = {key: options.pop(key) for key in ("dtypes", "keep") if key in options}
    return OpCase("add_layer_norm", name, add_layer_norm_arguments(*lead, **options), **fields)


AUTOCAST = frozenset({"residual", "weight", "bias"})

CASES = (
    _add_layer_norm("paper", 8, 32, width=768),
    _add_layer_norm("small", 2, 3, width=8),
    _add_layer_norm("autocast", 2, 3, width=768, keep=AUTOCAST, dtypes=(torch.bfloat16,)),
    _add_layer_norm("odd", 3, 7, width=65),
    _add_layer_norm("strided", 3, 5, width=67, strided=True),
    _add_layer_norm("single-row", 1, width=48),
    _add_layer_norm("width-three", 2, 3, width=3),
    _add_layer_norm("far-from-zero", 2, 9, width=256, offset=50.0, dtypes=(torch.float32,)),
    _add_layer_norm("empty", 0, 32, width=48),
)


def benchmarks(batch: int) -> tuple[OpCase, ...]:
    """The paper's denoiser block."""
    return (_add_layer_norm(f"{batch}x32x768", batch, 32, width=768),)
