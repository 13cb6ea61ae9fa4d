"""Samples texts from an exported folder, with onnxruntime, tokenizers and numpy alone.

>>> from ld4lg_fast.export.runtime import OnnxTextDiffusion
>>> OnnxTextDiffusion("exported")(num_samples=4, steps=25, sampler="dpmpp_2m", seed=1)

An exported folder carries this package beside its graphs, so that it needs nothing of ld4lg_fast.
"""

from .errors import RuntimeInputError
from .pipeline import OnnxTextDiffusion

__all__ = ["OnnxTextDiffusion", "RuntimeInputError"]
