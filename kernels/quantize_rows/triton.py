"""Rows in float8 with a scale each, with an optional GEGLU, in Triton. Letters: W width of the result."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ld4lg_fast.kernels.geglu.triton import normal_cdf
from ld4lg_fast.kernels.layout import as_rows
from ld4lg_fast.kernels.quantize_rows.reference import LARGEST, SMALLEST
from ld4lg_fast.kernels.triton import launch_options, load_floats


@triton.jit
def quantize_rows_kernel(
    x_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    quantized_ptr: tl.tensor,
    scale_ptr: tl.tensor,
    stride: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    GEGLU: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
) -> None:
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    keep = columns < WIDTH
    source = x_ptr + row * stride + columns
    x = load_floats(source, keep)
    if GEGLU:
        gate = load_floats(source + WIDTH, keep)
        gate += load_floats(bias_ptr + WIDTH + columns, keep)
        x += load_floats(bias_ptr + columns, keep)
        x *= gate * normal_cdf(gate)
    largest = tl.maximum(tl.max(tl.abs(x), 0), SMALLEST)
    tl.store(scale_ptr + row, tl.div_rn(largest, LARGEST))
    x *= tl.div_rn(LARGEST, largest)
    tl.store(quantized_ptr + row * WIDTH + columns, x.to(quantized_ptr.dtype.element_ty), mask=keep)


def forward(x: Tensor, geglu_bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """See ``ld4lg::quantize_rows`` in ``op.py``."""
    x = as_rows(x, x.shape[1])
    rows, width = x.shape[0], x.shape[1] // (1 if geglu_bias is None else 2)
    quantized = x.new_empty((rows, width), dtype=torch.float8_e4m3fn)
    scale = x.new_empty((rows, 1), dtype=torch.float32)
    if rows:
        quantize_rows_kernel[(rows,)](
            x,
            None if geglu_bias is None else geglu_bias.contiguous(),
            quantized,
            scale,
            x.stride(0),
            WIDTH=width,
            GEGLU=geglu_bias is not None,
            LARGEST=LARGEST,
            SMALLEST=SMALLEST,
            **launch_options(width),
        )
    return quantized, scale
