from collections.abc import Callable
from typing import Any

import torch

from ld4lg_fast.kernels.testing import Arguments, OpCase


def step_arguments(
    batch: int,
    positions: int,
    width: int,
    *,
    guided: bool = False,
    history: bool = False,
    noisy: bool = True,
    self_condition: bool = True,
    strided: bool = False,
    each: bool = False,
    streams_of_a_step: int = 3,
) -> Callable[[torch.Generator], Arguments]:
    """Arguments of `ops.sampler_step` in the second of three steps; ``each``: every sample has its own."""

    def make(generator: torch.Generator) -> Arguments:
        def randn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        output = randn(batch * (1 + guided), positions, width + 2 * strided)
        step, first, seed = torch.tensor(1), None, torch.tensor(-(2**62) + 7)
        streams = torch.randint(2**32, (4, streams_of_a_step), generator=generator)
        weights = randn(4, streams_of_a_step)
        weights[::2, 1:2] = 0.0  # ends the row
        if each:
            step, first = torch.arange(batch) % 3, torch.arange(batch) % 2
            seed = seed * (1 + 2 * torch.arange(batch))
        return {
            "output": output[..., 2:] if strided else output,
            "z": randn(batch, positions, width),
            "x_prev": randn(batch, positions, width) if history else None,
            "coefficients": randn(4, 7),
            "step": step,
            "seed": seed if noisy else None,
            "sample_ids": torch.arange(batch) + 2**33 if noisy else None,
            "noise_streams": streams if noisy else None,
            "noise_weights": weights if noisy else None,
            "self_condition": self_condition,
            "first": first,
        }

    return make


STATE = frozenset({"z", "x_prev", "coefficients", "noise_weights"})


def _step(name: str, *sizes: int, **options: Any) -> OpCase:
    make = step_arguments(*sizes, **options)
    return OpCase("sampler_step", name, make, keep=STATE, differentiable=False)


CASES = (
    _step("paper", 8, 32, 64),
    _step("paper-guided", 8, 32, 64, guided=True, history=True),
    _step("paper-v1", 8, 64, 768, noisy=False),
    _step("paper-each", 8, 32, 64, guided=True, history=True, each=True),
    _step("small", 2, 3, 8, guided=True, history=True),
    _step("small-deterministic", 2, 3, 8, noisy=False, history=True),
    _step("odd", 3, 5, 7, guided=True),
    _step("one-number", 1, 1, 1),
    _step("one-guided", 1, 3, 8, guided=True),
    _step("no-self-condition", 2, 3, 6, self_condition=False),
    _step("strided", 2, 5, 12, strided=True),
    _step("each", 5, 3, 8, each=True),
    _step("many-streams", 2, 3, 8, streams_of_a_step=9),
    _step("no-streams", 2, 3, 8, streams_of_a_step=0),
    _step("each-guided", 3, 5, 7, guided=True, history=True, each=True),
    _step("empty-batch", 0, 32, 64, guided=True),
    _step("empty-each", 0, 32, 64, each=True),
)


def benchmarks(batch: int) -> tuple[OpCase, ...]:
    """One DDPM step of the paper's latents, and one of a deterministic sampler under guidance."""
    guided = {"guided": True, "history": True, "noisy": False}
    return (_step(f"{batch}x32x64", batch, 32, 64), _step(f"{batch}x32x64-guided", batch, 32, 64, **guided))
