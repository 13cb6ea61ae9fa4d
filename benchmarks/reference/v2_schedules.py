"""The official release's noise schedules and conversions; ``alpha`` is the squared signal level, as there."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

LOG_SNR_LIMIT = 15.0


def _cosine(t: Tensor) -> Tensor:
    return torch.cos(t * math.pi / 2) ** 2


def _simple_linear(t: Tensor) -> Tensor:
    return 1 - t


def _beta_linear(t: Tensor) -> Tensor:
    return torch.exp(-1e-4 - 10 * t**2)


def _sigmoid(t: Tensor, start: float = -3.0, end: float = 3.0) -> Tensor:
    # The end points are float32 numbers whatever the type of t.
    low, high = torch.tensor(start).sigmoid(), torch.tensor(end).sigmoid()
    return (high - (t * (end - start) + start).sigmoid()) / (high - low)


SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "simple_linear": _simple_linear,
    "beta_linear": _beta_linear,
    "cosine": _cosine,
    "sigmoid": _sigmoid,
}


def unshifted(name: str, t: Tensor) -> Tensor:
    """The bare curve at times t in [0, 1], clipped to [1e-9, 1]."""
    return SCHEDULES[name](t).clamp(1e-9, 1.0)


def log_snr(name: str, t: Tensor, scale: float = 1.0) -> Tensor:
    """log(alpha / (1 - alpha)), clamped to ±15 and then moved by 2 ln(scale)."""
    alpha = unshifted(name, t)
    ratio = torch.log(alpha / (1 - alpha)).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
    return ratio + 2 * math.log(scale)


def alpha_at(name: str, t: Tensor, scale: float = 1.0) -> Tensor:
    """Squared signal level at times t."""
    return log_snr(name, t, scale).sigmoid()


def time_pairs(num_steps: int, device: torch.device | str = "cpu") -> Tensor:
    """(now, next) times of the samplers, (S, 2): equal steps from 1 to 0."""
    times = torch.linspace(1.0, 0.0, num_steps + 1, device=device)
    return torch.stack((times[:-1], times[1:]), dim=1)


def _over(denominator: Tensor) -> Tensor:
    return denominator.clamp(min=1e-8)


def start_from_noise(z_t: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    return (z_t - (1 - alpha).sqrt() * noise) / _over(alpha.sqrt())


def noise_from_start(z_t: Tensor, x_start: Tensor, alpha: Tensor) -> Tensor:
    return (z_t - alpha.sqrt() * x_start) / _over((1 - alpha).sqrt())


def start_from_v(z_t: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    return alpha.sqrt() * z_t - (1 - alpha).sqrt() * v


def noise_from_v(z_t: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    return (1 - alpha).sqrt() * z_t + alpha.sqrt() * v


def v_from_start_and_noise(x_start: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * x_start
