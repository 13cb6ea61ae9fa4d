"""The report's views of latents: a map of texts, and the denoising of one sample step by step.

Letters: B texts, N latent positions, d latent width, S sampling steps.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline

MAP_TEXTS = 400  # maximum of each kind
FRAMES = 14
LEVELS = 127  # signed byte for a latent value of three standard deviations


@dataclass(frozen=True)
class LatentMap:
    """Coordinates (B, 2) of real and sampled texts on the real texts' first two principal components, and the share of
    the real texts' variance that each explains."""

    real: list[list[float]]
    sampled: list[list[float]]
    shares: tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """Prediction after a step: its text, and its normalised latents (N, d) as base64 of signed bytes."""

    step: int
    text: str
    latents: str


@dataclass(frozen=True)
class Film:
    """Frames of one sample with latents of ``shape`` (N, d)."""

    num_steps: int
    shape: tuple[int, int]
    frames: list[Frame]


def latent_map(pipe: TextDiffusionPipeline, real: Sequence[str], sampled: Sequence[str]) -> LatentMap | None:
    """Map of encoded non-empty texts; None with fewer than three real or no sampled texts."""
    kinds = [[text for text in texts[:MAP_TEXTS] if text.strip()] for texts in (real, sampled)]
    if len(kinds[0]) < 3 or not kinds[1]:
        return None
    known, new = (_vectors(pipe, texts) for texts in kinds)
    mean = known.mean(dim=0)
    _, strengths, axes = torch.linalg.svd(known - mean, full_matrices=False)
    variances = strengths.square() / strengths.square().sum().clamp(min=1e-12)
    old, fresh = (((vectors - mean) @ axes[:2].T).tolist() for vectors in (known, new))
    return LatentMap(old, fresh, shares=(variances[0].item(), variances[1].item()))


def _vectors(pipe: TextDiffusionPipeline, texts: Sequence[str]) -> Tensor:
    """One vector per text: all its latents, or the mean of its unpadded latents in recipe v1."""
    latents, mask = pipe.encode(texts)
    latents = latents.double().cpu()
    if mask is None:
        return latents.flatten(1)
    weights = mask.cpu().double()[..., None]
    return (latents * weights).sum(dim=1) / weights.sum(dim=1)


def film(pipe: TextDiffusionPipeline, decoding: DecodingConfig, options: Mapping) -> Film:
    """Sample 0 under ``options`` of `TextDiffusionPipeline.sample`, step by step; the last frame is its text."""
    seen: list[Tensor] = []
    sampled = pipe.sample(1, **options, callback=lambda step, rows, x_start: seen.append(x_start.clone()))
    last = len(seen) - 1
    steps = sorted({round(place * last / (FRAMES - 1)) for place in range(FRAMES)})
    length = seen[0].shape[1]
    states = torch.cat([seen[step] for step in steps])
    final = pipe.model.normalize(sampled.latents)[:, :length]
    states[-1:] = final
    latents = sampled.latents.new_zeros((len(steps), *sampled.latents.shape[1:]))
    latents[:, :length] = pipe.model.unnormalize(states)
    latents[-1:] = sampled.latents
    mask = None if sampled.mask is None else sampled.mask.expand(len(steps), -1)
    texts = pipe.decode(
        latents, decoding, mask=mask, seed=options.get("seed", 0), sample_ids=[0] * len(steps)
    )
    pictures = (states / 3 * LEVELS).round().clamp(-LEVELS, LEVELS).to(torch.int8).cpu()
    frames = [
        Frame(step + 1, text, base64.b64encode(picture.numpy().tobytes()).decode())
        for step, text, picture in zip(steps, texts, pictures, strict=True)
    ]
    return Film(len(seen), (length, states.shape[-1]), frames)
