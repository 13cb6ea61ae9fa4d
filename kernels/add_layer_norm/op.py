"""Residual add and layer norm in one pass. Only Triton has a kernel for it.

Letters: B batch, N positions, D model width, R rows (all leading axes), P parts of `ROWS_PER_PART` rows.

The statistics are (2, R) float32, mean and 1/std of x. The backward operator gives the gradient of x, which
is that of branch and of residual, and column sums (P, 2, D) float32: Σ grad_y·n and Σ grad_y over a part's rows,
with n the normalized x.
"""

from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.adaln_residual.op import check_stats
from ld4lg_fast.kernels.add_layer_norm import reference
from ld4lg_fast.kernels.argument_checks import check_device
from ld4lg_fast.kernels.layout import parts_of_group
from ld4lg_fast.kernels.library import operator, register, register_autograd


def check(branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """Refuses shapes and devices that do not fit.

    Raises:
        ValueError: naming them.
    """
    if residual.shape != branch.shape:
        raise ValueError(
            f"residual has shape {tuple(residual.shape)}; it needs branch's, {tuple(branch.shape)}"
        )
    if not branch.ndim or branch.shape[-1] == 0:
        raise ValueError(f"branch has shape {tuple(branch.shape)}; its last axis needs at least one element")
    width = (branch.shape[-1],)
    if weight.shape != width or bias.shape != width:
        raise ValueError(
            f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)} need {width}, branch's last axis"
        )
    check_device("branch residual weight bias", branch, residual, weight, bias)


def check_backward(grad_x: Tensor, grad_y: Tensor, x: Tensor, weight: Tensor, stats: Tensor) -> None:
    """Checks the arguments of ``ld4lg::add_layer_norm_backward``."""
    if not (grad_x.shape == grad_y.shape == x.shape) or not x.is_contiguous():
        raise ValueError(
            f"grad_x {tuple(grad_x.shape)} and grad_y {tuple(grad_y.shape)} need the shape of x, {tuple(x.shape)}, "
            "and x to be contiguous"
        )
    check(x, grad_x, weight, weight, 0.0)
    check_device("x grad_x grad_y stats", x, grad_x, grad_y, stats)
    check_stats(stats, 2, x.numel() // x.shape[-1])


def _fake(
    branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    x = branch.new_empty(branch.shape, dtype=torch.promote_types(branch.dtype, residual.dtype))
    y = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype))
    return x, y, x.new_empty((2, x.numel() // x.shape[-1]), dtype=torch.float32)


def _fake_backward(
    grad_x: Tensor, grad_y: Tensor, x: Tensor, weight: Tensor, stats: Tensor
) -> tuple[Tensor, Tensor]:
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


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    branch, residual, weight, bias, _ = inputs
    x, _, stats = output
    ctx.mark_non_differentiable(stats)
    ctx.save_for_backward(x, weight, stats)
    ctx.dtypes = branch.dtype, residual.dtype, bias.dtype


def _backward(ctx: Any, grad_x: Tensor, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, stats = ctx.saved_tensors
    of_branch, of_residual, of_bias = ctx.dtypes
    grad, sums = torch.ops.ld4lg.add_layer_norm_backward(grad_x, grad_y, x, weight, stats)
    of_weight, plain = sums.sum(0).unbind(0)
    return grad.to(of_branch), grad.to(of_residual), of_weight.to(weight.dtype), plain.to(of_bias), None


register_autograd("add_layer_norm", _backward, _setup)


_add_layer_norm = operator("add_layer_norm")


def add_layer_norm(
    branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Residual add and the pre-norm of the next sub-block: ``x = residual + branch``, ``y = LN(x)``.

    One kernel on a GPU; two functions of torch on a CPU, where a fused loop was not faster.

    Computes in float32. The inputs' dtypes may differ. All tensors have derivatives.

    Args:
        branch: (B, N, D), or any leading axes. residual: the shape of branch.
        weight, bias: (D,) of the norm.
        eps: added to the variance.

    Returns:
        x in the promoted dtype of branch and residual, y in the promoted dtype of x and weight.

    Raises:
        ValueError: shapes or devices that do not fit; the message names them.
        BackendUnavailableError: a backend requested by name cannot run these tensors.
    """
    check(branch, residual, weight, bias, eps)
    dtypes = (branch.dtype, residual.dtype, weight.dtype, bias.dtype)
    if backend.choose("add_layer_norm", branch.device.type, dtypes) != "triton":
        return reference.add_layer_norm(branch, residual, weight, bias, eps)
    x, y, _ = _add_layer_norm(branch, residual, weight, bias, eps)
    return x, y
