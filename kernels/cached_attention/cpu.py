"""Attention of one new position of every text over its cache, in C++."""

from typing import Any

from torch import Tensor, get_num_threads

from ld4lg_fast.kernels.argument_checks import check_within
from ld4lg_fast.kernels.native import FLOAT, I32, I64, POINTER, address, function

_cached_attention = function(
    "ld4lg_cached_attention",
    [
        POINTER,
        I64,
        *[POINTER] * 4,
        *[I64] * 2,
        POINTER,
        I64,
        POINTER,
        I64,
        *[POINTER] * 3,
        *[I64] * 9,
        FLOAT,
        FLOAT,
        I32,
    ],
)


def cached_attention(*arguments: Any) -> Tensor:
    """See `ops.cached_attention`."""
    query, keys, values, span, scale, chosen, bias, key, value, rotary, window, softcap = arguments
    sentences, heads, capacity, slots, width = keys.shape
    query = _adjacent(query)
    texts, columns = query.shape
    out = query.new_empty((texts, columns))
    if not out.numel():
        return out
    strides = (0, 0)
    if bias is not None:
        bias = bias if bias.stride(2) == 1 else bias.contiguous()
        strides = (bias.stride(0) * (bias.shape[0] > 1), bias.stride(1) * (bias.shape[1] > 1))
    new: tuple[int, ...] = (0, 0, 0, 0)
    if key is not None:
        key, value = _adjacent(key), _adjacent(value)
        new = (key.data_ptr(), key.stride(0), value.data_ptr(), value.stride(0))
    rotation = (0, 0)
    if rotary is not None:
        rotary = rotary if rotary.stride(1) == 1 else rotary.contiguous()
        rotation = (rotary.data_ptr(), rotary.data_ptr() + rotary.stride(0) * rotary.element_size())
    out_of_range = _cached_attention(
        query.data_ptr(),
        query.stride(0),
        keys.data_ptr(),
        values.data_ptr(),
        address(chosen),
        address(bias),
        *strides,
        *new,
        *rotation,
        out.data_ptr(),
        sentences,
        texts // sentences,
        heads,
        columns // (heads * width),
        width,
        capacity,
        slots,
        span,
        0 if window is None else max(0, span - window),
        float(scale),
        0.0 if softcap is None else float(softcap),
        get_num_threads(),
    )
    if out_of_range and chosen is not None:
        check_within("chosen", chosen[:, :, :span], 0, slots - 1)
    return out


def _adjacent(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
