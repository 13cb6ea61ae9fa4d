"""bfloat16 and int8 matmuls in C++ with weights packed once. Letters: R rows, I inputs, O outputs."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.native import DTYPE_CODES, I32, I64, POINTER, ROWS, address, function

PANEL = 32
KINDS = {torch.bfloat16: 0, torch.int8: 1}

_pack = function("ld4lg_pack_narrow", [I32, POINTER, I64, I64, I32, POINTER])
_order = function("ld4lg_narrow_order", [I64, I32, POINTER])
_linear = function(
    "ld4lg_narrow_linear", [I32, *ROWS, POINTER, POINTER, POINTER, POINTER, *ROWS, I64, I64, I64, I32, I32]
)


def pack(weight: Tensor, geglu: bool) -> Tensor:
    """A weight (O, I) bfloat16 or int8 in the order that `linear` reads."""
    outputs, inputs = weight.shape
    words = -(-inputs * weight.element_size() // 4)
    packed = weight.new_empty(-(-outputs // PANEL) * PANEL * words, dtype=torch.int32)
    weight = weight.contiguous()  # kept alive during the call
    _pack(KINDS[weight.dtype], weight.data_ptr(), inputs, outputs, geglu, packed.data_ptr())
    return packed


def in_order(values: Tensor, geglu: bool) -> Tensor:
    """Numbers of the outputs (O,) in the order of the packed weight, zeros after the last one."""
    order = values.new_empty(-(-len(values) // PANEL) * PANEL, dtype=torch.int64)
    _order(len(values), geglu, order.data_ptr())
    return torch.where(order < 0, 0, values[order]).contiguous()


def linear(
    x: Tensor,
    packed: Tensor,
    kind: torch.dtype,
    outputs: int,
    scales: Tensor | None,
    sums: Tensor | None,
    bias: Tensor | None,
    geglu: bool,
) -> Tensor:
    """(R, outputs) of x (R, I) float32 or bfloat16, in x's dtype; the other tensors come from `pack` and `in_order`."""
    rows, inputs = x.shape
    y = x.new_empty((rows, outputs))
    if rows:
        x = x if x.stride(1) == 1 else x.contiguous()
        dtype = DTYPE_CODES[x.dtype]
        _linear(
            KINDS[kind],
            x.data_ptr(),
            x.stride(0),
            dtype,
            packed.data_ptr(),
            address(scales),
            address(sums),
            address(bias),
            y.data_ptr(),
            outputs,
            dtype,
            rows,
            inputs,
            outputs,
            geglu,
            torch.get_num_threads(),
        )
    return y
