"""Attention over short sequences in C++. Letters: B batch, N queries, M keys, H heads of width 64."""

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
from ld4lg_fast.kernels.short_attention.reference import DIM_HEAD

_SEQUENCE = [POINTER, I64, I64]
_INPUTS = [*_SEQUENCE, *_SEQUENCE, *_SEQUENCE, I32, POINTER, *4 * [I64], I32, POINTER, POINTER]
_INPUTS += [I64, I64, I64, I64, I32]
_forward = function("ld4lg_short_attention", [*_INPUTS, POINTER])
_backward = function("ld4lg_short_attention_backward", [*_INPUTS, *_SEQUENCE] + 6 * [POINTER])


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    q_gain: Tensor | None,
    k_gain: Tensor | None,
) -> Tensor:
    """(B, N, H·64) in q's dtype; bias (B, H, N, M)."""
    out = contiguous_like(q)
    if not out.numel() or not k.shape[1]:
        return out.zero_()
    inputs = _Inputs(q, k, v, bias, q_gain, k_gain)
    _forward(*inputs.described, out.data_ptr())
    return out


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    q_gain: Tensor | None,
    k_gain: Tensor | None,
) -> list[Tensor]:
    """See ``ld4lg::short_attention_backward`` in ``op.py``."""
    batch, queries, width = q.shape
    heads = width // DIM_HEAD
    found = [contiguous_like(x) for x in (q, k, v)]

    def room(*shape: int) -> Tensor:
        return q.new_empty(shape, dtype=torch.float32)

    grad_bias = None if bias is None else room(batch, heads, queries, k.shape[1])
    sums = [None if gain is None else room(batch, heads, DIM_HEAD) for gain in (q_gain, k_gain)]
    found += [x for x in (grad_bias, *sums) if x is not None]
    if not q.numel() or not k.numel():
        return [x.zero_() for x in found]
    inputs, grad = _Inputs(q, k, v, bias, q_gain, k_gain), _adjacent(grad)
    targets = (address(x) for x in (*found[:3], grad_bias, *sums))
    _backward(*inputs.described, *_sequence(grad), *targets)
    return found


class _Inputs:
    """What both functions take first, ``described``, and the tensors that its pointers need alive."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        q_gain: Tensor | None,
        k_gain: Tensor | None,
    ) -> None:
        q, k, v = map(_adjacent, (q, k, v))
        strides: tuple[int, ...] = (0, 0, 0, 0)
        bias_dtype = 0
        if bias is not None:
            bias = bias if bias.stride(3) in (0, 1) else bias.contiguous()
            strides, bias_dtype = bias.stride(), DTYPE_CODES[bias.dtype]
        if q_gain is not None and k_gain is not None:
            q_gain, k_gain = as_vector(q_gain), as_vector(k_gain)
        self.alive = q, k, v, bias, q_gain, k_gain
        self.described = (
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
