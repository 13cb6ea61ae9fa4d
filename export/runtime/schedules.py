"""Noise schedules in NumPy, with the same numbers as `ld4lg_fast.diffusion.schedules`.

``alpha_sq`` is the squared signal level; values are rounded to float32 where PyTorch's are.
Letters: S sampling steps, T training timesteps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import levels
from .errors import RuntimeInputError

LOG_SNR_LIMIT = 15.0
SPACINGS = ("time", "log_snr", "learned")


@dataclass(frozen=True)
class SamplingGrid:
    """Levels ``alpha_sq`` and ``log_snr`` (S+1,) from noise to data, the network's time inputs (S,), and the levels'
    ``times`` (S+1,), 1 noise and 0 data."""

    alpha_sq: np.ndarray
    network_time: np.ndarray
    log_snr: np.ndarray
    times: np.ndarray

    @property
    def num_steps(self) -> int:
        return len(self.network_time)

    @property
    def is_monotone(self) -> bool:
        """Whether no two neighbouring levels are equal or out of order, so that no step divides by zero."""
        return all((np.diff(level) > 0).all() for level in (self.alpha_sq, self.log_snr))


def sampling_grid(schedule: Mapping, num_steps: int, spacing: str = "time") -> SamplingGrid:
    """The levels of ``num_steps`` steps, strictly ascending, as in `ld4lg_fast.diffusion.schedules`.

    ``schedule`` has ``name`` and ``scale`` (continuous times), or ``alphas_cumprod`` (T,), recipe v1's table; and
    ``learned_times`` for the spacing of that name, or None. Spacings: see `ld4lg_fast.diffusion.schedules`.

    Raises:
        RuntimeInputError: an unknown spacing, missing learned times, or too many steps.
    """
    if spacing not in SPACINGS:
        raise RuntimeInputError(f"Unknown spacing {spacing!r}; choose one of {', '.join(SPACINGS)}.")
    times = _times(schedule, num_steps, spacing)
    if "alphas_cumprod" in schedule:
        return _discrete_grid(schedule["alphas_cumprod"], times, spacing)
    log_snr = _log_snr(schedule, times)
    alpha_sq = _sigmoid(log_snr)
    grid = SamplingGrid(alpha_sq, alpha_sq[:-1], log_snr, times)
    if grid.is_monotone:
        return grid
    log_snr = np.array(levels.spread(_log_snr(schedule, times.astype(np.float64)).tolist()))
    alpha_sq = _sigmoid(log_snr)
    grid = SamplingGrid(alpha_sq, alpha_sq[:-1], log_snr, times)
    if not grid.is_monotone:
        raise RuntimeInputError(levels.no_levels(schedule["name"], num_steps, strength=1.0, least=0.0))
    return grid


def _discrete_grid(alphas_cumprod: Sequence[float], times: np.ndarray, spacing: str) -> SamplingGrid:
    table = np.append(alphas_cumprod, 1.0)  # step -1 is clean data
    timesteps, num_steps = len(table) - 1, len(times) - 1
    if spacing == "time":
        steps = _linspace(-1, timesteps - 1, num_steps + 1).astype(np.int64)[::-1]
    else:
        wanted = np.round(times.astype(np.float64) * timesteps).astype(np.int64) - 1
        steps = np.array(levels.whole_steps(wanted.tolist()))
        if steps[0] >= timesteps:
            raise RuntimeInputError(levels.too_many_steps(num_steps, spacing, 1.0, timesteps, timesteps))
    alpha_sq = table[steps]
    with np.errstate(divide="ignore"):
        log_snr = np.log(alpha_sq / (1 - alpha_sq)).astype(np.float32)
    times = ((steps + 1) / timesteps).astype(np.float32)
    return SamplingGrid(alpha_sq, steps[:-1].astype(np.float32), log_snr, times)


def _times(schedule: Mapping, num_steps: int, spacing: str) -> np.ndarray:
    """S+1 descending times, float32."""
    if spacing == "time":
        return _linspace(1.0, 0.0, num_steps + 1)
    if spacing == "learned":
        learned = schedule["learned_times"]
        if learned is None:
            raise RuntimeInputError(
                "This model has no learned times; export it after ld4lg learn-timesteps, or choose the spacing time or "
                "log_snr."
            )
        if sentence := levels.check_learned(learned):
            raise RuntimeInputError(sentence)
        shares = np.linspace(0, 1, num_steps + 1)
        return np.interp(shares, np.linspace(0, 1, len(learned)), learned).astype(np.float32)
    if "alphas_cumprod" in schedule:
        table = np.array(schedule["alphas_cumprod"][::-1])
        times, curve = np.arange(len(table), 0, -1) / len(table), np.log(table / (1 - table))
    else:
        times = np.linspace(1.0, 0.0, 10_001)
        curve = np.maximum.accumulate(_log_snr(schedule, times))
    first, last = np.interp([-0.995, -0.005], -times, curve)
    times = np.interp(np.linspace(first, last, num_steps), curve, times)
    return np.append(times, 0.0).astype(np.float32)


def _log_snr(schedule: Mapping, t: np.ndarray) -> np.ndarray:
    """log(alpha_sq / (1 - alpha_sq)) of a continuous schedule, in the dtype of ``t``."""
    name, _, number = schedule["name"].partition("-")
    number = float(number or 1)
    with np.errstate(divide="ignore"):
        curve = np.clip(_curve(name, number, t), t.dtype.type(1e-9), t.dtype.type(1.0))
        log_snr = np.clip(_rounded(np.log, curve / (1 - curve)), -LOG_SNR_LIMIT, LOG_SNR_LIMIT)
    scale = schedule["scale"] * (number if name == "shifted_cosine" else 1.0)
    return (log_snr + t.dtype.type(2 * math.log(scale))).astype(t.dtype)


def is_schedule_name(name: str) -> bool:
    """Whether a continuous schedule has that name; the numbers of ``tan-D`` and ``shifted_cosine-R`` are bounded."""
    family, _, number = name.partition("-")
    if family not in ("tan", "shifted_cosine"):
        return name in ("cosine", "simple_linear", "straight", "beta_linear", "sigmoid")
    try:
        return levels.LEAST_NUMBER <= float(number) <= levels.MOST_NUMBER
    except ValueError:
        return False


def _curve(name: str, number: float, t: np.ndarray) -> np.ndarray:
    """The bare curve of a continuous schedule; ``number`` is the D of ``tan-D``."""
    half_turn = t * t.dtype.type(math.pi) / 2
    if name == "simple_linear":
        return 1 - t
    if name == "straight":
        return (1 - t) ** 2 / ((1 - t) ** 2 + t**2)
    if name == "beta_linear":
        return _rounded(np.exp, t.dtype.type(-1e-4) - 10 * t**2)
    if name == "sigmoid":
        low, high = _sigmoid(np.float32(-3)), _sigmoid(np.float32(3))
        return (high - _sigmoid(6 * t - 3)) / (high - low)
    cos_sq = _rounded(np.cos, half_turn) ** 2
    if name == "tan":
        sin_sq = _rounded(np.sin, half_turn) ** 2
        return cos_sq / (cos_sq + t.dtype.type(number**2) * sin_sq)
    return cos_sq


def _sigmoid(x: np.ndarray | np.float32) -> np.ndarray:
    return 1 / (1 + _rounded(np.exp, -x))


def _rounded(function: np.ufunc, x: np.ndarray | np.float32) -> np.ndarray:
    """A correctly rounded function, as DDPM's first step amplifies an error in the last place 1,000 times."""
    return function(x.astype(np.float64)).astype(x.dtype)


def _linspace(start: float, stop: float, count: int) -> np.ndarray:
    """float32, computed from both ends with one rounding, as torch.linspace does."""
    step = np.float64(np.float32((stop - start) / (count - 1)))
    index = np.arange(count, dtype=np.float64)
    ends = start + step * index, stop - step * (count - 1 - index)
    return np.where(index < count // 2, *ends).astype(np.float32)
