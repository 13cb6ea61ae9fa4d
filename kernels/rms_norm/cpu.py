"""Root mean square norm in C++."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.native import FLOAT, I32, I64, POINTER, function

_rms_norm = function("ld4lg_rms_norm", [POINTER, I64, POINTER, POINTER, *[I64] * 3, FLOAT, I32])


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `ops.rms_norm`; both float32."""
    x, weight = x if x.stride(1) == 1 else x.contiguous(), weight.contiguous()
    (rows, columns), width = x.shape, weight.shape[0]
    y = x.new_empty((rows, columns))
    _rms_norm(
        x.data_ptr(),
        x.stride(0),
        weight.data_ptr(),
        y.data_ptr(),
        rows,
        columns // width,
        width,
        float(eps),
        torch.get_num_threads(),
    )
    return y
