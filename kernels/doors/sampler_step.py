"""The arguments of `sampler_step` checked, its backend chosen.

Letters: B batch, N positions, d latent width, S steps.
"""

from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.arguments.sampler_step import check, check_step
from ld4lg_fast.kernels.library import is_traced, operator
from ld4lg_fast.kernels.plain import sampler_step as plain
from ld4lg_fast.kernels.registration import sampler_step as _registered  # noqa: F401

_sampler_step = operator("sampler_step")


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
        step: () int64, 0 … S-1; on a GPU, where nobody looks at it, the nearest of these stands for another.
        seed: () int64, the 64 bits of the seed; None where no step has a c₆.
        sample_ids: (B,) int64, given with the seed.
        stream: the random stream of step 0; that of step S-1 is below 2³².
        self_condition: whether the network is fed its own x_start.

    Returns:
        z_next and x_start in z's dtype, and the next input in output's dtype: [z_next, x_start] (B, N, 2d), or
        z_next (B, N, d) without ``self_condition``.

    Raises:
        ValueError: shapes, dtypes, devices or a stream that do not fit; the message names them.
        IndexError: a step out of its range, on a CPU.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    arguments = (output, z, x_prev, coefficients, step, seed, sample_ids, stream, self_condition)
    check(*arguments)
    dtypes = tuple({tensor.dtype for tensor in (output, z, coefficients)})
    name = backend.choose("sampler_step", z.device.type, dtypes)
    if name != "native" and z.is_cpu and not is_traced(*arguments):
        check_step(step, coefficients)
    if name == "reference":
        return plain.sampler_step(*arguments)
    return _sampler_step(*arguments)
