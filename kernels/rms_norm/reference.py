from torch import Tensor
from torch.nn import functional as F


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `ops.rms_norm`."""
    width = weight.shape[0]
    vectors = x.unflatten(1, (x.shape[1] // width, width)).to(weight.dtype)
    return F.rms_norm(vectors, (width,), weight, eps).to(x.dtype).flatten(1)
