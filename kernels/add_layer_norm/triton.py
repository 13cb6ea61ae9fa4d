"""Residual add and layer norm in Triton, forward and backward. Letters: D model width, R rows."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ld4lg_fast.kernels.layout import ROWS_PER_PART, as_rows, parts_of_group
from ld4lg_fast.kernels.triton import centered, launch_options, load_floats, through_norm


@triton.jit(do_not_specialize=["rows"])
def add_layer_norm_forward(
    branch_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    x_ptr: tl.tensor,
    y_ptr: tl.tensor,
    stats_ptr: tl.tensor,
    branch_stride: tl.tensor,
    residual_stride: tl.tensor,
    rows: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    keep = columns < WIDTH
    branch = load_floats(branch_ptr + row * branch_stride + columns, keep)
    residual = load_floats(residual_ptr + row * residual_stride + columns, keep)
    weight = load_floats(weight_ptr + columns, keep)
    bias = load_floats(bias_ptr + columns, keep)
    x = (residual + branch).to(x_ptr.dtype.element_ty)
    tl.store(x_ptr + row * WIDTH + columns, x, mask=keep)
    mean, difference, rstd = centered(x.to(tl.float32), keep, eps, WIDTH)
    y = difference * rstd * weight + bias
    tl.store(y_ptr + row * WIDTH + columns, y.to(y_ptr.dtype.element_ty), mask=keep)
    tl.store(stats_ptr + row, mean)
    tl.store(stats_ptr + rows + row, rstd)


@triton.jit(do_not_specialize=["rows"])
def add_layer_norm_backward(
    grad_x_ptr: tl.tensor,
    grad_y_ptr: tl.tensor,
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    stats_ptr: tl.tensor,
    grad_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    grad_x_stride: tl.tensor,
    grad_y_stride: tl.tensor,
    rows: tl.tensor,
    ROWS_PER_PART: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program for ROWS_PER_PART rows: their gradients, and the column sums of the part."""
    part = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    keep = columns < WIDTH
    weight = load_floats(weight_ptr + columns, keep)
    sum_normed = tl.zeros((BLOCK,), tl.float32)
    sum_grad = tl.zeros((BLOCK,), tl.float32)
    first = part * ROWS_PER_PART
    for i in range(0, tl.minimum(ROWS_PER_PART, rows - first)):
        row = first + i
        grad_x = load_floats(grad_x_ptr + row * grad_x_stride + columns, keep)
        grad_y = load_floats(grad_y_ptr + row * grad_y_stride + columns, keep)
        x = load_floats(x_ptr + row * WIDTH + columns, keep)
        mean = tl.load(stats_ptr + row)
        rstd = tl.load(stats_ptr + rows + row)
        normed = tl.where(keep, (x - mean) * rstd, 0.0)
        sum_normed += grad_y * normed
        sum_grad += grad_y
        grad = grad_x + through_norm(grad_y * weight, normed, rstd, WIDTH)
        tl.store(grad_ptr + row * WIDTH + columns, grad.to(grad_ptr.dtype.element_ty), mask=keep)
    sums = sums_ptr + part * 2 * WIDTH + columns
    tl.store(sums, sum_normed, mask=keep)
    tl.store(sums + WIDTH, sum_grad, mask=keep)


def forward(
    branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and statistics (2, R) float32."""
    width = branch.shape[-1]
    rows = branch.numel() // width
    x = branch.new_empty(branch.shape, dtype=torch.promote_types(branch.dtype, residual.dtype))
    y = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype))
    stats = x.new_empty((2, rows), dtype=torch.float32)
    if rows:
        branch, residual = as_rows(branch, width), as_rows(residual, width)
        add_layer_norm_forward[(rows,)](
            branch,
            residual,
            weight.contiguous(),
            bias.contiguous(),
            x,
            y,
            stats,
            branch.stride(0),
            residual.stride(0),
            rows,
            eps,
            WIDTH=width,
            **launch_options(width),
        )
    return x, y, stats


def backward(
    grad_x: Tensor, grad_y: Tensor, x: Tensor, weight: Tensor, stats: Tensor
) -> tuple[Tensor, Tensor]:
    """See ``ld4lg::add_layer_norm_backward`` in ``op.py``."""
    width = x.shape[-1]
    rows = x.numel() // width
    grad = x.new_empty(x.shape)
    sums = x.new_empty((parts_of_group(rows), 2, width), dtype=torch.float32)
    if rows:
        grad_x, grad_y = as_rows(grad_x, width), as_rows(grad_y, width)
        add_layer_norm_backward[(parts_of_group(rows),)](
            grad_x,
            grad_y,
            x,
            weight.contiguous(),
            stats,
            grad,
            sums,
            grad_x.stride(0),
            grad_y.stride(0),
            rows,
            ROWS_PER_PART=ROWS_PER_PART,
            WIDTH=width,
            **launch_options(width),
        )
    return grad, sums
