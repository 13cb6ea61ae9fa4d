"""Registers ``ld4lg::sampler_step``, see `ops.sampler_step`. No derivative: nothing is trained through a sampler."""

from ld4lg_fast.kernels.arguments.sampler_step import check
from ld4lg_fast.kernels.library import register


def _fake(output, z, x_prev, coefficients, step, seed, sample_ids, stream, self_condition):
    *lead, width = z.shape
    network_input = output.new_empty((*lead, 2 * width if self_condition else width))
    return z.new_empty(z.shape), z.new_empty(z.shape), network_input


register(
    "sampler_step(Tensor output, Tensor z, Tensor? x_prev, Tensor coefficients, Tensor step, Tensor? seed,"
    " Tensor? sample_ids, int stream, bool self_condition) -> (Tensor z_next, Tensor x_start, Tensor input)",
    _fake,
    check,
    "sampler_step",
    "sampler_step",
)
