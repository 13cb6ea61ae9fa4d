"""Attention of one new position of every text over its cache, in C++."""

from typing import Any

from torch import Tensor, get_num_threads

from ld4lg_fast.kernels.argument_checks import check_within
from ld4lg_fast.kernels.native import FLOAT, I32, I64, POINTER, address, function

_cached_attention = function(
    "ld4lg_cached_attention",
    [POINTER, I64, POINTER, POINTER, POINTER, POINTER, *[I64] * 2, POINTER, *[I64] * 7, FLOAT, I32],
)


def cached_attention(*arguments: Any) -> Tensor:
    """See `ops.cached_attention`."""
    query, keys, values, span, scale, chosen, bias = arguments
    sentences, heads, capacity, slots, width = keys.shape
    query = query if query.stride(1) == 1 else query.contiguous()
    texts = query.shape[0]
    out = query.new_empty((texts, heads * width))
    if not out.numel():
        return out
    strides = (0, 0)
    if bias is not None:
        bias = bias if bias.stride(2) == 1 else bias.contiguous()
        strides = (bias.stride(0) * (bias.shape[0] > 1), bias.stride(1) * (bias.shape[1] > 1))
    out_of_range = _cached_attention(
        query.data_ptr(),
        query.stride(0),
        keys.data_ptr(),
        values.data_ptr(),
        address(chosen),
        address(bias),
        *strides,
        out.data_ptr(),
        sentences,
        texts // sentences,
        heads,
        width,
        capacity,
        slots,
        span,
        float(scale),
        get_num_threads(),
    )
    if out_of_range and chosen is not None:
        _check_slots(chosen, span, slots)
    return out


def _check_slots(chosen: Tensor, span: int, slots: int) -> None:
    check_within("chosen", chosen[:, :, :span], 0, slots - 1)
