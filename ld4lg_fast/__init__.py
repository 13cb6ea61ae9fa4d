"""Fast latent diffusion for language generation: train, sample, evaluate and deploy.

The public names are loaded on first use, so that ``import ld4lg_fast`` costs milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ld4lg_fast._version import __version__

if TYPE_CHECKING:
    from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
    from ld4lg_fast.decoding import DecodingConfig
    from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
    from ld4lg_fast.diffusion.process import GaussianDiffusion
    from ld4lg_fast.errors import CheckpointError, ConfigError, DataError, LD4LGError
    from ld4lg_fast.models.denoiser import DenoiserConfig, DiffusionTransformer
    from ld4lg_fast.pipeline.outputs import SampledLatents, TextDiffusionOutput
    from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline

_LAZY = {
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "DecodingConfig": "decoding",
    "DenoiserConfig": "models.denoiser",
    "DiffusionTransformer": "models.denoiser",
    "GaussianDiffusion": "diffusion.process",
    "LanguageAutoencoder": "autoencoder.language_autoencoder",
    "LatentDiffusion": "diffusion.latent_diffusion",
    "LD4LGError": "errors",
    "SampledLatents": "pipeline.outputs",
    "TextDiffusionOutput": "pipeline.outputs",
    "TextDiffusionPipeline": "pipeline.pipeline",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DecodingConfig",
    "DenoiserConfig",
    "DiffusionTransformer",
    "GaussianDiffusion",
    "LD4LGError",
    "LanguageAutoencoder",
    "LatentDiffusion",
    "SampledLatents",
    "TextDiffusionOutput",
    "TextDiffusionPipeline",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(f"ld4lg_fast.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'ld4lg_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
