from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.kernels.adaln_residual.arguments import Inputs


def adaln_residual(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
    """See `ops.adaln_residual`. Computes in float32, or in float64 where an input has it."""
    inputs = Inputs(*arguments, **named)
    h, residual, weight, bias, scale, shift, next_weight, next_bias, eps = inputs
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in inputs[:6]) else torch.float32
    width = h.shape[-1:]
    normed = F.layer_norm(h.to(dtype), width, weight.to(dtype), bias.to(dtype), eps)
    x = residual.to(dtype) + (1 + scale.to(dtype)) * normed + shift.to(dtype)
    x = x.to(residual.dtype)
    if next_weight is None or next_bias is None:
        return x, None
    y = F.layer_norm(x.to(dtype), width, next_weight.to(dtype), next_bias.to(dtype), eps)
    return x, y.to(torch.promote_types(x.dtype, next_weight.dtype))
