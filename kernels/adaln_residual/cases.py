from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels.testing import Arguments, OpCase


def adaln_arguments(
    *lead: int,
    width: int,
    modulation: tuple[int, ...] | None = None,
    next_norm: bool = True,
    offset: float = 0.0,
    strided: bool = False,
) -> Callable[[torch.Generator], Arguments]:
    """h is (*lead, width), scale and shift are (*modulation, width)."""

    def make(generator: torch.Generator) -> Arguments:
        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        def branch() -> Tensor:
            if not strided:
                return randn(*lead, width) + offset
            return (randn(*(size + 1 for size in lead), width + 3) + offset)[
                (*(slice(1, None) for _ in lead), slice(2, -1))
            ]

        groups = (lead[0], *(1 for _ in lead[1:])) if modulation is None else modulation
        scale, shift = randn(*groups, 2 * width).chunk(2, dim=-1)  # as the network's projection gives them
        norms = [1 + 0.2 * randn(width), 0.2 * randn(width)] * 2
        return {
            "h": branch(),
            "residual": branch(),
            "weight": norms[0],
            "bias": norms[1],
            "scale": scale,
            "shift": shift,
            "next_weight": norms[2] if next_norm else None,
            "next_bias": norms[3] if next_norm else None,
        }

    return make


def _adaln(name: str, *lead: int, **options: Any) -> OpCase:
    fields = {key: options.pop(key) for key in ("dtypes", "keep") if key in options}
    return OpCase("adaln_residual", name, adaln_arguments(*lead, **options), **fields)


AUTOCAST = frozenset({"residual", "weight", "bias", "next_weight", "next_bias"})

CASES = (
    _adaln("paper", 8, 32, width=768),
    _adaln("small", 2, 3, width=8),
    _adaln("small-no-next-norm", 2, 3, width=8, next_norm=False),
    _adaln("paper-no-next-norm", 8, 32, width=768, next_norm=False),
    _adaln("autocast", 4, 32, width=768, keep=AUTOCAST, dtypes=(torch.bfloat16,)),
    _adaln("per-position", 3, 5, width=96, modulation=(3, 5)),
    _adaln("one-for-all", 3, 5, width=96, modulation=()),
    _adaln("shared-by-batch", 3, 5, width=96, modulation=(1, 5)),
    _adaln("odd", 3, 7, width=65),
    _adaln("strided", 3, 5, width=67, strided=True),
    _adaln("rows-only", 11, width=40, modulation=(1,)),
    _adaln("three-leading-axes", 2, 3, 5, width=40, modulation=(2, 3, 1)),
    _adaln("single-row", 1, 1, width=48),
    _adaln("width-one", 2, 3, width=1),
    _adaln("width-three", 2, 3, width=3),
    _adaln("far-from-zero", 2, 9, width=256, offset=100.0, dtypes=(torch.float32,)),
    _adaln("empty-batch", 0, 32, width=48),
    _adaln("no-positions", 2, 0, width=48),
)


def benchmarks(batch: int) -> tuple[OpCase, ...]:
    """The paper's denoiser block."""
    return (_adaln(f"{batch}x32x768", batch, 32, width=768),)
