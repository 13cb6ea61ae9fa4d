"""One step of a sampler: x_start from the network's output, the next z and the next network input in one pass.

No derivative: training does not pass through a sampler. Letters: B batch, N positions, d latent width, S steps (of one
plan, or of several one after another), K random streams of a step.
"""

from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.argument_checks import check_device, check_within
from ld4lg_fast.kernels.library import is_traced, operator, register
from ld4lg_fast.kernels.sampler_step import reference
from ld4lg_fast.kernels.sampler_step.arguments import Inputs

COEFFICIENTS = 7


def check(*arguments: Any) -> None:
    """Refuses shapes, dtypes, devices and numbers that do not fit.

    Raises:
        ValueError: naming them.
    """
    output, z, x_prev, coefficients, step, seed, sample_ids, streams, weights, _, first = Inputs(*arguments)
    shape, of_output, of_coefficients = z.shape, output.shape, coefficients.shape
    if len(shape) != 3 or (of_output != shape and of_output != (2 * shape[0], shape[1], shape[2])):
        raise ValueError(
            f"output {tuple(of_output)} does not fit z {tuple(shape)}; it needs (B, N, d) or (2B, N, d)"
        )
    if x_prev is not None and x_prev.shape != shape:
        raise ValueError(f"x_prev has shape {tuple(x_prev.shape)}; it needs z's, {tuple(shape)}")
    if len(of_coefficients) != 2 or of_coefficients[1] != COEFFICIENTS or not of_coefficients[0]:
        raise ValueError(
            f"coefficients has shape {tuple(of_coefficients)}; it needs (S, {COEFFICIENTS}) of at least one step"
        )
    noise = (seed, sample_ids, streams, weights)
    if len({tensor is None for tensor in noise}) > 1:
        raise ValueError("seed, sample_ids, noise_streams and noise_weights come together; give all or none")
    _check_numbers("step", step, (), (shape[0],))
    if first is not None:
        _check_numbers("first", first, (shape[0],))
    if seed is not None and sample_ids is not None:
        _check_numbers("seed", seed, (), (shape[0],))
        _check_numbers("sample_ids", sample_ids, (shape[0],))
    if streams is not None and weights is not None:
        if len(weights.shape) != 2 or weights.shape[0] != of_coefficients[0]:
            raise ValueError(
                f"noise_weights has shape {tuple(weights.shape)}; it needs ({of_coefficients[0]}, K), as coefficients"
            )
        _check_numbers("noise_streams", streams, tuple(weights.shape))
    check_device(
        "z output x_prev coefficients step seed sample_ids noise_streams noise_weights first",
        *(z, output, x_prev, coefficients, step, seed, sample_ids, streams, weights, first),
    )


def _check_numbers(name: str, value: Tensor, *shapes: tuple[int, ...]) -> None:
    if value.dtype != torch.int64 or value.shape not in shapes:
        allowed = " or ".join(map(str, shapes))
        raise ValueError(
            f"{name} is {value.dtype} of shape {tuple(value.shape)}; it needs int64 of {allowed}"
        )


def check_step(step: Tensor, coefficients: Tensor, first: Tensor | None) -> None:
    """Refuses a step without coefficients, on a CPU.

    Raises:
        IndexError: naming it.
    """
    last = coefficients.shape[0] - 1
    check_within("step", step, 0, last)
    if first is not None:
        check_within("first", first, 0, last)
        check_within("first + step", first + step, 0, last)


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    inputs = Inputs(*arguments)
    z, (*lead, width) = inputs.z, inputs.z.shape
    network_input = inputs.output.new_empty((*lead, 2 * width if inputs.self_condition else width))
    return z.new_empty(z.shape), z.new_empty(z.shape), network_input


register(
    "sampler_step(Tensor output, Tensor z, Tensor? x_prev, Tensor coefficients, Tensor step, Tensor? seed,"
    " Tensor? sample_ids, Tensor? noise_streams, Tensor? noise_weights, bool self_condition, Tensor? first=None)"
    " -> (Tensor z_next, Tensor x_start, Tensor input)",
    _fake,
    check,
    "sampler_step",
    "sampler_step",
)


_sampler_step = operator("sampler_step")


def sampler_step(
    output: Tensor,
    z: Tensor,
    x_prev: Tensor | None,
    coefficients: Tensor,
    step: Tensor,
    seed: Tensor | None = None,
    sample_ids: Tensor | None = None,
    noise_streams: Tensor | None = None,
    noise_weights: Tensor | None = None,
    self_condition: bool = True,
    first: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of a sampler, from the network's output to its next input, in one pass.

    With the noise levels given, the step of every sampler is linear:

        x_start = c₀·z + c₁·output[:B] + c₂·output[B:]
        z_next  = c₃·z + c₄·x_start + c₅·x_prev + c₆·noise

    with c = ``coefficients[first + step]``: c₀…c₂ depend on the objective and the guidance, c₃…c₆ on the sampler. The
    noise is the sum of `philox_normal` with the random streams ``noise_streams[first + step]``, times their
    ``noise_weights``; the first weight of 0 ends a row. A sample's numbers do not depend on the steps, seeds and plans
    of the others.

    The host reads nothing, so that a CUDA graph can be replayed for any step, seed and samples.

    Args:
        output: (B, N, d), or (2B, N, d) with the unconditional half second.
        z: (B, N, d) the state before the step. x_prev: the x_start of the previous step, or None if c₅ is 0
            in every step.
        coefficients: (S, 7) float32.
        step: int64, () or one for each sample (B,), 0 … S-1; on a GPU it is not checked but clamped to this range.
        seed: int64, () or (B,), the 64 bits of the seed; None if c₆ is 0 in every step.
        sample_ids: (B,) int64. noise_streams: (S, K) int64, of which the low 32 bits count. noise_weights: (S, K)
            float32. All three are needed with a seed.
        self_condition: whether the network takes x_start as an input.
        first: (B,) int64, the row of ``coefficients`` of each sample's step 0; None: row 0.

    Returns:
        z_next and x_start in z's dtype, and the next input in output's dtype: [z_next, x_start] (B, N, 2d), or
        z_next (B, N, d) without ``self_condition``.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; the message names them.
        IndexError: a step out of its range, on a CPU.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    noise = (seed, sample_ids, noise_streams, noise_weights)
    arguments = (output, z, x_prev, coefficients, step, *noise, self_condition, first)
    check(*arguments)
    dtypes = tuple({tensor.dtype for tensor in (output, z, coefficients)})
    name = backend.choose("sampler_step", z.device.type, dtypes)
    if name != "native" and z.is_cpu and not is_traced(*arguments):
        check_step(step, coefficients, first)
    if name == "reference":
        return reference.sampler_step(*arguments)
    return _sampler_step(*arguments)
