import torch
from torch import Tensor
from torch.nn import functional as F


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, ignore_index: int = -100
) -> Tensor:
    """See `ops.linear_cross_entropy`: the logits as one tensor, and torch's loss in float32 (or float64)."""
    logits = F.linear(x, weight, bias).flatten(0, -2)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(dtype), targets.flatten(), ignore_index=ignore_index)
