"""Products with few rows in C++: x Wᵀ + bias, or its GELU, + residual, bound by reading W once.

Letters: R rows, I inputs, O outputs.
"""

import ctypes

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.kernels.native import DTYPE_CODES, I32, I64, POINTER, address, function, query

PANEL = 16
LEVELS = 127  # of a byte and its sign
CACHE_PERIOD = 1024  # floats: rows that lie a multiple of this apart fight for the same lines of the cache

_OUTPUT = [POINTER, POINTER, I64, POINTER, I64, I64, I64, I64, I32, I32]
_linear = function("ld4lg_linear", [POINTER, I64, POINTER, I32, *_OUTPUT])
_int8_linear = function("ld4lg_int8_linear", [POINTER, I64, POINTER, POINTER, *_OUTPUT])
multiplies_bytes = query("ld4lg_multiplies_bytes", ctypes.c_bool)


def pack(weight: Tensor) -> Tensor:
    """A weight (O, I) float32 or bfloat16 in the order that `linear` reads."""
    if weight.dtype == torch.float32:
        return _whole(weight, PANEL).unflatten(0, (-1, PANEL)).permute(0, 2, 1).contiguous()
    return _whole(weight, 2 * PANEL).unflatten(0, (-1, 2, PANEL)).permute(0, 3, 2, 1).contiguous()


def pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (O, I) rounded to bytes in the order that `int8_linear` reads, and its rows' scales (O,) float32."""
    weight = weight.float()
    scales = weight.abs().amax(dim=1).clamp(min=1e-30) / LEVELS
    levels = _whole((weight / scales[:, None]).round_(), PANEL)
    levels = F.pad(levels, (0, -levels.shape[1] % 4)).add_(128).to(torch.uint8)
    return levels.unflatten(0, (-1, PANEL)).unflatten(2, (-1, 4)).permute(0, 2, 1, 3).contiguous(), scales


def _whole(weight: Tensor, rows: int) -> Tensor:
    """With rows of zeros up to a multiple of ``rows``."""
    return F.pad(weight, (0, 0, 0, -len(weight) % rows))


def linear(
    x: Tensor,
    packed: Tensor,
    outputs: int,
    bias: Tensor | None,
    residual: Tensor | None,
    gelu: bool = False,
) -> Tensor:
    """(R, O) of x (R, I), bias (O,) and residual (R, O), all float32; ``packed`` is what `pack` gave."""
    x, residual = _adjacent(x), _adjacent(residual)
    y, arguments = _output(x, outputs, bias, residual, gelu)
    _linear(x.data_ptr(), x.stride(0), packed.data_ptr(), DTYPE_CODES[packed.dtype], *arguments)
    return y


def int8_linear(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    gelu: bool = False,
) -> Tensor:
    """The same with the rows of x rounded to bytes; ``packed`` and ``scales`` are what `pack_int8` gave."""
    x, residual = _adjacent(x), _adjacent(residual)
    y, arguments = _output(x, len(scales), bias, residual, gelu)
    _int8_linear(x.data_ptr(), x.stride(0), packed.data_ptr(), scales.data_ptr(), *arguments)
    return y


def _adjacent(matrix: Tensor | None) -> Tensor | None:
    """The matrix with the elements of a row side by side."""
    return matrix if matrix is None or matrix.stride(1) == 1 else matrix.contiguous()


def _output(x: Tensor, outputs: int, bias: Tensor | None, residual: Tensor | None, gelu: bool) -> tuple:
    """y (R, O) to be written, and the C functions' arguments from the bias on."""
    rows, inputs = x.shape
    apart = outputs + (PANEL if outputs % CACHE_PERIOD == 0 else 0)
    y = x.new_empty((rows, apart))[:, :outputs]
    return y, (
        address(bias),
        address(residual),
        0 if residual is None else residual.stride(0),
        y.data_ptr(),
        apart,
        rows,
        inputs,
        outputs,
        gelu,
        torch.get_num_threads(),
    )
