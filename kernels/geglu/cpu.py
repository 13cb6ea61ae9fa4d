"""Bias, split, value·GELU(gate) and dropout in C++. Letters: F width of value and of gate, R rows."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.geglu.op import ROWS_PER_PART, parts_of
from ld4lg_fast.kernels.geglu.reference import dropout_threshold
from ld4lg_fast.kernels.native import (
    FLOAT,
    I32,
    I64,
    POINTER,
    ROWS,
    U32,
    U64,
    as_matrix,
    as_vector,
    contiguous_like,
    describe,
    function,
)

_DROPOUT = [U64, U32, FLOAT]
_forward = function("ld4lg_geglu", [*ROWS, POINTER, *ROWS, *_DROPOUT, I64, I64, I32])
_backward = function(
    "ld4lg_geglu_backward", [*ROWS, *ROWS, POINTER, *ROWS, POINTER, *_DROPOUT, I64, I64, I64, I32]
)


def forward(projected: Tensor, bias: Tensor, seed: Tensor | None, dropout: float) -> Tensor:
    """(…, F) in projected's dtype."""
    width = projected.shape[-1] // 2
    out = projected.new_empty((*projected.shape[:-1], width))
    rows = out.numel() // width
    if rows:
        (projected, of_projected), bias = as_matrix(projected, 2 * width), as_vector(bias)
        _forward(
            *of_projected,
            bias.data_ptr(),
            *describe(out, width),
            *_mask(seed, dropout),
            rows,
            width,
            torch.get_num_threads(),
        )
    return out


def backward(
    grad: Tensor, projected: Tensor, bias: Tensor, seed: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """See ``ld4lg::geglu_backward`` in ``op.py``."""
    width = projected.shape[-1] // 2
    rows = grad.numel() // width
    grad_projected = contiguous_like(projected)
    sums = projected.new_empty((parts_of(rows), 2 * width), dtype=torch.float32)
    if rows:
        grad, of_grad = as_matrix(grad, width)
        projected, of_projected = as_matrix(projected, 2 * width)
        bias = as_vector(bias)
        _backward(
            *of_grad,
            *of_projected,
            bias.data_ptr(),
            *describe(grad_projected, 2 * width),
            sums.data_ptr(),
            *_mask(seed, dropout),
            rows,
            width,
            ROWS_PER_PART,
            torch.get_num_threads(),
        )
    return grad_projected, sums


def _mask(seed: Tensor | None, dropout: float) -> tuple[int, int, float]:
    """Seed, threshold and the factor of kept elements; the factor 0 means no dropout."""
    if seed is None:
        return 0, 0, 0.0
    return int(seed.item()) % 2**64, dropout_threshold(dropout), 1 / (1 - dropout)
