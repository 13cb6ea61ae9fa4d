import torch
from torch import Tensor
from torch.nn import functional as F


def add_layer_norm(
    branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """See `ops.add_layer_norm`. torch computes the statistics in float32 for every dtype."""
    x = residual + branch
    dtype = torch.promote_types(x.dtype, weight.dtype)
    return x, F.layer_norm(x.to(dtype), x.shape[-1:], weight.to(dtype), bias.to(dtype), eps)
