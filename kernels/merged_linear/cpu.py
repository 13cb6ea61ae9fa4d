"""Matmuls of the same rows with several weights in C++. Letters: R rows, I inputs, O outputs of all weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ld4lg_fast.kernels.native import DTYPE_CODES, I32, I64, POINTER, address, function

MOST_PARTS = 3
GLU_CODES = {None: 0, "silu": 1, "gelu_pytorch_tanh": 2}

_merged_linear = function(
    "ld4lg_merged_linear",
    [POINTER, I64, *[POINTER] * 6, *[I64] * 4, I32, I32, POINTER, I64, POINTER, *[I64] * 3, I32],
)


def merged_linear(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    residual: Tensor | None,
    glu: str | None,
) -> Tensor:
    """See `ops.merged_linear`; the biases are float32."""
    missing = MOST_PARTS - len(weights)
    outputs = [weight.shape[0] for weight in weights]
    x = x if x.stride(1) == 1 else x.contiguous()
    if residual is not None and residual.stride(1) != 1:
        residual = residual.contiguous()
    rows, inputs = x.shape
    columns = sum(outputs) if glu is None else outputs[0]
    y = x.new_empty((rows, columns))
    _merged_linear(
        x.data_ptr(),
        x.stride(0),
        *(weight.data_ptr() for weight in weights),
        *(0,) * missing,
        *(address(bias) for bias in biases),
        *(0,) * missing,
        *outputs,
        *(0,) * missing,
        len(weights),
        DTYPE_CODES[weights[0].dtype],
        GLU_CODES[glu],
        address(residual),
        0 if residual is None else residual.stride(0),
        y.data_ptr(),
        columns,
        rows,
        inputs,
        torch.get_num_threads(),
    )
    return y
