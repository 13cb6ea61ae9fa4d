"""Attention over short sequences in C++. Letters: B batch, N queries, M keys, H heads of width 64."""

from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels.native import (
    DTYPE_CODES,
    I32,
    I64,
    POINTER,
    address,
    as_vector,
    contiguous_like,
    function,
)
from ld4lg_fast.kernels.short_attention.arguments import Inputs
from ld4lg_fast.kernels.short_attention.reference import DIM_HEAD

_SEQUENCE = [POINTER, I64, I64]
_INPUTS = [*_SEQUENCE, *_SEQUENCE, *_SEQUENCE, I32, POINTER, *4 * [I64], I32, POINTER, POINTER]
_INPUTS += [I64, I64, I64, I64, I32]
_forward = function("ld4lg_short_attention", [*_INPUTS, POINTER])
_backward = function("ld4lg_short_attention_backward", [*_INPUTS, *_SEQUENCE] + 6 * [POINTER])


def forward(*arguments: Any) -> Tensor:
    """(B, N, H·64) in q's dtype; bias (B, H, N, M)."""
    inputs = Inputs(*arguments)
    out = contiguous_like(inputs.q)
    if not out.numel() or not inputs.k.shape[1]:
        return out.zero_()
    block = _Block(inputs)
    _forward(*block.values, out.data_ptr())
    return out


def backward(grad: Tensor, *arguments: Any) -> list[Tensor]:
    """See ``ld4lg::short_attention_backward`` in ``op.py``."""
    inputs = Inputs(*arguments)
    targets = inputs.gradients()
    found = [x for x in targets if x is not None]
    if not inputs.q.numel() or not inputs.k.numel():
        return [x.zero_() for x in found]
    block, grad = _Block(inputs), _adjacent(grad)
    _backward(*block.values, *_sequence(grad), *map(address, targets))
    return found


class _Block:
    """``values``: the first arguments of both C++ functions. Keeps the tensors alive that its pointers need."""

    def __init__(self, inputs: Inputs) -> None:
        q, k, v, bias, q_gain, k_gain = inputs
        q, k, v = map(_adjacent, (q, k, v))
        strides: tuple[int, ...] = (0, 0, 0, 0)
        bias_dtype = 0
        if bias is not None:
            bias = bias if bias.stride(3) in (0, 1) else bias.contiguous()
            strides, bias_dtype = bias.stride(), DTYPE_CODES[bias.dtype]
        if q_gain is not None and k_gain is not None:
            q_gain, k_gain = as_vector(q_gain), as_vector(k_gain)
        self.alive = q, k, v, bias, q_gain, k_gain
        self.values = (
            *(value for x in (q, k, v) for value in _sequence(x)),
            DTYPE_CODES[q.dtype],
            address(bias),
            *strides,
            bias_dtype,
            address(q_gain),
            address(k_gain),
            q.shape[0],
            q.shape[1],
            k.shape[1],
            q.shape[2] // DIM_HEAD,
            torch.get_num_threads(),
        )


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


def _sequence(x: Tensor) -> tuple[int, int, int]:
    return x.data_ptr(), x.stride(0), x.stride(1)
