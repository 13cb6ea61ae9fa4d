"""What `ops.sampler_step` and its operator take. Letters: B batch, N positions, d latent width, S steps."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.arguments.rules import check_device, check_integer, check_within

COEFFICIENTS = 7


def check(
    output: Tensor,
    z: Tensor,
    x_prev: Tensor | None,
    coefficients: Tensor,
    step: Tensor,
    seed: Tensor | None,
    sample_ids: Tensor | None,
    stream: int,
    self_condition: bool,
) -> None:
    """Refuses shapes, dtypes, devices and numbers that do not fit.

    Raises:
        ValueError: naming them.
    """
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
    if (seed is None) != (sample_ids is None):
        raise ValueError("seed and sample_ids come together; give both or neither")
    _check_numbers("step", step, ())
    if seed is not None:
        _check_numbers("seed", seed, ())
        _check_numbers("sample_ids", sample_ids, (shape[0],))
    if type(stream) is not int or not 0 <= stream <= 2**32 - of_coefficients[0]:
        check_integer("stream", stream, high=2**32 - of_coefficients[0])
    check_device(
        "z output x_prev coefficients step seed sample_ids",
        *(z, output, x_prev, coefficients, step, seed, sample_ids),
    )


def _check_numbers(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.dtype != torch.int64 or value.shape != shape:
        raise ValueError(f"{name} is {value.dtype} of shape {tuple(value.shape)}; it needs int64 of {shape}")


def check_step(step: Tensor, coefficients: Tensor) -> None:
    """Refuses a step that has no coefficients, on a CPU.

    Raises:
        IndexError: naming it.
    """
    check_within("step", step, 0, coefficients.shape[0] - 1)
