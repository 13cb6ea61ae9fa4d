"""Training in two stages: the language autoencoder, then the denoiser of its latents.

`main` is the command; `train` takes a composed config. Both are loaded on first use.

Imports pipeline and the rooms below it.
"""

from typing import Any

__all__ = ["main", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from ld4lg_fast.training import command

        return getattr(command, name)
    raise AttributeError(f"module 'ld4lg_fast.training' has no attribute {name!r}")
