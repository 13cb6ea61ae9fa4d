"""A matmul with bias, split, value·GELU(gate) and dropout as its epilogue, in Triton.

Letters: D width of x, F width of value and of gate, R rows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ld4lg_fast.kernels.geglu.reference import dropout_threshold
from ld4lg_fast.kernels.geglu.triton import dropout_factors, normal_cdf
from ld4lg_fast.kernels.layout import as_rows
from ld4lg_fast.kernels.triton import load_floats

_GROUP = 8  # row blocks that share columns of the weight in the L2 cache


@triton.jit(do_not_specialize=["rows", "threshold"])
def geglu_linear_kernel(
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    out_ptr: tl.tensor,
    seed_ptr: tl.tensor,
    x_stride: tl.tensor,
    weight_stride: tl.tensor,
    rows: tl.tensor,
    threshold: tl.tensor,
    factor: tl.tensor,
    INNER: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
    GROUP: tl.constexpr,
    DROPOUT: tl.constexpr,
) -> None:
    """One program for BLOCK_ROWS × BLOCK_COLUMNS outputs: it computes their value and their gate columns."""
    row_blocks = tl.cdiv(rows, BLOCK_ROWS)
    column_blocks = tl.cdiv(WIDTH, BLOCK_COLUMNS)
    program = tl.program_id(0)
    first_row_block = program // (GROUP * column_blocks) * GROUP
    group = tl.minimum(row_blocks - first_row_block, GROUP)
    place = program % (GROUP * column_blocks)
    row = (first_row_block + place % group) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = place // group * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inner = tl.arange(0, BLOCK_INNER)
    keep_row, keep_column = row < rows, column < WIDTH

    # Rows and columns out of range read the first one and are not stored.
    x = x_ptr + tl.where(keep_row, row, 0).to(tl.int64)[:, None] * x_stride + inner[None, :]
    of_value = (
        weight_ptr + tl.where(keep_column, column, 0).to(tl.int64)[None, :] * weight_stride + inner[:, None]
    )
    of_gate = of_value + WIDTH * weight_stride.to(tl.int64)
    value = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    gate = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for start in range(0, INNER, BLOCK_INNER):
        inside = inner < INNER - start
        rows_of_x = tl.load(x + start, mask=inside[None, :], other=0.0)
        value_columns = tl.load(of_value + start, mask=inside[:, None], other=0.0)
        gate_columns = tl.load(of_gate + start, mask=inside[:, None], other=0.0)
        value = tl.dot(rows_of_x, value_columns, value, input_precision="ieee")
        gate = tl.dot(rows_of_x, gate_columns, gate, input_precision="ieee")

    # Rounded like a stored matmul, so that backward computes the same numbers.
    value = value.to(out_ptr.dtype.element_ty).to(tl.float32)
    gate = gate.to(out_ptr.dtype.element_ty).to(tl.float32)
    value += load_floats(bias_ptr + column, keep_column)[None, :]
    gate += load_floats(bias_ptr + WIDTH + column, keep_column)[None, :]
    out = value * (gate * normal_cdf(gate))
    if DROPOUT:
        out *= dropout_factors(seed_ptr, threshold, factor, row[:, None], column[None, :])
    target = out_ptr + row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    tl.store(target, out.to(out_ptr.dtype.element_ty), mask=keep_row[:, None] & keep_column[None, :])


def generation(tensor: Tensor) -> int:
    """The GPU's major compute capability: 8 Ampere, 9 Hopper; 8 for the interpreter on a CPU."""
    return torch.cuda.get_device_capability(tensor.device)[0] if tensor.is_cuda else 8


def tile(dtype: torch.dtype, generation: int) -> dict[str, int]:
    """The two accumulators of BLOCK_ROWS × BLOCK_COLUMNS float32 fill the registers without spilling.

    Hopper's matmul instructions read from shared memory, which leaves registers for larger tiles.
    """
    if dtype == torch.float32:
        return {"BLOCK_ROWS": 64, "BLOCK_COLUMNS": 32, "BLOCK_INNER": 32, "num_warps": 4, "num_stages": 3}
    columns = 128 if generation >= 9 else 64
    return {"BLOCK_ROWS": 128, "BLOCK_COLUMNS": columns, "BLOCK_INNER": 64, "num_warps": 8, "num_stages": 3}


def forward(x: Tensor, weight: Tensor, bias: Tensor, seed: Tensor | None, dropout: float) -> Tensor:
    """(…, F) in x's dtype."""
    inner, width = weight.shape[1], weight.shape[0] // 2
    out = x.new_empty((*x.shape[:-1], width))
    rows = out.numel() // width
    if rows:
        x, weight = as_rows(x, inner), as_rows(weight, inner)
        blocks = tile(x.dtype, generation(x))
        programs = triton.cdiv(rows, blocks["BLOCK_ROWS"]) * triton.cdiv(width, blocks["BLOCK_COLUMNS"])
        geglu_linear_kernel[(programs,)](
            x,
            weight,
            bias.contiguous(),
            out,
            seed,
            x.stride(0),
            weight.stride(0),
            rows,
            dropout_threshold(dropout),
            1 / (1 - dropout),
            INNER=inner,
            WIDTH=width,
            GROUP=_GROUP,
            DROPOUT=seed is not None,
            **blocks,
        )
    return out
