"""Attention over short sequences in C++; its backward pass is a few products, left to PyTorch."""

import ctypes

import torch
from torch import Tensor

from ld4lg_fast.kernels.native import DTYPE_CODES, I32, I64, POINTER, function
from ld4lg_fast.kernels.plain.short_attention import DIM_HEAD, gradients

_short_attention = function(
    "ld4lg_short_attention",
    [POINTER, I64, I64, POINTER, I64, I64, POINTER, I64, I64, I32, POINTER, POINTER, I32]
    + [POINTER, POINTER, POINTER, I64, I64, I64, I64, I32],
)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    q_gain: Tensor | None,
    k_gain: Tensor | None,
) -> Tensor:
    """(B, N, H·64) in q's dtype; bias (B, H, N, M)."""
    batch, queries, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype)
    if not out.numel() or not k.shape[1]:
        return out.zero_()
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    strides, bias_dtype = None, 0
    if bias is not None:
        bias = bias if bias.stride(3) in (0, 1) else bias.contiguous()
        strides, bias_dtype = (ctypes.c_int64 * 4)(*bias.stride()), DTYPE_CODES[bias.dtype]
    if q_gain is not None:
        q_gain, k_gain = q_gain.float().contiguous(), k_gain.float().contiguous()
    _short_attention(
        *(value for x in (q, k, v) for value in (x.data_ptr(), x.stride(0), x.stride(1))),
        DTYPE_CODES[q.dtype],
        None if bias is None else bias.data_ptr(),
        strides,
        bias_dtype,
        None if q_gain is None else q_gain.data_ptr(),
        None if k_gain is None else k_gain.data_ptr(),
        out.data_ptr(),
        batch,
        queries,
        k.shape[1],
        width // DIM_HEAD,
        torch.get_num_threads(),
    )
    return out


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    q_gain: Tensor | None,
    k_gain: Tensor | None,
) -> list[Tensor]:
    """See ``ld4lg::short_attention_backward`` in ``registration/``."""
    return gradients(grad, q, k, v, bias, q_gain, k_gain)
