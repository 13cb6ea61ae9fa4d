"""Samples texts from an exported folder, with onnxruntime, tokenizers and numpy alone.

>>> from ld4lg_fast.export.runtime import OnnxTextDiffusion
>>> OnnxTextDiffusion("exported")(num_samples=4, num_inference_steps=25, sampler="dpmpp_2m", seed=1)

An exported folder carries this package beside its graphs, so that it needs nothing of ld4lg_fast.
"""

from typing import TYPE_CHECKING, Any

from .errors import RuntimeInputError

if TYPE_CHECKING:
    from .pipeline import OnnxTextDiffusion

__all__ = ["OnnxTextDiffusion", "RuntimeInputError"]


def __getattr__(name: str) -> Any:
    """Imports what needs onnxruntime when it is asked for: ld4lg_fast uses the leaf modules without it."""
    if name == "OnnxTextDiffusion":
        from .pipeline import OnnxTextDiffusion

        return OnnxTextDiffusion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
