"""Root mean square norm (Zhang & Sennrich 2019). Letters: R rows, G vectors of a row, D width of a vector."""

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.argument_checks import FLOAT32_MAX, check_device
from ld4lg_fast.kernels.rms_norm import reference


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight of each vector. For inference.

    torch's is one kernel on a GPU and six on a CPU, where the C++ library has one.

    Args:
        x: (R, G·D), rows may have a stride. weight: (D,), whose dtype is that of the computation.

    Returns:
        (R, G·D) in the dtype of x.

    Raises:
        ValueError: shapes or devices that do not fit; the message names them.
        BackendUnavailableError: a backend requested by name cannot run these tensors.
    """
    if x.ndim != 2 or weight.ndim != 1 or not weight.shape[0] or x.shape[1] % weight.shape[0]:
        raise ValueError(
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)} do not fit; they need (R, G·D) and (D,)"
        )
    if not x.is_floating_point() or not weight.is_floating_point() or not 0 <= eps <= FLOAT32_MAX:
        raise ValueError(
            f"x is {x.dtype}, weight {weight.dtype}, eps {eps}; they need floating-point numbers and 0 or more"
        )
    check_device("x weight", x, weight)
    name = "reference"
    if x.dtype == weight.dtype == torch.float32 and x.is_cpu and x.numel():
        name = backend.choose("rms_norm", "cpu", (x.dtype,))
    if name != "native":
        return reference.rms_norm(x, weight, eps)
    from ld4lg_fast.kernels.rms_norm.cpu import rms_norm as native

    return native(x, weight, eps)
