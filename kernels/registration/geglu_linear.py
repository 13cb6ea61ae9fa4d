"""Registers ``ld4lg::geglu_linear``.

Backward computes the product again and goes through ``ld4lg::geglu_backward``: the (…, 2F) product is not kept.
"""

import torch
from torch import Tensor

from ld4lg_fast.kernels.arguments.geglu_linear import check_operator
from ld4lg_fast.kernels.library import register, register_autograd
from ld4lg_fast.kernels.registration import geglu as _geglu  # noqa: F401


def _fake(x, weight, bias, seed, dropout):
    return x.new_empty((*x.shape[:-1], weight.shape[0] // 2))


register(
    "geglu_linear(Tensor x, Tensor weight, Tensor bias, Tensor? seed, float dropout) -> Tensor",
    _fake,
    check_operator,
    "geglu_linear",
    "forward",
)


def _setup(ctx, inputs, output) -> None:
    x, weight, bias, seed, ctx.dropout = inputs
    ctx.save_for_backward(x, weight, bias, seed)


def _backward(ctx, grad: Tensor):
    x, weight, bias, seed = ctx.saved_tensors
    projected = torch.nn.functional.linear(x, weight)
    grad_projected, sums = torch.ops.ld4lg.geglu_backward(grad, projected, bias, seed, ctx.dropout)
    grad_x = grad_projected @ weight
    grad_weight = grad_projected.flatten(0, -2).t() @ x.flatten(0, -2)
    return grad_x, grad_weight, sums.sum(0).to(bias.dtype), None, None


register_autograd("geglu_linear", _backward, _setup)
