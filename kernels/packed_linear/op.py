"""Matmuls with few rows on a CPU, with weights packed once. Letters: R rows, I inputs, O outputs."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.backend import has_native, require_native
from ld4lg_fast.kernels.native import instruction_set
from ld4lg_fast.kernels.packed_linear.checks import check_packed, check_residual, check_rows

_FLOAT32 = (torch.float32,)
FEW_ROWS = {"avx512_bf16": 64, "avx512_vnni": 64, "avx512": 64, "avx2": 128, "baseline": 8}


class PackedLinear:
    """x Wᵀ + bias, or its GELU, + residual in float32, with W packed for few rows of x.

    Args:
        weight: (O, I) float32 or bfloat16 on the CPU; it is copied and keeps its dtype.
        bias: (O,) float32 or None.
        gelu: whether the exact (erf) GELU follows before the residual is added.

    Raises:
        BackendUnavailableError: the C++ library is not available.
        ValueError: shapes, dtypes or devices that do not fit; the message names them.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        require_native("PackedLinear")
        check_packed(weight, bias)
        from ld4lg_fast.kernels.packed_linear import cpu as linear

        self.linear, self.gelu = linear.linear, bool(gelu)
        self.outputs, self.inputs = weight.shape
        self.packed = linear.pack(weight.detach())
        self.bias = None if bias is None else bias.detach().contiguous()

    @staticmethod
    def few_rows() -> int:
        """Number of rows up to which it is not slower than oneDNN on this processor; 0 without the C++ library."""
        return FEW_ROWS[instruction_set()] if has_native() else 0

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(R, O) float32 of x (R, I) and residual (R, O), both float32.

        Raises:
            ValueError: shapes, dtypes or devices that do not fit; the message names them.
        """
        check_rows(x, self.inputs, _FLOAT32)
        if residual is not None:
            check_residual(residual, x.shape[0], self.outputs)
        return self.linear(x, self.packed, self.outputs, self.bias, residual, self.gelu)
