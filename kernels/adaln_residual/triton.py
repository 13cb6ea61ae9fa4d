"""The fused post-norm, modulation, residual and next pre-norm in Triton, forward and backward.

Letters: D model width, R rows, G groups of rows that share scale and shift, P parts of a group.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ld4lg_fast.kernels.adaln_residual.arguments import BackwardInputs, Inputs, outputs
from ld4lg_fast.kernels.layout import ROWS_PER_PART, as_rows
from ld4lg_fast.kernels.triton import centered, launch_options, load_floats, through_norm


@triton.jit(do_not_specialize=["rows", "rows_per_group"])
def adaln_residual_forward(
    h_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    shift_ptr: tl.tensor,
    next_weight_ptr: tl.tensor,
    next_bias_ptr: tl.tensor,
    x_ptr: tl.tensor,
    y_ptr: tl.tensor,
    stats_ptr: tl.tensor,
    h_stride: tl.tensor,
    residual_stride: tl.tensor,
    scale_stride: tl.tensor,
    shift_stride: tl.tensor,
    rows: tl.tensor,
    rows_per_group: tl.tensor,
    eps: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_NEXT: tl.constexpr,
) -> None:
    """One program a row: x and, with HAS_NEXT, y; the row's statistics go to stats[:, row]."""
    row = tl.program_id(0).to(tl.int64)
    group = row // rows_per_group
    columns = tl.arange(0, BLOCK)
    keep = columns < WIDTH

    h = load_floats(h_ptr + row * h_stride + columns, keep)
    residual = load_floats(residual_ptr + row * residual_stride + columns, keep)
    scale = load_floats(scale_ptr + group * scale_stride + columns, keep)
    shift = load_floats(shift_ptr + group * shift_stride + columns, keep)
    weight = load_floats(weight_ptr + columns, keep)
    bias = load_floats(bias_ptr + columns, keep)

    mean, difference, rstd = centered(h, keep, eps, WIDTH)
    x = residual + (1.0 + scale) * (difference * rstd * weight + bias) + shift
    x = x.to(x_ptr.dtype.element_ty)
    tl.store(x_ptr + row * WIDTH + columns, x, mask=keep)
    tl.store(stats_ptr + row, mean)
    tl.store(stats_ptr + rows + row, rstd)

    if HAS_NEXT:
        next_weight = load_floats(next_weight_ptr + columns, keep)
        next_bias = load_floats(next_bias_ptr + columns, keep)
        stored = tl.where(keep, x.to(tl.float32), 0.0)
        mean, difference, rstd = centered(stored, keep, eps, WIDTH)
        y = difference * rstd * next_weight + next_bias
        tl.store(y_ptr + row * WIDTH + columns, y.to(y_ptr.dtype.element_ty), mask=keep)
        tl.store(stats_ptr + 2 * rows + row, mean)
        tl.store(stats_ptr + 3 * rows + row, rstd)


@triton.jit(do_not_specialize=["rows", "rows_per_group", "parts"])
def adaln_residual_backward(
    grad_x_ptr: tl.tensor,
    grad_y_ptr: tl.tensor,
    h_ptr: tl.tensor,
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    next_weight_ptr: tl.tensor,
    stats_ptr: tl.tensor,
    grad_h_ptr: tl.tensor,
    grad_residual_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    grad_x_stride: tl.tensor,
    grad_y_stride: tl.tensor,
    h_stride: tl.tensor,
    scale_stride: tl.tensor,
    rows: tl.tensor,
    rows_per_group: tl.tensor,
    parts: tl.tensor,
    ROWS_PER_PART: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_NEXT: tl.constexpr,
) -> None:
    """One program for ROWS_PER_PART rows of a group: their gradients, and the part's column sums (see ``op.py``)."""
    part = tl.program_id(0).to(tl.int64)
    group = part // parts
    columns = tl.arange(0, BLOCK)
    keep = columns < WIDTH
    scale = load_floats(scale_ptr + group * scale_stride + columns, keep)
    gain = (1.0 + scale) * load_floats(weight_ptr + columns, keep)
    if HAS_NEXT:
        next_weight = load_floats(next_weight_ptr + columns, keep)
        sum_y_normed = tl.zeros((BLOCK,), tl.float32)
        sum_y = tl.zeros((BLOCK,), tl.float32)
    sum_normed = tl.zeros((BLOCK,), tl.float32)
    sum_grad = tl.zeros((BLOCK,), tl.float32)

    first = (part % parts) * ROWS_PER_PART
    last = tl.minimum(first + ROWS_PER_PART, rows_per_group)
    for i in range(first, last):
        row = group * rows_per_group + i
        grad = load_floats(grad_x_ptr + row * grad_x_stride + columns, keep)
        if HAS_NEXT:
            grad_y = load_floats(grad_y_ptr + row * grad_y_stride + columns, keep)
            x = load_floats(x_ptr + row * WIDTH + columns, keep)
            mean = tl.load(stats_ptr + 2 * rows + row)
            rstd = tl.load(stats_ptr + 3 * rows + row)
            x_normed = tl.where(keep, (x - mean) * rstd, 0.0)
            sum_y_normed += grad_y * x_normed
            sum_y += grad_y
            grad += through_norm(grad_y * next_weight, x_normed, rstd, WIDTH)
            target = grad_residual_ptr + row * WIDTH + columns
            tl.store(target, grad.to(grad_residual_ptr.dtype.element_ty), mask=keep)

        h = load_floats(h_ptr + row * h_stride + columns, keep)
        mean = tl.load(stats_ptr + row)
        rstd = tl.load(stats_ptr + rows + row)
        normed = tl.where(keep, (h - mean) * rstd, 0.0)
        sum_normed += grad * normed
        sum_grad += grad
        grad_h = through_norm(grad * gain, normed, rstd, WIDTH)
        tl.store(grad_h_ptr + row * WIDTH + columns, grad_h.to(grad_h_ptr.dtype.element_ty), mask=keep)

    SUMS: tl.constexpr = 4 if HAS_NEXT else 2
    sums = sums_ptr + part * SUMS * WIDTH + columns
    tl.store(sums, sum_normed, mask=keep)
    tl.store(sums + WIDTH, sum_grad, mask=keep)
    if HAS_NEXT:
        tl.store(sums + 2 * WIDTH, sum_y_normed, mask=keep)
        tl.store(sums + 3 * WIDTH, sum_y, mask=keep)


def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    """x and statistics (2, R) float32."""
    x, _, stats = _run(Inputs.without_next(*arguments))
    return x, stats


def forward_norm(*arguments: Any) -> tuple[Tensor, Tensor | None, Tensor]:
    """x, y and statistics (4, R) float32."""
    return _run(Inputs(*arguments))


def _run(inputs: Inputs) -> tuple[Tensor, Tensor | None, Tensor]:
    h, residual, weight, bias, scale, shift, next_weight, next_bias, eps = inputs
    width = h.shape[-1]
    x, y, stats = outputs(residual, next_weight)
    rows = stats.shape[1]
    if next_weight is not None and next_bias is not None:
        next_weight, next_bias = next_weight.contiguous(), next_bias.contiguous()
    if rows == 0:
        return x, y, stats
    h, residual, scale, shift = (as_rows(tensor, width) for tensor in (h, residual, scale, shift))
    adaln_residual_forward[(rows,)](
        h,
        residual,
        weight.contiguous(),
        bias.contiguous(),
        scale,
        shift,
        next_weight,
        next_bias,
        x,
        y,
        stats,
        h.stride(0),
        residual.stride(0),
        scale.stride(0),
        shift.stride(0),
        rows,
        rows // scale.shape[0],
        eps,
        WIDTH=width,
        HAS_NEXT=y is not None,
        **launch_options(width),
    )
    return x, y, stats


def backward(*arguments: Any) -> list[Tensor]:
    """See ``ld4lg::adaln_residual_backward`` in ``op.py``."""
    inputs = BackwardInputs(*arguments)
    grad_x, grad_y, h, x, weight, scale, next_weight, stats = inputs
    width = h.shape[-1]
    rows, rows_per_group, groups, parts = inputs.parts()
    grad_h, sums, *grad_residual = results = inputs.outputs()
    if rows:
        grad_x, h, scale = (as_rows(tensor, width) for tensor in (grad_x, h, scale))
        if grad_y is not None and next_weight is not None:
            grad_y, next_weight = as_rows(grad_y, width), next_weight.contiguous()
        adaln_residual_backward[(groups * parts,)](
            grad_x,
            grad_y,
            h,
            x,
            weight.contiguous(),
            scale,
            next_weight,
            stats,
            grad_h,
            *(grad_residual if grad_residual else (None,)),
            sums,
            grad_x.stride(0),
            0 if grad_y is None else grad_y.stride(0),
            h.stride(0),
            scale.stride(0),
            rows,
            rows_per_group,
            parts,
            ROWS_PER_PART=ROWS_PER_PART,
            WIDTH=width,
            HAS_NEXT=grad_y is not None,
            **launch_options(width),
        )
    return results
