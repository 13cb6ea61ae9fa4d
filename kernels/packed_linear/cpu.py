"""Matmuls with few rows in C++: x Wᵀ + bias, or its GELU, + residual. The time is that of reading W once.

Letters: R rows, I inputs, O outputs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.kernels.native import DTYPE_CODES, I32, I64, POINTER, address, function

PANEL = 16
CACHE_PERIOD = 1024  # floats: rows with a multiple of this as their stride share the same cache lines

_linear = function(
    "ld4lg_linear",
    [POINTER, I64, POINTER, I32, POINTER, POINTER, I64, POINTER, I64, I64, I64, I64, I32, I32],
)


def pack(weight: Tensor) -> Tensor:
    """A weight (O, I) float32 or bfloat16 in the order that `linear` reads."""
    if weight.dtype == torch.float32:
        return _whole(weight, PANEL).unflatten(0, (-1, PANEL)).permute(0, 2, 1).contiguous()
    return _whole(weight, 2 * PANEL).unflatten(0, (-1, 2, PANEL)).permute(0, 3, 2, 1).contiguous()


def _whole(weight: Tensor, rows: int) -> Tensor:
    """Pads with rows of zeros to a multiple of ``rows``."""
    return F.pad(weight, (0, 0, 0, -len(weight) % rows))


def linear(
    x: Tensor,
    packed: Tensor,
    outputs: int,
    bias: Tensor | None,
    residual: Tensor | None,
    gelu: bool = False,
) -> Tensor:
    """(R, O) of x (R, I), bias (O,) and residual (R, O), all float32; ``packed`` comes from `pack`."""
    x, residual = _adjacent(x), None if residual is None else _adjacent(residual)
    rows, inputs = x.shape
    apart = outputs + (PANEL if outputs % CACHE_PERIOD == 0 else 0)
    y = x.new_empty((rows, apart))
    y = y if apart == outputs else y[:, :outputs]
    _linear(
        x.data_ptr(),
        x.stride(0),
        packed.data_ptr(),
        DTYPE_CODES[packed.dtype],
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
    return y


def _adjacent(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
