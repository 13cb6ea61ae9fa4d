"""Matmuls of the same rows with several weights in C++. Letters: R rows, I inputs, O outputs of a weight."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ld4lg_fast.kernels.native import DTYPE_CODES, I32, I64, POINTER, address, function

MOST_WEIGHTS = 3
GLU_CODES = {None: 0, "silu": 1, "gelu_pytorch_tanh": 2}

_merged_linear = function(
    "ld4lg_merged_linear",
    [POINTER, I64, *[POINTER] * 6, *[I64] * 4, *[I32] * 2, POINTER, I64, POINTER, *[I64] * 3, I32],
)


def prepare(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None], glu: str | None
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """(x, residual) -> outputs, see `ops.MergedLinear`; the tensors must outlive it, biases are float32."""
    missing = (0,) * (MOST_WEIGHTS - len(weights))
    outputs = [weight.shape[0] for weight in weights]
    columns = sum(outputs) if glu is None else outputs[0]
    constant = (
        *(weight.data_ptr() for weight in weights),
        *missing,
        *(address(bias) for bias in biases),
        *missing,
        *outputs,
        *missing,
        len(weights),
        DTYPE_CODES[weights[0].dtype],
        GLU_CODES[glu],
    )

    def call(x: Tensor, residual: Tensor | None) -> Tensor:
        x = x if x.stride(1) == 1 else x.contiguous()
        if residual is not None and residual.stride(1) != 1:
            residual = residual.contiguous()
        rows, inputs = x.shape
        y = x.new_empty((rows, columns))
        _merged_linear(
            x.data_ptr(),
            x.stride(0),
            *constant,
            address(residual),
            0 if residual is None else residual.stride(0),
            y.data_ptr(),
            columns,
            rows,
            inputs,
            torch.get_num_threads(),
        )
        return y

    return call
