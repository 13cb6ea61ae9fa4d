"""The fused post-norm, modulation, residual and next pre-norm in C++.

Letters: D model width, R rows, G groups of rows that share scale and shift.
"""

from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels.adaln_residual.arguments import BackwardInputs, outputs
from ld4lg_fast.kernels.layout import ROWS_PER_PART
from ld4lg_fast.kernels.native import (
    DTYPE_CODES,
    FLOAT,
    I32,
    I64,
    POINTER,
    ROWS,
    VECTOR,
    address,
    as_matrix,
    describe_vector,
    function,
)

_forward = function(
    "ld4lg_adaln_residual",
    [*ROWS, *ROWS, *VECTOR, *VECTOR, *ROWS, *ROWS, *VECTOR, *VECTOR]
    + [POINTER, POINTER, I32, POINTER, I64, I64, I64, FLOAT, I32],
)
_backward = function(
    "ld4lg_adaln_residual_backward",
    [*ROWS, *ROWS, *ROWS, POINTER, *VECTOR, *VECTOR, *ROWS]
    + [POINTER, POINTER, POINTER, POINTER, I64, I64, I64, I64, I64, I32],
)

_vectors = function(
    "ld4lg_adaln_residual_vectors",
    [POINTER, I64, I64, I64, I64, *VECTOR, *VECTOR, *ROWS, POINTER, POINTER, POINTER, I32],
)


def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    """x and statistics (2, R) float32."""
    *inputs, eps = arguments
    x, _, stats = _run(*inputs, None, None, eps)
    return x, stats


def forward_norm(*arguments: Any) -> tuple[Tensor, Tensor | None, Tensor]:
    """x, y and statistics (4, R) float32."""
    return _run(*arguments)


def _run(*arguments: Any) -> tuple[Tensor, Tensor | None, Tensor]:
    """``arguments``: those of `Inputs`."""
    h, residual, weight, bias, scale, shift, next_weight, next_bias, eps = arguments
    width = h.shape[-1]
    x, y, stats = outputs(residual, next_weight)
    rows, of_next = stats.shape[1], (0, 0, 0, 0)
    if next_weight is not None and next_bias is not None:
        next_weight, next_bias = next_weight.contiguous(), next_bias.contiguous()
        of_next = *describe_vector(next_weight), *describe_vector(next_bias)
    if rows == 0:
        return x, y, stats
    h, of_h = as_matrix(h, width)
    residual, of_residual = as_matrix(residual, width)
    scale, of_scale = as_matrix(scale, width)
    shift, of_shift = as_matrix(shift, width)
    weight, bias = weight.contiguous(), bias.contiguous()
    _forward(
        *of_h,
        *of_residual,
        *describe_vector(weight),
        *describe_vector(bias),
        *of_scale,
        *of_shift,
        *of_next,
        x.data_ptr(),
        address(y),
        0 if y is None else DTYPE_CODES[y.dtype],
        stats.data_ptr(),
        rows,
        width,
        rows // (scale.numel() // width),
        float(eps),
        torch.get_num_threads(),
    )
    return x, y, stats


def backward(*arguments: Any) -> list[Tensor]:
    """See ``ld4lg::adaln_residual_backward`` in ``op.py``."""
    inputs = BackwardInputs(*arguments)
    grad_x, grad_y, h, x, weight, scale, next_weight, stats = inputs
    width = h.shape[-1]
    rows, rows_per_group, _, parts = inputs.parts()
    grad_h, sums, *grad_residual = results = inputs.outputs()
    if rows == 0:
        return results
    grad_x, of_x = as_matrix(grad_x, width)
    h, of_h = as_matrix(h, width)
    scale, of_scale = as_matrix(scale, width)
    weight, of_y = weight.contiguous(), (0, 0, 0)
    if grad_y is not None and next_weight is not None:
        (grad_y, of_y), next_weight = as_matrix(grad_y, width), next_weight.contiguous()
    _backward(
        *of_x,
        *of_y,
        *of_h,
        address(x),
        *describe_vector(weight),
        *((0, 0) if next_weight is None else describe_vector(next_weight)),
        *of_scale,
        stats.data_ptr(),
        grad_h.data_ptr(),
        *(map(address, grad_residual) if grad_residual else (0,)),
        sums.data_ptr(),
        rows,
        width,
        rows_per_group,
        ROWS_PER_PART,
        parts,
        torch.get_num_threads(),
    )
    return results


def vector_gradients(
    sums: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, next_weight: Tensor | None
) -> list[Tensor]:
    """See ``_vector_gradients`` in ``op.py``."""
    groups, parts, kinds, width = sums.shape
    rows, of_rows = as_matrix(scale, width)  # rows are kept alive during the call
    of_scale, of_shift = sums.new_empty(scale.shape), sums.new_empty(scale.shape)
    of_vectors = sums.new_empty((kinds, width))
    weight, bias = weight.contiguous(), bias.contiguous()
    _vectors(
        sums.data_ptr(),
        groups,
        parts,
        kinds,
        width,
        *describe_vector(weight),
        *describe_vector(bias),
        *of_rows,
        of_scale.data_ptr(),
        of_shift.data_ptr(),
        of_vectors.data_ptr(),
        torch.get_num_threads(),
    )
    of_weight, of_bias, *of_next = of_vectors.unbind(0)
    grads = [
        of_weight.to(weight.dtype),
        of_bias.to(bias.dtype),
        of_scale.to(scale.dtype),
        of_shift.to(scale.dtype),
    ]
    if next_weight is None:
        return grads
    return [*grads, *(total.to(next_weight.dtype) for total in of_next)]
