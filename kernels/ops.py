"""The operations of the library, one file each in ``doors/``: they check, choose a backend (see `backend`), call."""

from ld4lg_fast.kernels.doors.adaln_residual import adaln_residual
from ld4lg_fast.kernels.doors.add_layer_norm import add_layer_norm
from ld4lg_fast.kernels.doors.cached_attention import cached_attention
from ld4lg_fast.kernels.doors.geglu import geglu
from ld4lg_fast.kernels.doors.geglu_linear import geglu_linear
from ld4lg_fast.kernels.doors.linear_cross_entropy import linear_cross_entropy
from ld4lg_fast.kernels.doors.logits_process import draw, logits_best, logits_draw, logits_process
from ld4lg_fast.kernels.doors.narrow_linear import NarrowLinear
from ld4lg_fast.kernels.doors.packed_linear import PackedLinear
from ld4lg_fast.kernels.doors.philox_normal import philox_normal
from ld4lg_fast.kernels.doors.quantize_rows import quantize_rows
from ld4lg_fast.kernels.doors.sampler_step import sampler_step
from ld4lg_fast.kernels.doors.short_attention import short_attention

__all__ = [
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
    "sampler_step",
    "short_attention",
]
