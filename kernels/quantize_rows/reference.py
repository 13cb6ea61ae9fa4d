import torch
from torch import Tensor

from ld4lg_fast.kernels.geglu.reference import geglu

LARGEST = 448.0  # of float8_e4m3fn
SMALLEST = 1e-12  # so that a row of zeros has a scale


def quantize_rows(x: Tensor, geglu_bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """See `ops.quantize_rows`. Computes in float32, or in float64 where an input has it."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if geglu_bias is not None:
        x = geglu(x, geglu_bias)
    largest = x.abs().amax(dim=1, keepdim=True).clamp(min=SMALLEST)
    return (x * (LARGEST / largest)).to(torch.float8_e4m3fn), (largest / LARGEST).float()
