"""The arguments of `quantize_rows` checked, its backend chosen. Letters: R rows, W width of x."""

from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.arguments.quantize_rows import check
from ld4lg_fast.kernels.library import operator
from ld4lg_fast.kernels.plain import quantize_rows as plain
from ld4lg_fast.kernels.registration import quantize_rows as _registered  # noqa: F401

_quantize_rows = operator("quantize_rows")


def quantize_rows(x: Tensor, geglu_bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A matrix in float8 (e4m3), a scale for each row, as ``torch._scaled_mm`` takes it.

    One kernel on a GPU; elsewhere plain PyTorch. Nothing is differentiated.

    Args:
        x: (R, W).
        geglu_bias: (W,), where value·GELU(gate) of x + geglu_bias is meant, as in `geglu`, in the place of x; it is
            then never written in more than eight bits.

    Returns:
        quantized (R, W or W/2) float8_e4m3fn and scale (R, 1) float32, x being about their product. The largest
        number of a row becomes 448, float8's largest.

    Raises:
        ValueError: arguments that do not fit; the message names them.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    check(x, geglu_bias)
    dtypes = (x.dtype,) if geglu_bias is None else (x.dtype, geglu_bias.dtype)
    if backend.choose("quantize_rows", x.device.type, dtypes) != "triton":
        return plain.quantize_rows(x, geglu_bias)
    return _quantize_rows(x, geglu_bias)
