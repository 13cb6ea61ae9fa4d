"""The operations of the library. The ``op.py`` in the folder of each checks arguments and chooses a `backend`."""

from ld4lg_fast.kernels.adaln_residual.op import adaln_residual
from ld4lg_fast.kernels.add_layer_norm.op import add_layer_norm
from ld4lg_fast.kernels.cached_attention.op import cached_attention
from ld4lg_fast.kernels.geglu.op import geglu
from ld4lg_fast.kernels.geglu_linear.op import geglu_linear
from ld4lg_fast.kernels.linear_cross_entropy.op import linear_cross_entropy
from ld4lg_fast.kernels.logits_process.op import draw, logits_best, logits_draw, logits_process
from ld4lg_fast.kernels.merged_linear.op import MergedLinear
from ld4lg_fast.kernels.narrow_linear.op import NarrowLinear
from ld4lg_fast.kernels.packed_linear.op import PackedLinear
from ld4lg_fast.kernels.philox_normal.op import philox_normal
from ld4lg_fast.kernels.quantize_rows.op import quantize_rows
from ld4lg_fast.kernels.rms_norm.op import rms_norm
from ld4lg_fast.kernels.sampler_step.op import sampler_step
from ld4lg_fast.kernels.short_attention.op import short_attention

__all__ = [
    "MergedLinear",
    "NarrowLinear",
    "PackedLinear",
    "adaln_residual",
    "add_layer_norm",
    "cached_attention",
    "draw",
    "geglu",
    "geglu_linear",
    "linear_cross_entropy",
    "logits_best",
    "logits_draw",
    "logits_process",
    "philox_normal",
    "quantize_rows",
    "rms_norm",
    "sampler_step",
    "short_attention",
]
