"""What `ops.add_layer_norm`, its operator and its backward take."""

from torch import Tensor

from ld4lg_fast.kernels.arguments.adaln_residual import check_stats
from ld4lg_fast.kernels.arguments.rules import check_device


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
    """What ``ld4lg::add_layer_norm_backward`` takes."""
    if not (grad_x.shape == grad_y.shape == x.shape) or not x.is_contiguous():
        raise ValueError(
            f"grad_x {tuple(grad_x.shape)} and grad_y {tuple(grad_y.shape)} need the shape of x, {tuple(x.shape)}, "
            "and x to be contiguous"
        )
    check(x, grad_x, weight, weight, 0.0)
    check_device("x grad_x grad_y stats", x, grad_x, grad_y, stats)
    check_stats(stats, 2, x.numel() // x.shape[-1])
