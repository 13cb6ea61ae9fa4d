"""GEGLU and rounding of its rows to float8 in one pass. Only Triton has a kernel for it; no derivative.

Letters: R rows, W width of x.
"""

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.argument_checks import check_device
from ld4lg_fast.kernels.geglu.op import check as check_geglu
from ld4lg_fast.kernels.library import operator, register
from ld4lg_fast.kernels.quantize_rows import reference


def check(x: Tensor, geglu_bias: Tensor | None) -> None:
    """Refuses shapes and devices that do not fit.

    Raises:
        ValueError: naming them.
    """
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; it needs two axes, the last with at least one element"
        )
    if geglu_bias is not None:
        check_geglu(tuple(x.shape), geglu_bias, 0.0, None)
        check_device("x geglu_bias", x, geglu_bias)


def _fake(x: Tensor, geglu_bias: Tensor | None) -> tuple[Tensor, Tensor]:
    rows, width = x.shape
    width = width if geglu_bias is None else width // 2
    return x.new_empty((rows, width), dtype=torch.float8_e4m3fn), x.new_empty((rows, 1), dtype=torch.float32)


register(
    "quantize_rows(Tensor x, Tensor? geglu_bias) -> (Tensor quantized, Tensor scale)",
    _fake,
    check,
    "quantize_rows",
    "forward",
)


_quantize_rows = operator("quantize_rows")


def quantize_rows(x: Tensor, geglu_bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A matrix in float8 (e4m3) with a scale for each row, as ``torch._scaled_mm`` takes it.

    One kernel on a GPU; elsewhere plain PyTorch. Without derivatives.

    Args:
        x: (R, W).
        geglu_bias: (W,) or None. With it, quantizes value·GELU(gate) of x + geglu_bias, as in `geglu`, instead of x,
            and never writes it in more than eight bits.

    Returns:
        quantized (R, W or W/2) float8_e4m3fn and scale (R, 1) float32; x is about quantized · scale. The
        largest number of a row becomes 448, the largest of float8.

    Raises:
        ValueError: arguments that do not fit; the message names them.
        BackendUnavailableError: a backend requested by name cannot run these tensors.
    """
    check(x, geglu_bias)
    dtypes = (x.dtype,) if geglu_bias is None else (x.dtype, geglu_bias.dtype)
    if backend.choose("quantize_rows", x.device.type, dtypes) != "triton":
        return reference.quantize_rows(x, geglu_bias)
    return _quantize_rows(x, geglu_bias)
