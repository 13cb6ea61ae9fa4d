"""Samplers: from noise to a latent along a `SamplingGrid`, as in the papers' algorithm boxes.

All share one signature: ``sample_*(denoise, z, grid, *, noise=None, callback=None, …) -> x_start``.

* ``denoise(z_t, step, x_self_cond) -> Prediction``: the guided network in step ``step`` (0 … S-1).
* ``z`` (B, N, d): the starting noise. ``noise(step) -> (B, N, d)``: fresh normal noise of that step.
* ``callback(step, z_next, prediction)`` is called after every step.

Every sampler feeds the x_start of a step to the next one as its self-condition, and returns the last x_start.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ld4lg_fast.diffusion import Prediction
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.schedules import SamplingGrid

Denoise = Callable[[Tensor, int, Tensor | None], Prediction]
Noise = Callable[[int], Tensor]
Callback = Callable[[int, Tensor, Prediction], None]


def _ignore(step: int, z: Tensor, prediction: Prediction) -> None:
    pass


def sample_ddim(
    denoise: Denoise,
    z: Tensor,
    grid: SamplingGrid,
    *,
    noise: Noise | None = None,
    callback: Callback = _ignore,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12 and 16): deterministic at eta = 0, ancestral at eta = 1."""
    # v1's float64 levels are for the conversions; the published update rounds them to the latent's type.
    alpha_sq = grid.alpha_sq.to(z.dtype)
    x_self_cond = None
    for step in range(grid.num_steps):
        now, after = alpha_sq[step], alpha_sq[step + 1]
        pred = denoise(z, step, x_self_cond)
        x_self_cond = pred.x_start
        if step + 1 == grid.num_steps:
            z = pred.x_start
        else:
            sigma = eta * ((1 - now / after) * (1 - after) / (1 - now)).sqrt()
            z = after.sqrt() * pred.x_start + (1 - after - sigma**2).sqrt() * pred.noise
            if eta > 0:
                z = z + sigma * noise(step)
        callback(step, z, pred)
    return z


def sample_ddpm(
    denoise: Denoise,
    z: Tensor,
    grid: SamplingGrid,
    *,
    noise: Noise,
    callback: Callback = _ignore,
) -> Tensor:
    """DDPM ancestral sampling with the larger variance (Ho et al. 2020, alg. 2, sigma² = beta)."""
    x_self_cond = None
    for step in range(grid.num_steps):
        now, after = grid.alpha_sq[step], grid.alpha_sq[step + 1]
        pred = denoise(z, step, x_self_cond)
        x_self_cond = pred.x_start
        if step + 1 == grid.num_steps:
            z = pred.x_start
        else:
            ratio = now / after
            mean = (z - (1 - ratio) / (1 - now).sqrt() * pred.noise) / ratio.sqrt()
            z = mean + (1 - ratio).sqrt() * noise(step)
        callback(step, z, pred)
    return z


def sample_dpmpp_published(
    denoise: Denoise,
    z: Tensor,
    grid: SamplingGrid,
    *,
    noise: Noise | None = None,
    callback: Callback = _ignore,
) -> Tensor:
    """The official release's ``dpmpp``, kept for parity: first order, and it returns the last but one x_start.

    Its history is never filled, so the second-order branch never runs, and the last network evaluation is
    wasted. Use `sample_dpmpp_2m` for the method itself.

    Raises:
        ConfigError: fewer than two steps.
    """
    if grid.num_steps < 2:
        raise ConfigError(
            "The sampler dpmpp_published needs at least 2 steps; ask for more, or use dpmpp_2m."
        )
    x_self_cond = None
    for step in range(grid.num_steps):
        pred = denoise(z, step, x_self_cond)
        z = x_self_cond if step + 1 == grid.num_steps else _first_order(z, pred.x_start, grid, step)
        x_self_cond = pred.x_start
        callback(step, z, pred)
    return z


def sample_dpmpp_2m(
    denoise: Denoise,
    z: Tensor,
    grid: SamplingGrid,
    *,
    noise: Noise | None = None,
    callback: Callback = _ignore,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, alg. 2): second order, multistep, first order at both ends."""
    lambda_t = grid.log_snr / 2
    x_self_cond = None
    for step in range(grid.num_steps):
        pred = denoise(z, step, x_self_cond)
        if step + 1 == grid.num_steps:
            z = pred.x_start
        elif x_self_cond is None:
            z = _first_order(z, pred.x_start, grid, step)
        else:
            ratio = (lambda_t[step] - lambda_t[step - 1]) / (lambda_t[step + 1] - lambda_t[step])
            extrapolated = pred.x_start + (pred.x_start - x_self_cond) / (2 * ratio)
            z = _first_order(z, extrapolated, grid, step)
        x_self_cond = pred.x_start
        callback(step, z, pred)
    return z


def _first_order(z: Tensor, x_start: Tensor, grid: SamplingGrid, step: int) -> Tensor:
    """Exact step of the diffusion ODE for a constant x_start (Lu et al. 2022, eq. 8)."""
    alpha = grid.alpha_sq[step + 1].sqrt()
    sigma_ratio = ((1 - grid.alpha_sq[step + 1]) / (1 - grid.alpha_sq[step])).sqrt()
    half_step = (grid.log_snr[step + 1] - grid.log_snr[step]) / 2
    return sigma_ratio * z - alpha * torch.expm1(-half_step) * x_start


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": sample_ddim,
    "ddpm": sample_ddpm,
    "dpmpp_2m": sample_dpmpp_2m,
    "dpmpp_published": sample_dpmpp_published,
}


def get_sampler(name: str) -> Callable[..., Tensor]:
    """The sampler of that name.

    Raises:
        ConfigError: unknown name.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"Unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}.")
    return SAMPLERS[name]
