"""Registers ``ld4lg::add_layer_norm`` and its backward, which Triton alone implements.

Letters: D model width, R rows (all leading axes), P parts of `ROWS_PER_PART` rows.

The statistics are (2, R) float32, mean and 1/std of x. The backward operator gives the gradient of x, which is
branch's and residual's, and column sums (P, 2, D) float32: Σ grad_y·n and Σ grad_y over a part's rows, with n the
normalised x.
"""

import torch
from torch import Tensor

from ld4lg_fast.kernels.arguments.add_layer_norm import check, check_backward
from ld4lg_fast.kernels.layout import parts_of_group
from ld4lg_fast.kernels.library import register, register_autograd


def _fake(branch, residual, weight, bias, eps):
    x = branch.new_empty(branch.shape, dtype=torch.promote_types(branch.dtype, residual.dtype))
    y = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype))
    return x, y, x.new_empty((2, x.numel() // x.shape[-1]), dtype=torch.float32)


def _fake_backward(grad_x, grad_y, x, weight, stats):
    width = x.shape[-1]
    parts = parts_of_group(x.numel() // width)
    return x.new_empty(x.shape), x.new_empty((parts, 2, width), dtype=torch.float32)


register(
    "add_layer_norm(Tensor branch, Tensor residual, Tensor weight, Tensor bias, float eps)"
    " -> (Tensor x, Tensor y, Tensor stats)",
    _fake,
    check,
    "add_layer_norm",
    "forward",
)
register(
    "add_layer_norm_backward(Tensor grad_x, Tensor grad_y, Tensor x, Tensor weight, Tensor stats)"
    " -> (Tensor grad, Tensor sums)",
    _fake_backward,
    check_backward,
    "add_layer_norm",
    "backward",
)


def _setup(ctx, inputs, output) -> None:
    branch, residual, weight, bias, _ = inputs
    x, _, stats = output
    ctx.mark_non_differentiable(stats)
    ctx.save_for_backward(x, weight, stats)
    ctx.dtypes = branch.dtype, residual.dtype, bias.dtype


def _backward(ctx, grad_x: Tensor, grad_y: Tensor, _: Tensor):
    x, weight, stats = ctx.saved_tensors
    of_branch, of_residual, of_bias = ctx.dtypes
    grad, sums = torch.ops.ld4lg.add_layer_norm_backward(grad_x, grad_y, x, weight, stats)
    of_weight, plain = sums.sum(0).unbind(0)
    return grad.to(of_branch), grad.to(of_residual), of_weight.to(weight.dtype), plain.to(of_bias), None


register_autograd("add_layer_norm", _backward, _setup)
