"""A matmul of few rows and its value·GELU(gate) in C++. Letters: D width of x, F width of value and of gate."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.native import I32, I64, POINTER, as_vector, function

_geglu_of_columns = function("ld4lg_geglu_of_columns", [POINTER, I64, POINTER, POINTER, I64, I64, I32])


def forward(x: Tensor, weight: Tensor, bias: Tensor, seed: Tensor | None, dropout: float) -> Tensor:
    """(…, F), all float32, without dropout.

    Computes weight·xᵀ, which is faster than x·weightᵀ for few rows of x.
    """
    if x.dtype != torch.float32 or seed is not None:
        raise ValueError(
            f"x is {x.dtype} and dropout {dropout}; the C++ library takes float32 and no dropout here"
        )
    width = weight.shape[0] // 2
    out = x.new_empty((*x.shape[:-1], width))
    product = torch.mm(weight, x.reshape(-1, x.shape[-1]).t())
    if rows := product.shape[1]:
        bias = as_vector(bias)
        _geglu_of_columns(
            product.data_ptr(),
            product.stride(0),
            bias.data_ptr(),
            out.data_ptr(),
            rows,
            width,
            torch.get_num_threads(),
        )
    return out
