from collections.abc import Callable
from typing import Any

import torch

from ld4lg_fast.kernels.testing import Arguments, OpCase


def geglu_arguments(
    *lead: int, width: int, dropout: float = 0.0, spread: float = 1.0, strided: bool = False
) -> Callable[[torch.Generator], Arguments]:
    """projected is (*lead, 2·width), with elements of size ``spread``."""

    def make(generator: torch.Generator) -> Arguments:
        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        projected = spread * randn(*lead, 2 * width + (3 if strided else 0))
        return {
            "projected": projected[..., 1 : 1 + 2 * width] if strided else projected,
            "bias": 0.2 * randn(2 * width),
            "dropout": dropout,
            "seed": torch.tensor([2**40 + 17]) if dropout else None,
        }

    return make


def _geglu(name: str, *lead: int, **options: Any) -> OpCase:
    fields = {key: options.pop(key) for key in ("dtypes", "keep") if key in options}
    return OpCase("geglu", name, geglu_arguments(*lead, **options), **fields)


CASES = (
    _geglu("paper", 8, 32, width=3072),
    _geglu("paper-dropout", 8, 32, width=3072, dropout=0.1),
    _geglu("small", 2, 3, width=8, dropout=0.3),
    _geglu("autocast", 2, 3, width=64, keep=frozenset({"bias"}), dtypes=(torch.bfloat16,)),
    _geglu("tails", 9, 7, width=33, spread=6.0),
    _geglu("odd", 67, width=13, dropout=0.5),
    _geglu("strided", 3, 5, width=19, strided=True),
    _geglu("single-row", 1, width=40),
    _geglu("width-one", 2, 3, width=1),
    _geglu("empty", 0, 4, width=8),
)


def benchmarks(batch: int) -> tuple[OpCase, ...]:
    """The paper's denoiser block."""
    return (_geglu(f"{batch}x32x3072", batch, 32, width=3072),)
