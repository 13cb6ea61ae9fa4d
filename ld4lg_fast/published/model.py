"""What a published checkpoint amounts to in our terms."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion.latent_diffusion import AnyDenoiser


@dataclass(frozen=True)
class PublishedModel:
    """A published model, ready to be saved as a run.

    ``layout``: ``official`` or ``unofficial``. ``files`` were read, the weights first.
    ``recipe``: the entries of a recipe that the checkpoint decides.
    ``dataset``: the corpus, by its published name.
    ``language_model``: its name or folder. ``frozen_lm``: whether it was left as it was pretrained.
    ``latent_mean`` (d,) and ``latent_scale`` (): None where the latents are not normalised.
    ``step``: of training, where it is stored. ``notes``: what a user should know, a sentence each.
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
