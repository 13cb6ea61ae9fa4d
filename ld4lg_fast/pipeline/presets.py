"""Quality presets (sampler, number of steps, spacing), and the settings that a ``generation`` config resolves to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.diffusion import samplers
from ld4lg_fast.diffusion.schedules import SPACINGS
from ld4lg_fast.options.checks import check_choice, check_given
from ld4lg_fast.pipeline.base import PipelineBase

DECODING = tuple(
    field.name for field in fields(DecodingConfig)
)  # entries of ``generation`` that make a DecodingConfig


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
    quality: str,
    sampler: str | None = None,
    num_inference_steps: int | None = None,
    spacing: str | None = None,
) -> SamplingPlan:
    """The preset of that name, with the given options overriding its own.

    Raises:
        ConfigError: no such preset, sampler or spacing, or a number of steps that cannot be.
    """
    check_choice("quality", quality, QUALITIES)
    check_choice("sampler", sampler, samplers.SAMPLERS, or_none=True)
    check_choice("spacing", spacing, SPACINGS, or_none=True)
    (num_inference_steps,) = check_given(num_inference_steps=num_inference_steps)
    preset = QUALITIES[quality]
    return SamplingPlan(
        preset.sampler if sampler is None else sampler,
        preset.num_steps if num_inference_steps is None else num_inference_steps,
        preset.spacing if spacing is None else spacing,
    )


def resolved_generation(pipe: PipelineBase, generation: Mapping) -> dict:
    """The entries of a ``generation`` config that the preset or the model decides, with the values that are used."""
    plan = sampling_plan(
        *(generation[name] for name in ("quality", "sampler", "num_inference_steps", "spacing"))
    )
    scale, own = generation["guidance_scale"], asdict(pipe.decoding)
    decoding = {name: own[name] for name in DECODING if name in generation and generation[name] is None}
    return decoding | {
        "sampler": plan.sampler or pipe.model.default_sampler,
        "num_inference_steps": plan.num_steps,
        "spacing": plan.spacing,
        "guidance_scale": pipe.default_guidance() if scale is None else scale,
    }
