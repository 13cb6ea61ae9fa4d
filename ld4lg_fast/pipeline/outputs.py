"""Options and outputs of a call of the pipeline. Letters: B samples, N latent positions, d latent width."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from ld4lg_fast.diffusion.guides import GuideTargets
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.models.context_encoder import BlockContext

Progress = Callable[[str, int, int], None]
"""(phase ``denoise`` or ``decode``, done, total)"""

Callback = Callable[[int, Tensor, Tensor], None]
"""(step, rows (B,), x_start (B, N, d)) after every step of a batch"""


@dataclass(frozen=True)
class SampledLatents:
    """``latents`` (B, N, d) float32, their ``mask`` (B, N) in recipe v1, the ``class_ids`` (B,) of a
    class-conditional model (the null class is ``num_classes``), and which of the samples they are, ``rows`` (B,)."""

    latents: Tensor
    mask: Tensor | None
    class_ids: Tensor | None
    rows: Tensor


@dataclass(frozen=True)
class TextDiffusionOutput(SampledLatents):
    """`SampledLatents` and their ``texts``.

    Of documents, ``texts`` are what was written after the ``prompts``, and the latents those of the first block.
    """

    texts: list[str]
    prompts: list[str] | None = None


class SamplingOptions(TypedDict, total=False):
    """Options of a call that control sampling, see `TextDiffusionPipeline.sample_batches`."""

    quality: str
    num_inference_steps: int | None
    sampler: str | None
    spacing: str | None
    eta: float | None
    class_id: int | Sequence[int] | Tensor | None
    class_name: str | None
    source: Sequence[str] | str | None
    guidance_scale: float | None
    guidance_interval: tuple[float, float]
    lengths: Tensor | None
    start: Tensor | None
    strength: float
    guides: Mapping[str, Any] | GuideTargets | None
    guide_scales: Mapping[str, Any] | None
    steer: Callable[[Tensor], Tensor] | None
    blocks: BlockContext | None
    precision: str | None
    cuda_graph: bool | None
    callback: Callback | None


class CallOptions(SamplingOptions, total=False):
    """All options of `TextDiffusionPipeline.sample_batches`."""

    seed: int
    batch_size: int | None
    sample_ids: Tensor | Sequence[int] | None
    progress: Progress | None


def check_free(method: str, options: Mapping[str, Any], *own: str) -> None:
    """Refuses ``options`` of a call that a method sets itself.

    Raises:
        ConfigError: the sentence names the first.
    """
    for name in own:
        if name in options:
            raise ConfigError(f"{name} is {shown(options[name])}; {method} sets {name} itself: leave it out.")


def joined(batches: Sequence[SampledLatents]) -> SampledLatents:
    """All batches as one, in the order of their rows."""
    order = torch.argsort(torch.cat([batch.rows for batch in batches]))

    def join(parts: list[Tensor | None]) -> Tensor | None:
        present = [part for part in parts if part is not None]
        return torch.cat(present)[order] if present else None

    return SampledLatents(
        torch.cat([batch.latents for batch in batches])[order],
        join([batch.mask for batch in batches]),
        join([batch.class_ids for batch in batches]),
        torch.cat([batch.rows for batch in batches])[order],
    )


def chosen(sampled: SampledLatents, kept: Sequence[int], texts: Sequence[str]) -> TextDiffusionOutput:
    """The samples ``kept`` with their ``texts``, in that order."""
    places = torch.tensor(kept, device=sampled.latents.device)
    mask, class_ids = (None if t is None else t[places] for t in (sampled.mask, sampled.class_ids))
    return TextDiffusionOutput(sampled.latents[places], mask, class_ids, sampled.rows[places], list(texts))
