from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS = {"silu": F.silu, "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh")}


def merged_linear(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    residual: Tensor | None = None,
    glu: str | None = None,
) -> Tensor:
    """See `ops.MergedLinear`."""
    outputs = [
        F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        for weight, bias in zip(weights, biases, strict=True)
    ]
    if glu is not None:
        gate, up = outputs
        outputs = [ACTIVATIONS[glu](gate).mul_(up)]
    y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
    return y if residual is None else y.add_(residual)
