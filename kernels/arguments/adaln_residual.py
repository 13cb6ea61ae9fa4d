"""What `ops.adaln_residual`, its operators and their backward take. Letters: D model width, R rows, G groups."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.arguments.rules import check_device


def check(
    h: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    next_weight: Tensor | None,
    next_bias: Tensor | None,
) -> None:
    """Refuses shapes and devices that do not fit, but for how scale and shift broadcast.

    Raises:
        ValueError: naming them.
    """
    shape = h.shape
    if residual.shape != shape:
        raise ValueError(f"residual has shape {tuple(residual.shape)}; it needs h's, {tuple(shape)}")
    if (next_weight is None) != (next_bias is None):
        raise ValueError("next_weight and next_bias come together; give both or neither")
    if not shape or shape[-1] == 0:
        raise ValueError(f"h has shape {tuple(shape)}; its last axis needs at least one element")
    width = (shape[-1],)
    vectors = (("weight", weight), ("bias", bias), ("next_weight", next_weight), ("next_bias", next_bias))
    for name, vector in vectors:
        if vector is not None and vector.shape != width:
            raise ValueError(f"{name} has shape {tuple(vector.shape)}; it needs {width}, h's last axis")
    check_device(
        "h residual weight bias scale shift next_weight next_bias",
        *(h, residual, weight, bias, scale, shift, next_weight, next_bias),
    )


def check_groups(scale: Tensor, rows: int, width: int) -> None:
    """Refuses scales (…, D) that are not one for each of some equally large groups of the rows.

    Raises:
        ValueError: naming their shape.
    """
    groups, rest = divmod(scale.numel(), width)
    if scale.shape[-1:] != (width,) or rest or (rows % groups if groups else rows):
        raise ValueError(
            f"scale has shape {tuple(scale.shape)}; it needs (…, {width}) and a number of rows that divides h's {rows}"
        )


def check_operator(
    h: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> None:
    """What ``ld4lg::adaln_residual`` takes: scale and shift as `layout.grouped_modulation` gives them."""
    check_operator_norm(h, residual, weight, bias, scale, shift, None, None, eps)


def check_operator_norm(
    h: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    next_weight: Tensor | None,
    next_bias: Tensor | None,
    eps: float,
) -> None:
    """The same of ``ld4lg::adaln_residual_norm``."""
    check(h, residual, weight, bias, scale, shift, next_weight, next_bias)
    if scale.shape != shift.shape:
        raise ValueError(f"shift has shape {tuple(shift.shape)}; it needs scale's, {tuple(scale.shape)}")
    check_groups(scale, h.numel() // h.shape[-1], h.shape[-1])


def check_backward(
    grad_x: Tensor,
    grad_y: Tensor | None,
    h: Tensor,
    x: Tensor | None,
    weight: Tensor,
    scale: Tensor,
    next_weight: Tensor | None,
    stats: Tensor,
) -> None:
    """What ``ld4lg::adaln_residual_backward`` takes."""
    if grad_x.shape != h.shape:
        raise ValueError(f"grad_x has shape {tuple(grad_x.shape)}; it needs h's, {tuple(h.shape)}")
    check(h, grad_x, weight, weight, scale, scale, next_weight, next_weight)
    if not (grad_y is None) == (x is None) == (next_weight is None):
        raise ValueError("grad_y, x and next_weight come together; give all or none")
    check_device("h grad_x grad_y x stats", h, grad_x, grad_y, x, stats)
    width = h.shape[-1]
    rows = h.numel() // width
    check_groups(scale, rows, width)
    if grad_y is not None and not (grad_y.shape == x.shape == h.shape):
        raise ValueError(
            f"grad_y {tuple(grad_y.shape)} and x {tuple(x.shape)} need h's shape, {tuple(h.shape)}"
        )
    if x is not None and (x.dtype != grad_x.dtype or not x.is_contiguous()):
        raise ValueError(f"x is {x.dtype}; it needs grad_x's dtype, {grad_x.dtype}, and to be contiguous")
    check_stats(stats, 2 if x is None else 4, rows)


def check_stats(stats: Tensor, kinds: int, rows: int) -> None:
    """Refuses statistics that are not what the forward pass gave.

    Raises:
        ValueError: naming their shape and dtype.
    """
    if stats.shape != (kinds, rows) or stats.dtype != torch.float32 or not stats.is_contiguous():
        raise ValueError(
            f"stats is {stats.dtype} {tuple(stats.shape)}; it needs contiguous float32 of {(kinds, rows)}"
        )
