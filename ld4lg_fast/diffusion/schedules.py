"""Noise schedules, from time to squared signal level, and the grids of levels that samplers visit.

Everywhere ``alpha_sq`` is the squared signal level (what the official code calls alpha) and
``log_snr = log(alpha_sq / (1 - alpha_sq))``. Two families:

* `ContinuousSchedule` (recipe v2): t in [0, 1], t = 0 is data. The network's time input is ``alpha_sq``.
* `DiscreteSchedule` (recipe v1): integer steps 0 … T-1 of a beta table. The network's time input is the step.

Letters: S sampling steps, T training timesteps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime import levels
from ld4lg_fast.export.runtime.levels import LEAST_NUMBER, MOST_NUMBER

LOG_SNR_LIMIT = 15.0


def _cosine(t: Tensor) -> Tensor:
    return torch.cos(t * math.pi / 2) ** 2


def _simple_linear(t: Tensor) -> Tensor:
    return 1 - t


def _beta_linear(t: Tensor) -> Tensor:
    return torch.exp(-1e-4 - 10 * t**2)


def _sigmoid(t: Tensor) -> Tensor:
    # The end points are float32 constants even for float64 times, as published (golden NOTES 21).
    low, high = torch.tensor(-3.0).sigmoid(), torch.tensor(3.0).sigmoid()
    return (high - (6 * t - 3).sigmoid()) / (high - low)


def _tan(t: Tensor, d: float) -> Tensor:
    """The tan-d schedule of TEncDM (Shabalin et al. 2024): alpha_sq = 1 / (1 + d² tan²(πt/2))."""
    cos_sq, sin_sq = torch.cos(t * math.pi / 2) ** 2, torch.sin(t * math.pi / 2) ** 2
    return cos_sq / (cos_sq + d**2 * sin_sq)


def _straight(t: Tensor) -> Tensor:
    """The linear path of flow matching (Lipman et al. 2023): amplitudes of signal and noise are as 1-t to t."""
    return (1 - t) ** 2 / ((1 - t) ** 2 + t**2)


_PLAIN = {
    "cosine": _cosine,
    "simple_linear": _simple_linear,
    "beta_linear": _beta_linear,
    "sigmoid": _sigmoid,
    "straight": _straight,
}


def _number_after(name: str, prefix: str) -> float | None:
    if not name.startswith(prefix):
        return None
    try:
        number = float(name[len(prefix) :])
    except ValueError:
        return None
    return number if LEAST_NUMBER <= number <= MOST_NUMBER else None


@dataclass(frozen=True)
class ContinuousSchedule:
    """``alpha_sq(t)`` for t in [0, 1] (Lovelace et al. 2023; shift: Hoogeboom et al. 2023, Chen 2023).

    ``alpha_sq(t) = sigmoid(clip(logit(unshifted(t)), -15, 15) + 2 ln(scale))``

    Args:
        name: ``cosine``, ``simple_linear``, ``beta_linear``, ``sigmoid``, ``straight``; ``tan-D`` with a number D
            (``tan-9``; D = 1 is cosine); ``shifted_cosine-R`` with a number R, the cosine schedule
            whose log-SNR is moved by ``2 ln R`` (R < 1 means more noise). Both from 0.001 to 1000.
        scale: factor on the signal-to-noise amplitude of any schedule; smaller means more noise. ``scale`` times R is
            in the same range.

    Raises:
        ConfigError: unknown name, or a number out of range.
    """

    name: str = "cosine"
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in _PLAIN and not self._tan_d and not self._shift:
            raise ConfigError(
                f"Unknown noise schedule {self.name!r}; choose one of {', '.join(_PLAIN)}, "
                "tan-D (e.g. tan-9) or shifted_cosine-R (e.g. shifted_cosine-0.5), with D and R from "
                f"{LEAST_NUMBER:g} to {MOST_NUMBER:g}."
            )
        if not LEAST_NUMBER <= self.scale * (self._shift or 1.0) <= MOST_NUMBER:
            times = f" times the {self._shift:g} of {self.name}" if self._shift else ""
            raise ConfigError(
                f"Schedule scale {self.scale}{times} must be a positive number from {LEAST_NUMBER:g} to "
                f"{MOST_NUMBER:g}."
            )

    @property
    def _tan_d(self) -> float | None:
        return _number_after(self.name, "tan-")

    @property
    def _shift(self) -> float | None:
        return _number_after(self.name, "shifted_cosine-")

    def unshifted(self, t: Tensor) -> Tensor:
        """The bare curve, clamped below at 1e-9; same shape and dtype as ``t``."""
        if self.name in _PLAIN:
            curve = _PLAIN[self.name](t)
        elif self._tan_d:
            curve = _tan(t, self._tan_d)
        else:
            curve = _cosine(t)
        return curve.clamp(1e-9, 1.0)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha_sq / (1 - alpha_sq)), clamped to ±15 before the shift."""
        curve = self.unshifted(t)
        log_snr = torch.log(curve / (1 - curve)).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        return log_snr + 2 * math.log(self.scale * (self._shift or 1.0))

    def alpha_sq(self, t: Tensor) -> Tensor:
        """Squared signal level, in (0, 1); same shape and dtype as ``t``."""
        return self.log_snr(t).sigmoid()


class DiscreteSchedule:
    """Cumulative products of a beta table over T integer steps (recipe v1; Ho et al. 2020).

    Args:
        name: ``linear`` (1e-4 … 0.02, not rescaled with T), ``cosine`` (s = 0.008) or ``sqrt`` (s = 1e-4).
        num_train_timesteps: T.

    ``betas`` and ``alphas_cumprod`` (T,) are float64: near data, ``1 - alpha_sq`` has only three digits in float32, and
    the noise prediction divides by its root.

    Raises:
        ConfigError: unknown name, fewer than one step, or so many that levels are equal in float64.
    """

    MAX_BETA = 0.999

    def __init__(self, name: str = "linear", num_train_timesteps: int = 1000) -> None:
        if num_train_timesteps < 1:
            raise ConfigError(f"num_train_timesteps {num_train_timesteps} must be at least 1.")
        self.name, self.num_train_timesteps = name, num_train_timesteps
        # On the CPU also if a model is built on the meta device.
        linspace = partial(torch.linspace, dtype=torch.float64, device="cpu")
        if name == "linear":
            betas = linspace(1e-4, 0.02, num_train_timesteps)
        elif name in ("cosine", "sqrt"):
            grid = linspace(0, 1, num_train_timesteps + 1)
            if name == "cosine":
                curve = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
            else:
                curve = 1 - torch.sqrt(grid + 1e-4)
            curve = curve / curve[0]
            betas = (1 - curve[1:] / curve[:-1]).clamp(0, self.MAX_BETA)
        else:
            raise ConfigError(f"Unknown beta schedule {name!r}; choose linear, cosine or sqrt.")
        self.betas = betas
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        if not (self.alphas_cumprod > 0).all() or not (self.alphas_cumprod.diff() < 0).all():
            raise ConfigError(
                f"num_train_timesteps {num_train_timesteps} is too many for the beta schedule {name!r}, some of whose "
                "noise levels are the same; choose fewer."
            )
        self._tables = {self.alphas_cumprod.device: self.alphas_cumprod}

    def alpha_sq(self, t: Tensor) -> Tensor:
        """Squared signal level, float64, at integer steps ``t``; -1 stands for clean data (level 1)."""
        if t.device not in self._tables:
            self._tables[t.device] = self.alphas_cumprod.to(t.device)
        table = self._tables[t.device]
        return torch.where(t < 0, table.new_ones(()), table[t.clamp(min=0)])


Schedule = ContinuousSchedule | DiscreteSchedule

SPACINGS = ("time", "log_snr", "learned")


def _log_snr_curve(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """Times from 1 to 0 and their log-SNRs, ascending, both float64."""
    if isinstance(schedule, DiscreteSchedule):
        times = np.arange(schedule.num_train_timesteps, 0, -1) / schedule.num_train_timesteps
        return times, torch.logit(schedule.alphas_cumprod.flip(0)).numpy()
    times = np.linspace(1.0, 0.0, 10_001)
    return times, np.maximum.accumulate(schedule.log_snr(torch.from_numpy(times)).numpy())


def sampling_times(
    schedule: Schedule, num_steps: int, spacing: str = "time", learned: Sequence[float] | None = None
) -> Tensor:
    """The S+1 descending times of a sampler's steps, 1 noise and 0 data.

    Args:
        spacing: ``time``: equal steps, as published. ``log_snr``: equal steps of log-SNR between times 0.995 and
            0.005 (Lu et al. 2022, section 5), then to data. ``learned``: quantiles of the list ``learned``.
        learned: the model's own times from 1 to 0, see `learned_timesteps.learn_timesteps`.

    Raises:
        ConfigError: ``num_steps`` below 1, an unknown spacing, or learned times that are missing or not descending.
    """
    if num_steps < 1:
        raise ConfigError(f"The number of sampling steps is {num_steps}; it must be at least 1.")
    if spacing not in SPACINGS:
        raise ConfigError(f"Unknown spacing {spacing!r}; choose one of {', '.join(SPACINGS)}.")
    if spacing == "time":
        return torch.linspace(1.0, 0.0, num_steps + 1)
    if spacing == "learned":
        if learned is None:
            raise ConfigError(
                "This model has no learned times; learn them with ld4lg learn-timesteps RUN_DIR, or choose the spacing "
                "time or log_snr."
            )
        if sentence := levels.check_learned(learned):
            raise ConfigError(sentence)
        shares = np.linspace(0, 1, num_steps + 1)
        return torch.from_numpy(np.interp(shares, np.linspace(0, 1, len(learned)), learned)).float()
    times, curve = _log_snr_curve(schedule)
    first, last = np.interp([-0.995, -0.005], -times, curve)
    times = np.interp(np.linspace(first, last, num_steps), curve, times)
    return torch.from_numpy(np.append(times, 0.0)).float()


@dataclass(frozen=True)
class SamplingGrid:
    """The noise levels of a sampler's S steps, strictly ascending from noise to data.

    ``alpha_sq`` (S+1,): ``[k]`` before step k, ``[k + 1]`` after it.
    ``network_time`` (S,): the network's time input in step k (``alpha_sq``, or v1's integer step).
    ``log_snr`` (S+1,): computed without the cancellation in ``1 - alpha_sq``.
    ``times`` (S+1,) float32: the times of these levels, 1 noise and 0 data.

    Levels are float32 (v1: ``alpha_sq`` float64), or float64 where they would be equal in float32.
    """

    alpha_sq: Tensor
    network_time: Tensor
    log_snr: Tensor
    times: Tensor

    @property
    def num_steps(self) -> int:
        return self.network_time.shape[0]

    @property
    def is_monotone(self) -> bool:
        """Whether no two neighbouring levels are equal or out of order, so that no step divides by zero."""
        changes = (self.alpha_sq.diff(), self.log_snr.diff())
        return all(bool((change > 0).all() or (change < 0).all()) for change in changes)

    def to(self, device: torch.device | str) -> "SamplingGrid":
        return SamplingGrid(*(tensor.to(device) for tensor in vars(self).values()))


def sampling_grid(
    schedule: Schedule,
    num_steps: int,
    spacing: str = "time",
    learned: Sequence[float] | None = None,
    first: float = 1.0,
) -> SamplingGrid:
    """The levels at ``first`` times the `sampling_times`; ``first`` is below 1 if sampling starts from noised latents.

    Recipe v1 truncates equal steps from time 1 to integers, as published (more than T of them repeat some, which the
    engine refuses), and rounds other times. Equal levels, at a schedule's clamped ends or after rounding to float32,
    are moved apart (`levels.spread`); in recipe v1 towards noise by whole steps, but not beyond the first.

    Raises:
        ConfigError: as `sampling_times`, or more steps than there are distinct levels.
    """
    times = first * sampling_times(schedule, num_steps, spacing, learned)
    if isinstance(schedule, DiscreteSchedule):
        return _discrete_grid(schedule, times, spacing, first)
    alpha_sq = schedule.alpha_sq(times)
    grid = SamplingGrid(alpha_sq, alpha_sq[:-1], schedule.log_snr(times), times)
    if grid.is_monotone:
        return grid
    log_snr = torch.tensor(levels.spread(schedule.log_snr(times.double()).tolist()), dtype=torch.float64)
    alpha_sq = log_snr.sigmoid()
    grid = SamplingGrid(alpha_sq, alpha_sq[:-1].float(), log_snr, times)
    if not grid.is_monotone:
        curve_times, curve = _log_snr_curve(schedule)
        noisy = curve_times[curve < curve.max() - levels.range_of(num_steps, curve.max())]
        raise ConfigError(levels.no_levels(schedule.name, num_steps, first, noisy.min(initial=1.0)))
    return grid


def _discrete_grid(schedule: DiscreteSchedule, times: Tensor, spacing: str, first: float) -> SamplingGrid:
    timesteps, num_steps = schedule.num_train_timesteps, len(times) - 1
    if spacing == "time" and first == 1.0:
        steps = torch.linspace(-1, timesteps - 1, num_steps + 1).int().long().flip(0)
    else:
        wanted = (times.double() * timesteps).round().long() - 1
        steps = torch.tensor(levels.whole_steps(wanted.tolist()))
        if steps[0] > (timesteps - 1 if first == 1.0 else wanted[0]):
            there = round(torch.tensor(first).double().item() * timesteps)
            raise ConfigError(levels.too_many_steps(num_steps, spacing, first, there, timesteps))
    alpha_sq = schedule.alpha_sq(steps)
    return SamplingGrid(alpha_sq, steps[:-1], torch.logit(alpha_sq).float(), (steps + 1) / timesteps)
