from torch import Tensor
from torch.nn import functional as F


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `ops.rms_norm`."""
    vectors = x.unflatten(1, (-1, weight.shape[0])).to(weight.dtype)
    return F.rms_norm(vectors, weight.shape, weight, eps).to(x.dtype).flatten(1)
