"""Products with few rows on a CPU, their weights packed once. Letters: R rows, I inputs, O outputs."""

from torch import Tensor

from ld4lg_fast.kernels.backend import has_native, require_native
from ld4lg_fast.kernels.native import instruction_set

FEW_ROWS = {"avx512_bf16": 64, "avx512_vnni": 64, "avx512": 64, "avx2": 128, "baseline": 8}


class PackedLinear:
    """x Wᵀ + bias, or its GELU, + residual in float32, W in the order in which few rows read it once.

    Args:
        weight: (O, I) float32 or bfloat16 on the CPU; what is kept is a copy, in its dtype.
        bias: (O,) float32 or None.
        gelu: whether the exact (erf) GELU follows before the residual is added.

    Raises:
        BackendUnavailableError: the C++ library is not here.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        require_native("PackedLinear")
        from ld4lg_fast.kernels.cpu import linear

        self.linear, self.outputs, self.gelu = linear.linear, len(weight), gelu
        self.packed = linear.pack(weight.detach())
        self.bias = None if bias is None else bias.detach().contiguous()

    @staticmethod
    def few_rows() -> int:
        """Up to how many rows it is not slower than oneDNN's product on this processor; 0 without the C++ library."""
        return FEW_ROWS[instruction_set()] if has_native() else 0

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(R, O) float32 of x (R, I) and residual (R, O), both float32."""
        return self.linear(x, self.packed, self.outputs, self.bias, residual, self.gelu)
