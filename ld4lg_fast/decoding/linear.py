"""Matrix products with fixed weights, prepared once for the processor they run on."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Linear = Callable[..., Tensor]
"""(x (R, I), residual (R, O) or None) -> x Wᵀ + bias + residual, (R, O)."""


class PlainLinear:
    """torch's own product, in the dtype of the weight (O, I)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y if residual is None else y.add_(residual)


def packer(lm, precision: str | None) -> Callable[[Tensor, Tensor | None], Linear]:
    return PlainLinear
