"""The arguments of `sampler_step` checked, its backend chosen.

Letters: B batch, N positions, d latent width, S steps.
"""

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.library import operator
from ld4lg_fast.kernels.plain import sampler_step as plain
from ld4lg_fast.kernels.registration import sampler_step as _registered  # noqa: F401

_sampler_step = operator("sampler_step")

COEFFICIENTS = 7


def sampler_step(
    output: Tensor,
    z: Tensor,
    x_prev: Tensor | None,
    coefficients: Tensor,
    step: Tensor,
    seed: Tensor | None = None,
    sample_ids: Tensor | None = None,
    stream: int = 1,
    self_condition: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of a sampler, from the network's output to its next input, in one pass.

    Every sampler's step is linear once its noise levels are known:

        x_start = c₀·z + c₁·output[:B] + c₂·output[B:]
        z_next  = c₃·z + c₄·x_start + c₅·x_prev + c₆·noise

    with c = ``coefficients[step]``: the objective and the guidance are in c₀…c₂, the sampler in c₃…c₆. The
    noise is that of `philox_normal` with the random stream ``stream + step``.

    Nothing is read on the host, so that a recorded launch can be replayed for any step, seed and samples.

    Args:
        output: (B, N, d), or (2B, N, d) with the unconditional half second: the network's output.
        z: (B, N, d) the state before the step. x_prev: the x_start of the step before, or None where no step
            has a c₅.
        coefficients: (S, 7) float32.
        step: () int64, 0 … S-1.
        seed: () int64, the 64 bits of the seed; None where no step has a c₆.
        sample_ids: (B,) int64, given with the seed.
        stream: the random stream of step 0.
        self_condition: whether the network is fed its own x_start.

    Returns:
        z_next and x_start in z's dtype, and the next input in output's dtype: [z_next, x_start] (B, N, 2d), or
        z_next (B, N, d) without ``self_condition``.

    Raises:
        ValueError: shapes or dtypes that do not fit; the message names them.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    batch = z.shape[0]
    if z.ndim != 3 or output.shape not in (z.shape, (2 * batch, *z.shape[1:])):
        raise ValueError(
            f"output {tuple(output.shape)} does not fit z {tuple(z.shape)}; it needs (B, N, d) or (2B, N, d)"
        )
    if x_prev is not None and x_prev.shape != z.shape:
        raise ValueError(f"x_prev has shape {tuple(x_prev.shape)}; it needs z's, {tuple(z.shape)}")
    if coefficients.ndim != 2 or coefficients.shape[1] != COEFFICIENTS:
        raise ValueError(f"coefficients has shape {tuple(coefficients.shape)}; it needs (S, {COEFFICIENTS})")
    for name, value, shape in (("step", step, ()), ("seed", seed, ()), ("sample_ids", sample_ids, (batch,))):
        if value is not None and (value.shape != shape or value.dtype != torch.int64):
            raise ValueError(
                f"{name} is {value.dtype} of shape {tuple(value.shape)}; it needs int64 of {shape}"
            )
    if (seed is None) != (sample_ids is None):
        raise ValueError("seed and sample_ids come together; give both or neither")
    arguments = (output, z, x_prev, coefficients, step, seed, sample_ids, stream, self_condition)
    dtypes = tuple({tensor.dtype for tensor in (output, z, coefficients)})
    if backend.choose("sampler_step", z.device.type, dtypes) == "reference":
        return plain.sampler_step(*arguments)
    return _sampler_step(*arguments)
