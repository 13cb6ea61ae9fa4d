"""Samplers in NumPy, with the same numbers as `ld4lg_fast.diffusion.samplers`.

Every sampler is linear in the state, the predictions and the noise, so a run is a table of coefficients, computed in
float64 and rounded at the end as in the PyTorch engine. ``alpha_sq`` is the squared signal level.
Letters: S sampling steps, B batch, N positions, d latent width.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from .errors import RuntimeInputError
from .schedules import SamplingGrid

Array = np.ndarray
OBJECTIVES = ("pred_v", "pred_x0", "pred_noise", "pred_flow")


SMALL_STEP = 1e-5  # see `ld4lg_fast.diffusion.samplers`


def _noise_from_x_start(z: np.ndarray, x_start: np.ndarray, alpha_sq: np.float64) -> np.ndarray:
    return (z - np.sqrt(alpha_sq) * x_start) / max(np.sqrt(1 - alpha_sq), 1e-8)


def _x_start(z: np.ndarray, output: np.ndarray, alpha_sq: np.float64, objective: str) -> np.ndarray:
    """x_start from a network's output under ``objective``."""
    alpha, sigma = np.sqrt(alpha_sq), np.sqrt(1 - alpha_sq)
    if objective == "pred_noise":
        return (z - sigma * output) / max(alpha, 1e-8)
    if objective == "pred_flow":
        return (z - sigma * output) / (alpha + sigma)
    return output if objective == "pred_x0" else alpha * z - sigma * output


# Updates from level ``step`` to the next: (step, z, x_start, history, grid, noise) -> z.
# ``history`` are the x_start of the steps before, the latest first.


def _ddim(
    step: int,
    z: Array,
    x_start: Array,
    history: Sequence[Array],
    grid: SamplingGrid,
    noise: Array,
    eta: float = 0.0,
) -> Array:
    """Song et al. 2021, eq. 12 and 16: deterministic at eta = 0, ancestral at eta = 1."""
    now, after = grid.alpha_sq[step], grid.alpha_sq[step + 1]
    if np.float32(now) < np.float32(after) < 1:
        now, after = np.float64(np.float32(now)), np.float64(np.float32(after))  # as published
    sigma = eta * np.sqrt((1 - now / after) * (1 - after) / (1 - now))
    predicted = _noise_from_x_start(z, x_start, grid.alpha_sq[step])
    return np.sqrt(after) * x_start + np.sqrt(1 - after - sigma**2) * predicted + sigma * noise


def _ddpm(
    step: int, z: Array, x_start: Array, history: Sequence[Array], grid: SamplingGrid, noise: Array
) -> Array:
    """Ho et al. 2020, alg. 2, with the larger variance."""
    now, ratio = grid.alpha_sq[step], grid.alpha_sq[step] / grid.alpha_sq[step + 1]
    z = z - (1 - ratio) / np.sqrt(1 - now) * _noise_from_x_start(z, x_start, now)
    return z / np.sqrt(ratio) + np.sqrt(1 - ratio) * noise


def _dpmpp_published(
    step: int, z: Array, x_start: Array, history: Sequence[Array], grid: SamplingGrid, noise: Array
) -> Array:
    """The official release's ``dpmpp``: the exact step of the ODE for a constant x_start."""
    now, after = grid.alpha_sq[step], grid.alpha_sq[step + 1]
    half_step = (grid.log_snr[step + 1] - grid.log_snr[step]) / 2
    gain = np.sqrt(after) * np.expm1(-half_step)
    return np.sqrt((1 - after) / (1 - now)) * z - gain * x_start


def _dpmpp_2m(
    step: int, z: Array, x_start: Array, history: Sequence[Array], grid: SamplingGrid, noise: Array
) -> Array:
    """Lu et al. 2022, alg. 2: second order, multistep."""
    return _dpmpp_published(step, z, _extrapolated(step, x_start, history, grid), (), grid, noise)


def _dpmpp_2m_sde(
    step: int, z: Array, x_start: Array, history: Sequence[Array], grid: SamplingGrid, noise: Array
) -> Array:
    """Lu et al. 2022, appendix B: `_dpmpp_2m` for the SDE."""
    now, after = grid.alpha_sq[step], grid.alpha_sq[step + 1]
    half_step = (grid.log_snr[step + 1] - grid.log_snr[step]) / 2
    alpha, sigma, shrink = np.sqrt(after), np.sqrt(1 - after), np.expm1(-2 * half_step)
    keep = sigma / np.sqrt(1 - now) * np.exp(-half_step)
    x_start = _extrapolated(step, x_start, history, grid)
    mean = keep * z - alpha * shrink * x_start
    return mean + sigma * np.sqrt(-shrink) * noise


def _unipc(
    step: int, z: Array, x_start: Array, history: Sequence[Array], grid: SamplingGrid, noise: Array
) -> Array:
    """Zhao et al. 2023, alg. 1, UniPC-2: 2M with its state corrected by the evaluation at that state."""
    if history:
        z = z + _unic(step, x_start, history, grid)
    return _dpmpp_2m(step, z, x_start, history, grid, noise)


def _unic(step: int, x_start: Array, history: Sequence[Array], grid: SamplingGrid) -> Array:
    before, now = grid.log_snr[step - 1], grid.log_snr[step]
    h = (before - now) / 2
    growth = np.expm1(h)
    gain = -np.sqrt(grid.alpha_sq[step]) * growth
    change = x_start - history[0]
    if len(history) == 1:
        return gain * change / 2
    ratio = (grid.log_snr[step - 2] - before) / 2 / -h
    if abs(h) < SMALL_STEP:
        b = 1 / 2 - h / 12, 1 / 3 - h / 12
    else:
        first = growth / h - 1
        b = first / growth, (first / h - 0.5) * 2 / growth
    rho = (b[0] - b[1]) / (1 - ratio)
    slope = (rho - 0.5) / ratio * (history[1] - history[0])
    return gain * (slope + (b[0] - rho) * change)


def _er_sde(
    step: int, z: Array, x_start: Array, history: Sequence[Array], grid: SamplingGrid, noise: Array
) -> Array:
    """Cui et al. 2023, alg. 2, with the noise scale of ER-SDE-5."""

    def scale(ratio: Array) -> Array:
        return ratio * (np.exp(ratio**0.3) + 10)

    now, after = (np.exp(-grid.log_snr[step + i] / 2) for i in (0, 1))
    keep, alpha = scale(after) / scale(now), np.sqrt(grid.alpha_sq[step + 1])
    mean = keep / np.sqrt(grid.alpha_sq[step]) * z + (1 - keep) * x_start
    if history:
        middles = after * (now / after) ** ((np.arange(200) + 0.5) / 200)
        integral = (middles / scale(middles)).mean() * np.log(now / after)
        gap = now - np.exp(-grid.log_snr[step - 1] / 2)
        mean = mean + (after - now + scale(after) * integral) / gap * (x_start - history[0])
    return alpha * (mean + np.sqrt(after**2 - (now * keep) ** 2) * noise)


def _extrapolated(step: int, x_start: Array, history: Sequence[Array], grid: SamplingGrid) -> Array:
    if not history:
        return x_start
    now, after = (grid.log_snr[step + i] - grid.log_snr[step + i - 1] for i in (0, 1))
    return x_start + (x_start - history[0]) / (2 * now / after)


SAMPLERS = {
    "ddim": _ddim,
    "ddpm": _ddpm,
    "dpmpp_2m": _dpmpp_2m,
    "dpmpp_2m_sde": _dpmpp_2m_sde,
    "dpmpp_published": _dpmpp_published,
    "er_sde": _er_sde,
    "unipc": _unipc,
}


def step_table(sampler: str, grid: SamplingGrid, objective: str, eta: float = 0.0) -> np.ndarray:
    """Coefficients (S, 7) float32 of each step: of z and the output in x_start, then of z, x_start, the x_start
    before, fresh noise and the x_start before that in the next z. ``eta`` is DDIM's.

    Raises:
        RuntimeInputError: an unknown sampler, or one that needs more steps.
    """
    if sampler not in SAMPLERS:
        raise RuntimeInputError(f"Unknown sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}.")
    if sampler == "dpmpp_published" and grid.num_steps < 2:
        raise RuntimeInputError(
            "The sampler dpmpp_published needs at least 2 steps; ask for more, or use dpmpp_2m."
        )
    grid = SamplingGrid(*(level.astype(np.float64) for level in vars(grid).values()))
    z_unit, output_unit = np.eye(2)
    z, x_start, x_prev, noise, x_before = np.eye(5)
    update = partial(_ddim, eta=eta) if sampler == "ddim" else SAMPLERS[sampler]
    rows = []
    for step in range(grid.num_steps):
        if step + 1 == grid.num_steps:
            # The release's sampler returns the x_start of the step before the last.
            after = x_prev if sampler == "dpmpp_published" else x_start
        else:
            after = update(step, z, x_start, (x_prev, x_before)[:step], grid, noise)
        from_network = _x_start(z_unit, output_unit, grid.alpha_sq[step], objective)
        rows.append(np.concatenate([from_network, after]))
    return np.stack(rows).astype(np.float32)


Network = Callable[[np.ndarray, int, "np.ndarray | None"], np.ndarray]


def sample(
    table: np.ndarray,
    network: Network,
    z: np.ndarray,
    noise: Callable[[int], np.ndarray],
    project: bool = False,
    lead: Callable[[int, np.ndarray], np.ndarray] | None = None,
    on_step: Callable[[int, np.ndarray], None] | None = None,
) -> np.ndarray:
    """From the starting noise z (B, N, d) to latents, by the coefficients of `step_table`.

    ``network(z, step, x_prev)`` is the guided network, with the x_start of the step before; ``noise(step)`` fresh
    noise. ``lead(step, x_start)`` changes every x_start; ``project`` projects it to the sphere of radius √d.
    ``on_step(step, x_start)`` is called after every step, the first is 1.
    """
    x_start = x_prev = None
    for step, (from_z, from_output, *to_next) in enumerate(table):
        x_before, x_prev = x_prev, x_start
        output = network(z, step, x_start)
        x_start = from_z * z + from_output * output
        if lead is not None:
            x_start = lead(step, x_start)
        if project:
            norm = np.maximum(np.linalg.norm(x_start, axis=-1, keepdims=True), np.float32(1e-12))
            x_start = x_start / norm * np.float32(math.sqrt(x_start.shape[-1]))
        if on_step is not None:
            on_step(step + 1, x_start)
        z = to_next[0] * z + to_next[1] * x_start
        if to_next[2]:
            z = z + to_next[2] * x_prev
        if to_next[3]:
            z = z + to_next[3] * noise(step)
        if to_next[4]:
            z = z + to_next[4] * x_before
    return z
