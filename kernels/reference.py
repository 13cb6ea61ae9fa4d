"""Plain PyTorch truth of every operation, one file each in ``plain/``.

Fallback, oracle of the tests and baseline of the benchmarks in one. Arguments: see the function of the same
name in `ops`.
"""

from ld4lg_fast.kernels.plain.adaln_residual import adaln_residual
from ld4lg_fast.kernels.plain.add_layer_norm import add_layer_norm
from ld4lg_fast.kernels.plain.geglu import geglu
from ld4lg_fast.kernels.plain.geglu_linear import geglu_linear
from ld4lg_fast.kernels.plain.linear_cross_entropy import linear_cross_entropy
from ld4lg_fast.kernels.plain.logits_process import logits_process
from ld4lg_fast.kernels.plain.philox_normal import philox_normal
from ld4lg_fast.kernels.plain.quantize_rows import quantize_rows
from ld4lg_fast.kernels.plain.sampler_step import sampler_step
from ld4lg_fast.kernels.plain.short_attention import short_attention

__all__ = [
    "adaln_residual",
    "add_layer_norm",
    "geglu",
    "geglu_linear",
    "linear_cross_entropy",
    "logits_process",
    "philox_normal",
    "quantize_rows",
    "sampler_step",
    "short_attention",
]
