"""Fast latent diffusion for language generation: train, sample, evaluate and deploy.

The public names are loaded on first use, so that ``import ld4lg_fast`` costs milliseconds.
"""

from importlib import import_module

from ld4lg_fast._version import __version__

_LAZY = {
    "DenoiserConfig": "denoiser",
    "DiffusionTransformer": "denoiser",
    "GaussianDiffusion": "diffusion",
    "LanguageAutoencoder": "autoencoder",
    "LD4LGError": "errors",
    "TextDiffusionPipeline": "pipeline",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(f"ld4lg_fast.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'ld4lg_fast' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY])
