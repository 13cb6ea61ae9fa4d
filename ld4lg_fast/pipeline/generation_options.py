"""The options of the config group ``generation`` as a pipeline will use them."""

from collections.abc import Mapping
from dataclasses import asdict, fields

from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.presets import sampling_plan

DECODING = tuple(
    field.name for field in fields(DecodingConfig)
)  # options of the group that make a DecodingConfig


def resolved_generation(pipe: TextDiffusionPipeline, generation: Mapping) -> dict:
    """What ``generation`` leaves to the preset and the model: sampler, steps, spacing, guidance and how latents become
    text, as they will be."""
    plan = sampling_plan(*(generation[name] for name in ("quality", "sampler", "sampling_steps", "spacing")))
    scale, own = generation["guidance_scale"], asdict(pipe.decoding)
    decoding = {name: own[name] for name in DECODING if name in generation and generation[name] is None}
    if generation.get("strategies", ()) is None:
        decoding["strategies"] = [pipe.decoding.strategy]
    return decoding | {
        "sampler": plan.sampler or pipe.model.default_sampler,
        "sampling_steps": plan.num_steps,
        "spacing": plan.spacing,
        "guidance_scale": pipe.default_guidance() if scale is None else scale,
    }
