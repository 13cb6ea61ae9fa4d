"""A published checkpoint, converted to this library's classes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion.latent_diffusion import AnyDenoiser


@dataclass(frozen=True)
class PublishedModel:
    """A published model, ready to be saved as a run.

    ``layout``: ``official`` or ``unofficial``. ``files``: files that were read, the weights first.
    ``recipe``: recipe entries from the checkpoint. ``dataset``: published name of the corpus.
    ``language_model``: name or folder. ``frozen_lm``: whether it was frozen in training.
    ``latent_mean`` (d,), ``latent_scale`` (): None if the latents are not normalised.
    ``step``: training step, if stored. ``notes``: sentences for the user.
    """

    layout: str
    files: tuple[Path, ...]
    autoencoder: LanguageAutoencoder
    denoiser: AnyDenoiser
    recipe: dict[str, Any]
    dataset: str
    language_model: str
    frozen_lm: bool
    latent_mean: Tensor | None
    latent_scale: Tensor | None
    step: int | None = None
    notes: list[str] = field(default_factory=list)
