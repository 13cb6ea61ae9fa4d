"""How much sampling costs and how good it is, as one word: presets of sampler, steps and their spacing."""

from dataclasses import dataclass

from ld4lg_fast.diffusion import samplers
from ld4lg_fast.diffusion.schedules import SPACINGS
from ld4lg_fast.options.checks import check_choice, check_given


@dataclass(frozen=True)
class SamplingPlan:
    """``sampler``, a name in `samplers.SAMPLERS` (None: the recipe's); ``num_steps`` network evaluations;
    ``spacing`` of the steps, one of `schedules.SPACINGS`."""

    sampler: str | None
    num_steps: int
    spacing: str = "time"


QUALITIES = {
    "draft": SamplingPlan("unipc", 8),
    "balanced": SamplingPlan("unipc", 25),
    "paper": SamplingPlan(None, 250),
}


def sampling_plan(
    quality: str, sampler: str | None = None, num_steps: int | None = None, spacing: str | None = None
) -> SamplingPlan:
    """The preset of that name, with what is given in the place of its own.

    Raises:
        ConfigError: no such preset, sampler or spacing, or a number of steps that cannot be.
    """
    check_choice("quality", quality, QUALITIES)
    check_choice("sampler", sampler, samplers.SAMPLERS, or_none=True)
    check_choice("spacing", spacing, SPACINGS, or_none=True)
    (num_steps,) = check_given(num_steps=num_steps)
    preset = QUALITIES[quality]
    return SamplingPlan(
        preset.sampler if sampler is None else sampler,
        preset.num_steps if num_steps is None else num_steps,
        preset.spacing if spacing is None else spacing,
    )
