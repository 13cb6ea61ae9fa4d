"""Samplers: one update function for each, as in the paper's algorithm box, and the loop that all of them share.

An update ``(step, z, pred, history, grid, noise, …) -> z_next`` goes from level ``step`` of a `SamplingGrid` to
the next one:

* ``z`` (B, N, d): the state; ``pred``: the `Prediction` of the guided network at ``z``;
* ``history``: x_start of the previous steps, latest first, at most `HISTORY` of them;
* ``noise(step) -> (B, N, d)``: fresh standard normal noise, called by stochastic samplers only.

Every update is linear in z, x_start, history and noise. `step_coefficients` extracts its coefficients for
`ops.sampler_step`, the kernel that computes a whole step.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.process import Prediction, noise_from_x_start, prediction
from ld4lg_fast.diffusion.schedules import SamplingGrid
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime import brownian
from ld4lg_fast.kernels import ops
from ld4lg_fast.models.denoiser_base import ConditionArguments

Denoise = Callable[[Tensor, int, Tensor | None], Prediction]
Noise = Callable[[int], Tensor]
Callback = Callable[[int, Tensor, Prediction], None]
Update = Callable[..., Tensor]
History = Sequence[Tensor]

HISTORY = 2  # previous steps that a sampler may use
SMALL_STEP = 1e-5  # step of half the log-SNR below which UniPC uses a series, as differences cancel


def ddim(
    step: int,
    z: Tensor,
    pred: Prediction,
    history: History,
    grid: SamplingGrid,
    noise: Noise,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12 and 16): deterministic at eta = 0, ancestral at eta = 1."""
    if step + 1 == grid.num_steps:
        return pred.x_start
    now, after = grid.alpha_sq[step], grid.alpha_sq[step + 1]
    # The published v1 update rounds the levels to float32. Levels that differ only in float64 are not rounded; equal
    # levels belong to a timestep that v1 visits twice.
    if now == after or now.float() < after.float() < 1:
        now, after = (level.float().to(z.dtype) for level in (now, after))
    sigma = eta * ((1 - now / after) * (1 - after) / (1 - now)).sqrt()
    z = after.sqrt() * pred.x_start + (1 - after - sigma**2).sqrt() * pred.noise
    return z + sigma * noise(step) if eta > 0 else z


def ddpm(
    step: int, z: Tensor, pred: Prediction, history: History, grid: SamplingGrid, noise: Noise
) -> Tensor:
    """DDPM ancestral sampling with the larger variance (Ho et al. 2020, alg. 2, sigma² = beta)."""
    if step + 1 == grid.num_steps:
        return pred.x_start
    now, after = grid.alpha_sq[step], grid.alpha_sq[step + 1]
    ratio = now / after
    mean = (z - (1 - ratio) / (1 - now).sqrt() * pred.noise) / ratio.sqrt()
    return mean + (1 - ratio).sqrt() * noise(step)


def dpmpp_published(
    step: int, z: Tensor, pred: Prediction, history: History, grid: SamplingGrid, noise: Noise
) -> Tensor:
    """The official release's ``dpmpp``, kept for parity: first order, returns the x_start of the step before the last.

    The release never fills its history, so its second-order branch never runs and the last network evaluation is
    unused. Use `dpmpp_2m` for DPM-Solver++(2M).

    Raises:
        ConfigError: fewer than two steps.
    """
    if grid.num_steps < 2:
        raise ConfigError(
            "The sampler dpmpp_published needs at least 2 steps; ask for more, or use dpmpp_2m."
        )
    return history[0] if step + 1 == grid.num_steps else _first_order(step, z, pred.x_start, grid)


def dpmpp_2m(
    step: int, z: Tensor, pred: Prediction, history: History, grid: SamplingGrid, noise: Noise
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, alg. 2): second order, multistep, first order at both ends."""
    if step + 1 == grid.num_steps:
        return pred.x_start
    return _first_order(step, z, _extrapolated(step, pred.x_start, history, grid), grid)


def dpmpp_2m_sde(
    step: int, z: Tensor, pred: Prediction, history: History, grid: SamplingGrid, noise: Noise
) -> Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, appendix B): `dpmpp_2m` for the diffusion SDE."""
    if step + 1 == grid.num_steps:
        return pred.x_start
    h = (grid.log_snr[step + 1] - grid.log_snr[step]) / 2
    alpha, sigma = grid.alpha_sq[step + 1].sqrt(), (1 - grid.alpha_sq[step + 1]).sqrt()
    sigma_ratio = sigma / (1 - grid.alpha_sq[step]).sqrt()
    x_start = _extrapolated(step, pred.x_start, history, grid)
    mean = sigma_ratio * torch.exp(-h) * z - alpha * torch.expm1(-2 * h) * x_start
    return mean + sigma * (-torch.expm1(-2 * h)).sqrt() * noise(step)


def unipc(
    step: int, z: Tensor, pred: Prediction, history: History, grid: SamplingGrid, noise: Noise
) -> Tensor:
    """UniPC-2 (Zhao et al. 2023, alg. 1): `dpmpp_2m` with its state corrected by the evaluation at that state."""
    if step + 1 == grid.num_steps:
        return pred.x_start
    if history:
        z = z + _unic(step, pred.x_start, history, grid)
    return _first_order(step, z, _extrapolated(step, pred.x_start, history, grid), grid)


def er_sde(
    step: int, z: Tensor, pred: Prediction, history: History, grid: SamplingGrid, noise: Noise
) -> Tensor:
    """ER-SDE-Solver-2 (Cui et al. 2023, alg. 2): the extended reverse-time SDE, for few steps."""
    if step + 1 == grid.num_steps:
        return pred.x_start
    now, after = (torch.exp(-grid.log_snr[step + i] / 2) for i in (0, 1))
    scale, alpha = _er_sde_scale(after), grid.alpha_sq[step + 1].sqrt()
    keep = scale / _er_sde_scale(now)
    mean = keep * z / grid.alpha_sq[step].sqrt() + (1 - keep) * pred.x_start
    if history:
        # Integral of 1 / scale by the midpoint rule on a geometric grid.
        middles = (torch.arange(200, device=z.device, dtype=z.dtype) + 0.5) / 200
        middles = after * (now / after) ** middles
        integral = (middles / _er_sde_scale(middles)).mean() * torch.log(now / after)
        slope = (pred.x_start - history[0]) / (now - torch.exp(-grid.log_snr[step - 1] / 2))
        mean = mean + (after - now + scale * integral) * slope
    return alpha * (mean + (after**2 - (now * keep) ** 2).sqrt() * noise(step))


def _first_order(step: int, z: Tensor, x_start: Tensor, grid: SamplingGrid) -> Tensor:
    """Exact step of the diffusion ODE for a constant x_start (Lu et al. 2022, eq. 8)."""
    alpha = grid.alpha_sq[step + 1].sqrt()
    sigma_ratio = ((1 - grid.alpha_sq[step + 1]) / (1 - grid.alpha_sq[step])).sqrt()
    half_step = (grid.log_snr[step + 1] - grid.log_snr[step]) / 2
    return sigma_ratio * z - alpha * torch.expm1(-half_step) * x_start


def _extrapolated(step: int, x_start: Tensor, history: History, grid: SamplingGrid) -> Tensor:
    """x_start extrapolated linearly in log-SNR by half a step (Lu et al. 2022, alg. 2)."""
    if not history:
        return x_start
    now, after = (grid.log_snr[step + i] - grid.log_snr[step + i - 1] for i in (0, 1))
    return x_start + (x_start - history[0]) / (2 * now / after)


def _unic(step: int, x_start: Tensor, history: History, grid: SamplingGrid) -> Tensor:
    """UniC-2's correction of the state that the previous step predicted (Zhao et al. 2023, eq. 3 and proposition 5).

    B(h) = e^h - 1; the first-order terms of corrector and predictor cancel.
    """
    before, now = grid.log_snr[step - 1].double(), grid.log_snr[step].double()
    h = (before - now) / 2
    growth = torch.expm1(h)
    gain = (-grid.alpha_sq[step].double().sqrt() * growth).to(x_start.dtype)
    change = x_start - history[0]
    if len(history) == 1:
        return gain * change / 2
    ratio = (grid.log_snr[step - 2].double() - before) / 2 / -h
    if h.abs() < SMALL_STEP:
        b = 1 / 2 - h / 12, 1 / 3 - h / 12
    else:
        first = growth / h - 1
        b = first / growth, (first / h - 0.5) * 2 / growth
    rho = (b[0] - b[1]) / (1 - ratio)
    on_slope, on_change = ((rho - 0.5) / ratio).to(x_start.dtype), (b[0] - rho).to(x_start.dtype)
    return gain * (on_slope * (history[1] - history[0]) + on_change * change)


def _er_sde_scale(noise_to_signal: Tensor) -> Tensor:
    """The noise scale function of ER-SDE-5 (Cui et al. 2023, section 4.2)."""
    return noise_to_signal * (torch.exp(noise_to_signal**0.3) + 10)


SAMPLERS: dict[str, Update] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_published": dpmpp_published,
    "er_sde": er_sde,
    "unipc": unipc,
}


def guided_denoiser(
    model: LatentDiffusion,
    grid: SamplingGrid,
    guidance_scale: float = 1.0,
    project: bool = False,
    **given: Unpack[ConditionArguments],
) -> Denoise:
    """The denoiser with its conditions bound and classifier-free guidance, as `sample` calls it.

    ``w·cond + (1-w)·uncond`` (Ho & Salimans 2022); the unconditional evaluation gets the null class, the null context
    and the same self-condition. ``project``: every x_start is projected to the sphere (official sequence-to-sequence
    evaluation).
    """
    mask, class_id = given.get("mask"), given.get("class_id")
    null_id = None if class_id is None else torch.full_like(class_id, model.denoiser.config.num_classes)

    def denoise(z_t: Tensor, step: int, x_self_cond: Tensor | None) -> Prediction:
        time = grid.network_time[step].expand(z_t.shape[0])
        output = model.denoiser(z_t, time, x_self_cond=x_self_cond, **given).float()
        if guidance_scale != 1.0:
            uncond = model.denoiser(z_t, time, x_self_cond=x_self_cond, mask=mask, class_id=null_id).float()
            output = guidance_scale * output + (1 - guidance_scale) * uncond
        return prediction(output, z_t, grid.alpha_sq[step], model.diffusion.objective, project)

    return denoise


def _no_noise(step: int) -> Tensor:
    raise ValueError("This sampler is stochastic; give noise.")


def sample(
    update: Update,
    denoise: Denoise,
    z: Tensor,
    grid: SamplingGrid,
    *,
    noise: Noise = _no_noise,
    callback: Callback = lambda step, z, pred: None,
    **options: float,
) -> Tensor:
    """Runs all steps: from the starting noise z (B, N, d) to the last x_start, with ``options`` of the update.

    ``denoise(z_t, step, x_self_cond) -> Prediction`` is the guided network in step 0 … S-1; its self-condition is the
    x_start of the previous step. ``callback(step, z_next, prediction)`` is called after every step.
    """
    history: list[Tensor] = []
    for step in range(grid.num_steps):
        pred = denoise(z, step, history[0] if history else None)
        z = update(step, z, pred, history, grid, noise, **options)
        history = [pred.x_start, *history[: HISTORY - 1]]
        callback(step, z, pred)
    return z


def path_noise(
    seed: int, sample_ids: Tensor, shape: Sequence[int], num_steps: int, spacing: str = "time"
) -> Noise:
    """The engine's noise for `sample`: each sample's steps are increments of its Brownian path (`brownian`)."""
    steps = brownian.step_noise(num_steps, spacing)
    return brownian.path_noise(steps, lambda stream: ops.philox_normal(seed, sample_ids, stream, shape))


def get_update(name: str) -> Update:
    """The update of that name.

    Raises:
        ConfigError: unknown name.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"Unknown sampler {name!r}; choose one of {', '.join(SAMPLERS)}.")
    return SAMPLERS[name]


def get_sampler(name: str) -> Callable[..., Tensor]:
    """`sample` with the update of that name."""
    return partial(sample, get_update(name))


def step_coefficients(
    update: Update, grid: SamplingGrid, objective: str, guidance_scales: Sequence[float], **options: float
) -> Tensor:
    """Coefficients (S, 8) float32, on the CPU, of a sampler's S steps with their guidance scales.

    Columns 0-2: of z, the conditional and the unconditional output in x_start. Columns 3-7: of z, x_start, the previous
    x_start, noise, and the x_start before that in the next z. `ops.sampler_step` takes the first 7. They are found by
    applying the linear maps to unit vectors, in float64, as in `ddpm`'s first steps z's coefficient is a difference of
    almost equal numbers.
    """
    grid = SamplingGrid(*(tensor.to("cpu", torch.float64) for tensor in vars(grid).values()))
    z_unit, output_unit = torch.eye(2, dtype=torch.float64)
    z, x_start, x_prev, noise, x_before = torch.eye(3 + HISTORY, dtype=torch.float64)
    rows = []
    for step in range(grid.num_steps):
        level = grid.alpha_sq[step]
        from_z, from_output = prediction(output_unit, z_unit, level, objective).x_start
        scale = guidance_scales[step]
        guided = torch.stack([from_z, scale * from_output, (1 - scale) * from_output])
        pred = Prediction(noise_from_x_start(z, x_start, level), x_start, v=torch.zeros(()))
        history = (x_prev, x_before)[:step]
        z_next = update(step, z, pred, history, grid, lambda step: noise, **options)
        rows.append(torch.cat([guided, z_next]))
    return torch.stack(rows).float()
