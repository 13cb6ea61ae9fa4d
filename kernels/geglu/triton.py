"""Bias, split, value·GELU(gate) and dropout in Triton, forward and backward.

Letters: F width of value and of gate, R rows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ld4lg_fast.kernels.geglu.op import ROWS_PER_PART, parts_of
from ld4lg_fast.kernels.geglu.reference import dropout_threshold
from ld4lg_fast.kernels.layout import as_rows
from ld4lg_fast.kernels.triton import load_floats

_BLOCK, _BLOCK_BACKWARD = 1024, 512


@triton.jit
def normal_cdf(x: tl.tensor) -> tl.tensor:
    """The probability that a standard normal number is below x."""
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _mix(word: tl.tensor) -> tl.tensor:
    word = (word ^ (word >> 16)) * 0x85EBCA6B
    word = (word ^ (word >> 13)) * 0xC2B2AE35
    return word ^ (word >> 16)


@triton.jit
def dropout_factors(
    seed_ptr: tl.tensor, threshold: tl.tensor, factor: tl.tensor, row: tl.tensor, columns: tl.tensor
) -> tl.tensor:
    """Dropout factors of the columns of a row; the mapping is in `reference.random_words`."""
    seed = tl.load(seed_ptr)
    zero = (columns * 0).to(tl.uint32)
    low = zero + (seed & 0xFFFFFFFF).to(tl.uint32)
    high = zero + ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    key = _mix(_mix(low ^ row.to(tl.uint32)) ^ high)
    word = _mix(key + columns.to(tl.uint32) * 0x9E3779B9)
    return tl.where(word.to(tl.int64) >= threshold, factor, 0.0)


@triton.jit(do_not_specialize=["threshold"])
def geglu_forward(
    projected_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    out_ptr: tl.tensor,
    seed_ptr: tl.tensor,
    stride: tl.tensor,
    threshold: tl.tensor,
    factor: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    DROPOUT: tl.constexpr,
) -> None:
    """Program (row, j): BLOCK columns of a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    keep = columns < WIDTH
    source = projected_ptr + row * stride + columns
    value = load_floats(source, keep)
    gate = load_floats(source + WIDTH, keep)
    value += load_floats(bias_ptr + columns, keep)
    gate += load_floats(bias_ptr + WIDTH + columns, keep)
    out = value * (gate * normal_cdf(gate))
    if DROPOUT:
        out *= dropout_factors(seed_ptr, threshold, factor, row, columns)
    tl.store(out_ptr + row * WIDTH + columns, out.to(out_ptr.dtype.element_ty), mask=keep)


@triton.jit(do_not_specialize=["rows", "threshold"])
def geglu_backward(
    grad_ptr: tl.tensor,
    projected_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    grad_projected_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    seed_ptr: tl.tensor,
    grad_stride: tl.tensor,
    stride: tl.tensor,
    rows: tl.tensor,
    threshold: tl.tensor,
    factor: tl.tensor,
    ROWS_PER_PART: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    DROPOUT: tl.constexpr,
) -> None:
    """Program (part, j): BLOCK columns of a part's rows, and the sums of these columns."""
    part = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    keep = columns < WIDTH
    value_bias = load_floats(bias_ptr + columns, keep)
    gate_bias = load_floats(bias_ptr + WIDTH + columns, keep)
    value_sum = tl.zeros((BLOCK,), tl.float32)
    gate_sum = tl.zeros((BLOCK,), tl.float32)
    first = part * ROWS_PER_PART
    for i in range(0, tl.minimum(ROWS_PER_PART, rows - first)):
        row = first + i
        source = projected_ptr + row * stride + columns
        value = load_floats(source, keep) + value_bias
        gate = load_floats(source + WIDTH, keep) + gate_bias
        grad = load_floats(grad_ptr + row * grad_stride + columns, keep)
        if DROPOUT:
            grad *= dropout_factors(seed_ptr, threshold, factor, row, columns)
        below = normal_cdf(gate)
        density = 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
        grad_value = grad * gate * below
        grad_gate = grad * value * (below + gate * density)
        value_sum += grad_value
        gate_sum += grad_gate
        target = grad_projected_ptr + row * 2 * WIDTH + columns
        tl.store(target, grad_value.to(grad_projected_ptr.dtype.element_ty), mask=keep)
        tl.store(target + WIDTH, grad_gate.to(grad_projected_ptr.dtype.element_ty), mask=keep)
    sums = sums_ptr + part * 2 * WIDTH + columns
    tl.store(sums, value_sum, mask=keep)
    tl.store(sums + WIDTH, gate_sum, mask=keep)


def forward(projected: Tensor, bias: Tensor, seed: Tensor | None, dropout: float) -> Tensor:
    """(…, F) in projected's dtype."""
    width = projected.shape[-1] // 2
    out = projected.new_empty((*projected.shape[:-1], width))
    rows = out.numel() // width
    if rows:
        projected = as_rows(projected, 2 * width)
        geglu_forward[(rows, triton.cdiv(width, _BLOCK))](
            projected,
            bias.contiguous(),
            out,
            seed,
            projected.stride(0),
            dropout_threshold(dropout),
            1 / (1 - dropout),
            WIDTH=width,
            BLOCK=min(_BLOCK, triton.next_power_of_2(width)),
            DROPOUT=seed is not None,
            num_warps=4,
        )
    return out


def backward(
    grad: Tensor, projected: Tensor, bias: Tensor, seed: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """See ``ld4lg::geglu_backward`` in ``op.py``."""
    width = projected.shape[-1] // 2
    rows = grad.numel() // width
    grad_projected = projected.new_empty(projected.shape)
    sums = projected.new_empty((parts_of(rows), 2 * width), dtype=torch.float32)
    if rows:
        grad, projected = as_rows(grad, width), as_rows(projected, 2 * width)
        geglu_backward[(parts_of(rows), triton.cdiv(width, _BLOCK_BACKWARD))](
            grad,
            projected,
            bias.contiguous(),
            grad_projected,
            sums,
            seed,
            grad.stride(0),
            projected.stride(0),
            rows,
            dropout_threshold(dropout),
            1 / (1 - dropout),
            ROWS_PER_PART=ROWS_PER_PART,
            WIDTH=width,
            BLOCK=min(_BLOCK_BACKWARD, triton.next_power_of_2(width)),
            DROPOUT=seed is not None,
            num_warps=4,
        )
    return grad_projected, sums
