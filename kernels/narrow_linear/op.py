"""bfloat16 and int8 matmuls on a CPU with weights packed once. Letters: R rows, I inputs, O outputs."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.backend import require_native
from ld4lg_fast.kernels.packed_linear.checks import KNOWN, check_narrow, check_rows

ROWS_AT_ONCE = 4096  # of a weight that is quantized


class NarrowLinear:
    """x Wᵀ + bias, or value·GELU(gate) of it, with x and W rounded to a narrow dtype and sums in float32 or int32.

    int8 has a scale for each row of W and of x, so that no row depends on its neighbours.

    Args:
        weight: (O, I) floating-point on the CPU, at most 2¹⁷ inputs for int8; it is copied.
        bias: (O,) or None.
        dtype: bfloat16 or int8.
        geglu: whether the outputs are the values and then the gates of a GEGLU; the result is (R, O/2).

    Raises:
        BackendUnavailableError: the C++ library is not available.
        ValueError: shapes, dtypes or devices that do not fit; the message names them.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, geglu: bool = False) -> None:
        require_native("NarrowLinear")
        check_narrow(weight, bias, dtype, geglu)
        from ld4lg_fast.kernels.narrow_linear import cpu as narrow_linear

        self.linear, self.dtype, self.geglu = narrow_linear.linear, dtype, bool(geglu)
        outputs, self.inputs = weight.shape
        self.outputs = outputs // 2 if geglu else outputs
        weight = weight.detach()
        self.scales = self.sums = None
        if dtype == torch.int8:
            scales = torch.cat([part.float().abs().amax(dim=1) for part in weight.split(ROWS_AT_ONCE)])
            scales = scales.clamp(min=1e-12) / 127
            # A part at a time: a head has a large share of a model's weights, and several float copies are made here.
            narrow = weight.new_empty(weight.shape, dtype=torch.int8)
            for rows, part, scale in zip(
                narrow.split(ROWS_AT_ONCE),
                weight.split(ROWS_AT_ONCE),
                scales.split(ROWS_AT_ONCE),
                strict=True,
            ):
                rows.copy_((part.float() / scale[:, None]).round())
            weight = narrow
            self.scales = narrow_linear.in_order(scales, self.geglu)
            self.sums = narrow_linear.in_order(weight.sum(dim=1, dtype=torch.int32), self.geglu)
        self.packed = narrow_linear.pack(weight.to(dtype), self.geglu)
        self.bias = None if bias is None else narrow_linear.in_order(bias.detach().float(), self.geglu)

    def __call__(self, x: Tensor) -> Tensor:
        """(R, O) in the dtype of x (R, I), float32 or bfloat16.

        Raises:
            ValueError: an input that does not fit; the message names it.
        """
        check_rows(x, self.inputs, KNOWN)
        return self.linear(
            x, self.packed, self.dtype, self.outputs, self.scales, self.sums, self.bias, self.geglu
        )
