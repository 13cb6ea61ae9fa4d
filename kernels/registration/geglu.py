"""Registers ``ld4lg::geglu`` and its backward.

Letters: F width of value and gate, R rows (all leading axes), P parts of `ROWS_PER_PART` rows.

The backward operator gives the gradient of projected and the column sums (P, 2F) float32 of the gradient's
unrounded rows, a row of sums for each part: the gradient of the bias.
"""

import torch
from torch import Tensor

from ld4lg_fast.kernels.arguments.geglu import check_backward, check_operator
from ld4lg_fast.kernels.library import operator, register, register_autograd

ROWS_PER_PART = 32


def parts_of(rows: int) -> int:
    """P for R rows."""
    return (rows + ROWS_PER_PART - 1) // ROWS_PER_PART


def _fake(projected, bias, seed, dropout):
    return projected.new_empty((*projected.shape[:-1], projected.shape[-1] // 2))


def _fake_backward(grad, projected, bias, seed, dropout):
    width = projected.shape[-1]
    parts = parts_of(projected.numel() // width)
    return projected.new_empty(projected.shape), projected.new_empty((parts, width), dtype=torch.float32)


register(
    "geglu(Tensor projected, Tensor bias, Tensor? seed, float dropout) -> Tensor",
    _fake,
    check_operator,
    "geglu",
    "forward",
)
register(
    "geglu_backward(Tensor grad, Tensor projected, Tensor bias, Tensor? seed, float dropout)"
    " -> (Tensor grad_projected, Tensor sums)",
    _fake_backward,
    check_backward,
    "geglu",
    "backward",
)

_geglu_backward = operator("geglu_backward")


def _setup(ctx, inputs, output) -> None:
    projected, bias, seed, ctx.dropout = inputs
    ctx.save_for_backward(projected, bias, seed)


def _backward(ctx, grad: Tensor):
    projected, bias, seed = ctx.saved_tensors
    grad_projected, sums = _geglu_backward(grad, projected, bias, seed, ctx.dropout)
    return grad_projected, sums.sum(0).to(bias.dtype), None, None


register_autograd("geglu", _backward, _setup)
