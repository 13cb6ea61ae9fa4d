"""The arguments of `geglu_linear` checked, its backend chosen. Letters: D width of x, F width of value and of gate."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.arguments.geglu_linear import check, check_dtype
from ld4lg_fast.kernels.doors.geglu import geglu
from ld4lg_fast.kernels.library import is_traced, need_gradients, operator
from ld4lg_fast.kernels.registration import geglu_linear as _registered  # noqa: F401

_geglu_linear = operator("geglu_linear")
FEW_ROWS = 512  # of x: up to so many the native kernel wins


def geglu_linear(
    x: Tensor, weight: Tensor, bias: Tensor, dropout: float = 0.0, seed: Tensor | None = None
) -> Tensor:
    """The first half of a GEGLU feed-forward: product, bias, split, value·GELU(gate), dropout.

    ``auto`` and ``native`` run torch's product and then `geglu`; on a CPU, in float32 and without gradients, up to
    `FEW_ROWS` rows go through the product's transpose, which is faster. ``triton``, asked for by name, runs one
    kernel: value and gate columns of the product meet in one program, and the (…, 2F) product is never written,
    not even for backward, which computes it again. Which is faster on a GPU, ``benchmarks/ops.py`` tells.

    Args:
        x: (…, D). weight: (2F, D), value rows first. bias: (2F,).
        dropout, seed: as in `geglu`, with the same mask.

    Returns:
        (…, F) in the dtype of the product (autocast's where it is on).

    Raises:
        ValueError: arguments that do not fit; the message names them.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    check(x, weight, bias, dropout, seed)
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    if not autocast:
        check_dtype(x, weight)
    if backend.current_backend() != "triton" and (dropout or not _runs_transposed(x, weight, bias)):
        return geglu(F.linear(x, weight), bias, dropout, seed)
    if autocast:
        x, weight = x.to(torch.get_autocast_dtype(device)), weight.to(torch.get_autocast_dtype(device))
    backend.choose("geglu_linear", device, (x.dtype, bias.dtype))
    return _geglu_linear(x, weight, bias, seed if dropout else None, dropout)


def _runs_transposed(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether the native kernel, which has no backward, may run on these tensors, and wins."""
    return (
        x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and x.numel() <= FEW_ROWS * x.shape[-1]
        and not need_gradients((x, weight, bias))
        and not torch.is_autocast_enabled("cpu")
        and not is_traced(x, weight, bias)
        and backend.choose("geglu_linear", "cpu", (torch.float32, bias.dtype)) == "native"
    )
