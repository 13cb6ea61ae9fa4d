"""Products with few rows in C++: x Wᵀ + bias, or its GELU, + residual, bound by reading W once. R rows, I, O widths."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.native import I32, I64, POINTER, function

PANEL = 16

_pack = function("ld4lg_pack_linear", [POINTER, I64, I64, POINTER])
_linear = function(
    "ld4lg_linear", [POINTER, I64, POINTER, POINTER, POINTER, I64, POINTER, I64, I64, I64, I64, I32, I32]
)


def pack(weight: Tensor) -> Tensor:
    """A weight (O, I) float32 in the order that `linear` reads."""
    outputs, inputs = weight.shape
    packed = weight.new_empty(-(-outputs // PANEL) * PANEL * inputs)
    weight = weight.contiguous()
    _pack(weight.data_ptr(), inputs, outputs, packed.data_ptr())
    return packed


def linear(
    x: Tensor,
    packed: Tensor,
    outputs: int,
    bias: Tensor | None,
    residual: Tensor | None,
    gelu: bool = False,
) -> Tensor:
    """(R, O) of x (R, I), bias (O,) and residual (R, O), all float32; ``packed`` is what `pack` gave."""
    rows, inputs = x.shape
    y = x.new_empty((rows, outputs))
    x = x if x.stride(1) == 1 else x.contiguous()
    if residual is not None and residual.stride(1) != 1:
        residual = residual.contiguous()
    _linear(
        x.data_ptr(),
        x.stride(0),
        packed.data_ptr(),
        None if bias is None else bias.data_ptr(),
        None if residual is None else residual.data_ptr(),
        0 if residual is None else residual.stride(0),
        y.data_ptr(),
        outputs,
        rows,
        inputs,
        outputs,
        gelu,
        torch.get_num_threads(),
    )
    return y
