"""Separation of equal noise levels, and error sentences about levels and latents.

Shared by the package (PyTorch) and the exported runtime (NumPy). Uses the standard library only. Letters: S sampling
steps, T training timesteps.
"""

import math
from collections.abc import Sequence

# Of a schedule's D, R and scale: beyond them, log-SNR has the same sign at nearly all times.
LEAST_NUMBER, MOST_NUMBER = 0.001, 1000.0
SMALLEST_SHARE = 0.1  # the smallest step of log-SNR after `spread`, relative to the mean step


def spread(log_snr: Sequence[float]) -> list[float]:
    """Ascending levels (S+1,), moved as little as necessary for every step to be at least a tenth of the mean step.

    A schedule's clamped ends and rounding make levels equal, and samplers then compute 0 / 0. Both ends stay in place,
    so if all levels are equal, they remain so.
    """
    first, steps = log_snr[0], len(log_snr) - 1
    least = SMALLEST_SHARE * (log_snr[-1] - first) / steps
    apart, ceiling = [], math.inf
    for step in reversed(range(steps + 1)):
        ceiling = min(log_snr[step], ceiling - least)
        apart.append(max(ceiling, first + step * least))
    return apart[::-1]


def range_of(num_steps: int, last: float) -> float:
    """The range of log-SNR up to ``last`` that `spread` needs for squared signal levels to differ in float64."""
    return num_steps / SMALLEST_SHARE * 2**-52 * (1 + math.exp(last))


def whole_steps(wanted: Sequence[int]) -> list[int]:
    """Descending timesteps (S+1,); equal ones are moved apart, towards noise."""
    apart: list[int] = []
    for step in reversed(wanted):
        apart.append(max(step, apart[-1] + 1) if apart else step)
    return apart[::-1]


def check_learned(times: object) -> str | None:
    """The sentence that refuses learned times that do not descend from 1 to 0, or None."""
    if (
        not isinstance(times, Sequence)
        or len(times) < 2
        or not all(isinstance(time, int | float) and 0 <= time <= 1 for time in times)
    ):
        found = "are not two or more numbers from 1 to 0"
    else:
        places = [place for place in range(1, len(times)) if not times[place] < times[place - 1]]
        if not places:
            return None
        place = places[0]
        found = f"do not fall: {times[place - 1]:g} is followed by {times[place]:g} (entry {place + 1})"
    return (
        f"The learned times of this model {found}; learn them again with ld4lg learn-timesteps RUN_DIR, or choose the "
        "spacing time or log_snr."
    )


def more_than_timesteps(num_steps: int, timesteps: int) -> str | None:
    """The sentence that refuses more steps than a discrete schedule has timesteps, or None."""
    if num_steps <= timesteps:
        return None
    return (
        f"{num_steps} sampling steps were asked for, but this model was trained with {timesteps} timesteps; ask for at "
        "most that many."
    )


def too_many_steps(num_steps: int, spacing: str, strength: float, levels: int, timesteps: int) -> str:
    """The sentence that refuses more steps than a discrete schedule has ``levels`` up to ``strength``."""
    remedies = []
    if num_steps <= levels:
        remedies = ["ask for fewer", "for the spacing time"]
    elif levels or num_steps > timesteps:
        remedies = [f"ask for at most {levels or timesteps}"]
    if levels < num_steps <= timesteps:
        remedies.append(f"choose a strength of at least {num_steps / timesteps:g}")
    begin = f" from strength {strength:g} on" if strength < 1 else ""
    return f"{_counted(num_steps)} not fit the spacing {spacing!r}{begin}; {', or '.join(remedies)}."


def no_levels(schedule: str, num_steps: int, strength: float, least: float) -> str:
    """The sentence that refuses more steps than distinct levels; from time ``least`` on there are enough."""
    least *= 1.1  # log-SNR's spacing starts a little later, and two digits round
    remedy = "ask for fewer" if strength >= least else f"choose a strength of at least {least:.2g}"
    return (
        f"{_counted(num_steps)} not fit between strength {strength:g} and the end of the schedule {schedule}, whose "
        f"noise levels are the same there; {remedy}."
    )


def _counted(num_steps: int) -> str:
    return "1 step does" if num_steps == 1 else f"{num_steps} steps do"


def not_finite(count: int, total: int) -> str | None:
    """The sentence about ``count`` of ``total`` samples with NaN or infinite latents, or None."""
    if not count:
        return None
    return (
        f"The latents of {count} of {total} samples are not finite, so they are not decoded; lower guidance_scale, "
        "choose another sampler or precision, or restore the model's weights if they are damaged."
    )
