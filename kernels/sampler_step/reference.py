from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels.philox_normal.reference import philox_normal
from ld4lg_fast.kernels.sampler_step.arguments import Inputs


def sampler_step(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
    """See `ops.sampler_step`. Computes in float32, or in float64 where z has it.

    A step out of range is clamped, as on a GPU, and so is its row of coefficients.
    """
    inputs = Inputs(*arguments, **named)
    output, z, x_prev, coefficients, step, seed, sample_ids, streams, weights, self_condition, first = inputs
    last = coefficients.shape[0] - 1
    step = step.clamp(0, last)
    place = step if first is None else (first + step).clamp(0, last)
    dtype = torch.promote_types(z.dtype, torch.float32)
    of_step = coefficients.index_select(0, place.reshape(-1)).to(dtype)[..., None, None]
    x_from_z, x_from_cond, x_from_uncond, from_z, from_x_start, from_x_prev, from_noise = of_step.unbind(1)
    batch, state, output_dtype = z.shape[0], z.to(dtype), output.dtype
    output = output.to(dtype)
    x_start = x_from_z * state + x_from_cond * output[:batch]
    if output.shape[0] > batch:
        x_start = x_start + x_from_uncond * output[batch:]
    z_next = from_z * state + from_x_start * x_start
    if x_prev is not None:
        z_next = z_next + from_x_prev * x_prev
    if seed is not None and sample_ids is not None and streams is not None and weights is not None:
        noise = torch.zeros_like(state)
        # Indexing by a tensor would break a compiled graph.
        shape = (*place.shape, weights.shape[-1])
        weights, streams = (
            table.index_select(0, place.reshape(-1)).reshape(shape) for table in (weights.to(dtype), streams)
        )
        weights = weights * (weights != 0).cumprod(-1)
        for stream, weight in zip(streams.unbind(-1), weights.unbind(-1), strict=True):
            drawn = philox_normal(seed, sample_ids, stream, z.shape[1:])
            noise = noise + weight[..., None, None] * drawn
        z_next = z_next + from_noise * noise
    z_next, x_start = z_next.to(z.dtype), x_start.to(z.dtype)
    network_input = torch.cat([z_next, x_start], dim=-1) if self_condition else z_next.clone()
    return z_next, x_start, network_input.to(output_dtype)
