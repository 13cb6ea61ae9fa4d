"""The arguments of the operator in the order of its schema."""

from typing import NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """Arguments of ``ld4lg::sampler_step``, described in `ops.sampler_step`."""

    output: Tensor
    z: Tensor
    x_prev: Tensor | None
    coefficients: Tensor
    step: Tensor
    seed: Tensor | None = None
    sample_ids: Tensor | None = None
    noise_streams: Tensor | None = None
    noise_weights: Tensor | None = None
    self_condition: bool = True
    first: Tensor | None = None
