"""One step of a sampler in C++, see `ops.sampler_step`."""

from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels.native import DTYPE_CODES, I32, I64, POINTER, address, as_vector, function
from ld4lg_fast.kernels.sampler_step.arguments import Inputs
from ld4lg_fast.kernels.sampler_step.op import check_step

_sampler_step = function(
    "ld4lg_sampler_step",
    [POINTER, I32, I32, POINTER, POINTER, POINTER, I64, POINTER, I64, POINTER, POINTER, I64, POINTER]
    + [POINTER, POINTER, I64, POINTER, POINTER, POINTER, I64, I64, I64, I32, I32],
)


def sampler_step(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """z_next and x_start (B, N, d) in z's dtype, the next input (B, N, d or 2d) in output's dtype."""
    output, z, x_prev, coefficients, step, seed, sample_ids, streams, weights, self_condition, first = Inputs(
        *arguments
    )
    batch, positions, width = z.shape
    dtype = z.dtype
    z = as_vector(z)
    z_next, x_start = torch.empty_like(z), torch.empty_like(z)
    network_input = output.new_empty((batch, positions, width * (2 if self_condition else 1)))
    if not z.numel():
        return z_next.to(dtype), x_start.to(dtype), network_input
    output, coefficients = output.contiguous(), as_vector(coefficients)
    x_prev = None if x_prev is None else as_vector(x_prev)
    step = step.contiguous()
    seed, sample_ids, streams, first = (
        None if t is None else t.contiguous() for t in (seed, sample_ids, streams, first)
    )
    weights = None if weights is None else as_vector(weights)
    out_of_range = _sampler_step(
        output.data_ptr(),
        DTYPE_CODES[output.dtype],
        output.shape[0] // batch,
        z.data_ptr(),
        address(x_prev),
        coefficients.data_ptr(),
        coefficients.shape[0],
        step.data_ptr(),
        step.dim(),
        address(first),
        address(seed),
        0 if seed is None else seed.dim(),
        address(sample_ids),
        address(streams),
        address(weights),
        0 if weights is None else weights.shape[1],
        z_next.data_ptr(),
        x_start.data_ptr(),
        network_input.data_ptr(),
        batch,
        positions,
        width,
        bool(self_condition),
        torch.get_num_threads(),
    )
    if out_of_range:
        check_step(step, coefficients, first)
    return z_next.to(dtype), x_start.to(dtype), network_input
