"""All cases but "paper" have numbers that float8 represents exactly, times a power of two: Triton's interpreter does
not carry when it rounds to eight bits, and differences in the last digit of erf could change a result by 1/16."""

from collections.abc import Callable
from typing import Any

import torch

from ld4lg_fast.kernels.testing import Arguments, OpCase


def random_arguments(rows: int, width: int) -> Callable[[torch.Generator], Arguments]:
    def make(generator: torch.Generator) -> Arguments:
        return {"x": torch.randn(rows, width, generator=generator, dtype=torch.float64)}

    return make


def exact_arguments(
    rows: int, width: int, spread: float = 1.0, strided: bool = False
) -> Callable[[torch.Generator], Arguments]:
    """x is (rows, width), each row ``spread`` times as large as the one before, -14 to 14 in the first."""

    def make(generator: torch.Generator) -> Arguments:
        x = torch.randint(-14, 15, (rows, width + (3 if strided else 0)), generator=generator).double()
        x = x[:, 1 : 1 + width] if strided else x
        x[:, 0] = -14
        x *= spread ** torch.arange(rows)[:, None]
        return {"x": x}

    return make


def gated_arguments(rows: int, width: int) -> Callable[[torch.Generator], Arguments]:
    """x is (rows, 2·width), its gates closed, 8 or 16, where GELU is exact; results are from -14 · 8 to 14 · 8."""

    def make(generator: torch.Generator) -> Arguments:
        value = torch.randint(-7, 8, (rows, width), generator=generator)
        gate = torch.tensor([-20, 8, 16])[torch.randint(3, (rows, width), generator=generator)]
        value[:, 0], gate[:, 0] = 7, 16
        bias = torch.randint(-2, 3, (2 * width,), generator=generator)
        return {"x": (torch.cat([value, gate], dim=1) - bias).double(), "geglu_bias": bias.double()}

    return make


def _quantize_rows(name: str, make: Callable[[torch.Generator], Arguments], **fields: Any) -> OpCase:
    return OpCase("quantize_rows", name, make, differentiable=False, capability=89, **fields)


AUTOCAST = {"keep": frozenset({"geglu_bias"}), "dtypes": (torch.bfloat16,)}

CASES = (
    _quantize_rows("paper", random_arguments(256, 768)),
    _quantize_rows("paper-geglu", gated_arguments(256, 3072)),
    _quantize_rows("small", exact_arguments(5, 8)),
    _quantize_rows("geglu", gated_arguments(7, 33)),
    _quantize_rows("autocast", gated_arguments(6, 64), **AUTOCAST),
    _quantize_rows("spread", exact_arguments(9, 65, spread=32.0)),
    _quantize_rows("strided", exact_arguments(5, 19, strided=True)),
    _quantize_rows("zeros", exact_arguments(3, 16, spread=0.0)),
    _quantize_rows("single-row", exact_arguments(1, 40)),
    _quantize_rows("empty", exact_arguments(0, 8)),
)


def benchmarks(batch: int) -> tuple[OpCase, ...]:
    """The inputs of two matmuls of the paper's denoiser block."""
    rows = 32 * batch
    return (
        _quantize_rows(f"{batch}x32x768", random_arguments(rows, 768)),
        _quantize_rows(f"{batch}x32x3072-geglu", gated_arguments(rows, 3072)),
    )
