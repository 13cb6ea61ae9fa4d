"""Mean, standard deviation and confidence interval of metrics over seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, for probabilities of at least 0.5.

    With t = √ν·tan θ the density becomes cos(θ)^(ν-1), which is integrated on a grid.
    """
    theta = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(theta) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp(2 * probability - 1, mass / mass[-1], theta)
    return math.sqrt(degrees) * math.tan(angle)


def summary(values: Sequence[float]) -> dict:
    """``mean`` and ``values``; for two or more also the sample ``std`` and the mean's ``interval_95``."""
    mean = statistics.fmean(values)
    result: dict[str, Any] = {"mean": mean, "values": list(values)}
    if len(values) > 1:
        spread = statistics.stdev(values)
        half = student_quantile(0.975, len(values) - 1) * spread / math.sqrt(len(values))
        result |= {"std": spread, "interval_95": [mean - half, mean + half]}
    return result
