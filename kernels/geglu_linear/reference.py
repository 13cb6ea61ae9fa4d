from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.kernels.geglu.reference import geglu


def geglu_linear(
    x: Tensor, weight: Tensor, bias: Tensor, dropout: float = 0.0, seed: Tensor | None = None
) -> Tensor:
    """See `ops.geglu_linear`."""
    return geglu(F.linear(x, weight), bias, dropout, seed)
