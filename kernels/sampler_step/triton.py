"""One step of a sampler in Triton, see `ops.sampler_step`."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ld4lg_fast.kernels.philox_normal.triton import philox_normal_block
from ld4lg_fast.kernels.sampler_step.arguments import Inputs
from ld4lg_fast.kernels.triton import load_floats

_BLOCK = 128  # counters of four elements


@triton.jit(do_not_specialize=["rows", "samples", "columns"])
def sampler_step_kernel(
    output_ptr: tl.tensor,
    z_ptr: tl.tensor,
    x_prev_ptr: tl.tensor | None,
    coefficients_ptr: tl.tensor,
    rows: tl.tensor,
    step_ptr: tl.tensor,
    first_ptr: tl.tensor | None,
    seed_ptr: tl.tensor | None,
    ids_ptr: tl.tensor,
    streams_ptr: tl.tensor,
    weights_ptr: tl.tensor,
    z_next_ptr: tl.tensor,
    x_start_ptr: tl.tensor,
    input_ptr: tl.tensor,
    samples: tl.tensor,
    columns: tl.tensor,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP_STRIDE: tl.constexpr,
    SEED_STRIDE: tl.constexpr,
    GUIDED: tl.constexpr,
    SELF_CONDITION: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Program (sample, j): the elements of BLOCK counters of a sample, four each."""
    sample = tl.program_id(0).to(tl.int64)
    step = tl.minimum(tl.maximum(tl.load(step_ptr + sample * STEP_STRIDE), 0), rows - 1)
    place = step
    if first_ptr is not None:
        place = tl.minimum(tl.maximum(tl.load(first_ptr + sample) + step, 0), rows - 1)
    c = coefficients_ptr + place * 7
    element = tl.program_id(1) * BLOCK * 4 + tl.arange(0, BLOCK * 4)
    keep = element < SIZE
    offset = sample * SIZE + element

    z = tl.load(z_ptr + offset, mask=keep, other=0.0)
    x_start = tl.load(c) * z
    x_start += tl.load(c + 1) * load_floats(output_ptr + offset, keep)
    if GUIDED:
        uncond = load_floats(output_ptr + samples.to(tl.int64) * SIZE + offset, keep)
        x_start += tl.load(c + 2) * uncond
    z_next = tl.load(c + 3) * z + tl.load(c + 4) * x_start
    if x_prev_ptr is not None:
        z_next += tl.load(c + 5) * tl.load(x_prev_ptr + offset, mask=keep, other=0.0)
    if seed_ptr is not None:
        counter = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        sample_id, seed = tl.load(ids_ptr + sample), tl.load(seed_ptr + sample * SEED_STRIDE)
        noise = tl.zeros((BLOCK * 4,), tl.float32)
        column = place * columns
        last = column + columns
        weight = tl.load(weights_ptr + column, mask=column < last, other=0.0)
        while weight != 0.0:
            n0, n1, n2, n3 = philox_normal_block(seed, sample_id, tl.load(streams_ptr + column), counter)
            noise += weight * tl.reshape(tl.join(tl.join(n0, n2), tl.join(n1, n3)), (BLOCK * 4,))
            column += 1
            weight = tl.load(weights_ptr + column, mask=column < last, other=0.0)
        z_next += tl.load(c + 6) * noise
    tl.store(z_next_ptr + offset, z_next, mask=keep)
    tl.store(x_start_ptr + offset, x_start, mask=keep)
    if SELF_CONDITION:
        offset += offset // WIDTH * WIDTH  # in rows twice as wide
        tl.store(input_ptr + offset + WIDTH, x_start.to(input_ptr.dtype.element_ty), mask=keep)
    tl.store(input_ptr + offset, z_next.to(input_ptr.dtype.element_ty), mask=keep)


def sampler_step(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """z_next and x_start (B, N, d) in z's dtype, the next input (B, N, d or 2d) in output's dtype."""
    output, z, x_prev, coefficients, step, seed, sample_ids, streams, weights, self_condition, first = Inputs(
        *arguments
    )
    batch, positions, width = z.shape
    dtype = z.dtype
    z = z.float().contiguous()
    z_next, x_start = torch.empty_like(z), torch.empty_like(z)
    network_input = output.new_empty((batch, positions, width * (2 if self_condition else 1)))
    if z.numel():
        size = positions * width
        sampler_step_kernel[(batch, triton.cdiv(size, 4 * _BLOCK))](
            output.contiguous(),
            z,
            None if x_prev is None else x_prev.float().contiguous(),
            coefficients.float().contiguous(),
            coefficients.shape[0],
            step.contiguous(),
            *(None if t is None else t.contiguous() for t in (first, seed, sample_ids, streams)),
            None if weights is None else weights.float().contiguous(),
            z_next,
            x_start,
            network_input,
            batch,
            0 if weights is None else weights.shape[1],
            SIZE=size,
            WIDTH=width,
            STEP_STRIDE=step.dim(),
            SEED_STRIDE=0 if seed is None else seed.dim(),
            GUIDED=output.shape[0] > batch,
            SELF_CONDITION=self_condition,
            BLOCK=_BLOCK,
        )
    return z_next.to(dtype), x_start.to(dtype), network_input
