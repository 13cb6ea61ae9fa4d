"""Calls into the C++ library: raw pointers in, results in new tensors."""

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ld4lg_fast.kernels.backend import native_library

_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SUFFIXES = {
    # dtypes of (h, residual, scale and shift, norm weights)
    (torch.float32,) * 4: "f32",
    (torch.bfloat16,) * 4: "bf16",
    (torch.bfloat16, torch.float32, torch.bfloat16, torch.float32): "mixed",
}


def supports_adaln(h: Tensor, residual: Tensor, weights: Sequence[Tensor], scale: Tensor, shift: Tensor) -> bool:
    """Whether there is a kernel for these dtypes; all weights must share one, scale and shift one."""
    if len({weight.dtype for weight in weights}) > 1 or scale.dtype != shift.dtype:
        return False
    return (h.dtype, residual.dtype, scale.dtype, weights[0].dtype) in _SUFFIXES


def _row_strides(modulation: Tensor, rows: int, length: int, width: int) -> tuple[Tensor, int, int]:
    """The tensor expanded to (rows/length, length, width) and its element strides for batch and position."""
    modulation = modulation.expand(rows // length, length, width) if rows else modulation
    if modulation.stride(-1) != 1:
        modulation = modulation.contiguous()
    return modulation, modulation.stride(0), modulation.stride(1)


def adaln_residual(
    h: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    next_weight: Tensor | None,
    next_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor | None]:
    """h, residual (B, N, D); scale, shift broadcastable to it. y is None without a next norm."""
    h, residual = h.contiguous(), residual.contiguous()
    length, width = h.shape[-2:]
    rows = h.numel() // width if width else 0
    x = torch.empty_like(residual)
    y = torch.empty_like(residual) if next_weight is not None else None
    if not rows:
        return x, y
    scale, scale_batch, scale_row = _row_strides(scale, rows, length, width)
    shift, shift_batch, shift_row = _row_strides(shift, rows, length, width)
    params = [p.contiguous() if p is not None else None for p in (weight, bias, next_weight, next_bias)]
    suffix = _SUFFIXES[(h.dtype, residual.dtype, scale.dtype, weight.dtype)]
    function = getattr(native_library(), f"ld4lg_adaln_residual_{suffix}")
    pointers = [h, residual, params[0], params[1], scale, shift, params[2], params[3], x, y]
    function(
        *[_POINTER(t.data_ptr() if t is not None else None) for t in pointers],
        *[_INT(n) for n in (rows, length, width, scale_batch, scale_row, shift_batch, shift_row)],
        _FLOAT(eps),
        _INT(torch.get_num_threads()),
    )
    return x, y


def philox_normal(seed: int, sample_ids: Tensor, stream: int, shape: Sequence[int]) -> Tensor:
    ids = sample_ids.to(torch.int64).contiguous()
    out = torch.empty((len(ids), *shape), dtype=torch.float32)
    native_library().ld4lg_philox_normal(
        ctypes.c_uint64(seed & (2**64 - 1)),
        _POINTER(ids.data_ptr()),
        _INT(len(ids)),
        ctypes.c_uint32(stream),
        _INT(math.prod(shape)),
        _POINTER(out.data_ptr()),
        _INT(torch.get_num_threads()),
    )
    return out
