"""Cross-entropy of a language model's head, computed in chunks so that the logits of all rows are never in memory.

Letters: D width of x, V vocabulary.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.library import is_traced
from ld4lg_fast.kernels.linear_cross_entropy import chunked, reference
from ld4lg_fast.kernels.linear_cross_entropy.checks import check, check_dtype, check_targets

_HAS_LIGER = find_spec("liger_kernel") is not None


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, ignore_index: int = -100
) -> Tensor:
    """A language model's head and its loss, without the logits of all positions in memory.

    The mean of ``-log softmax(x·weightᵀ + bias)[target]`` over the rows whose target is not ``ignore_index``, as in
    `torch.nn.functional.cross_entropy` (NaN without such rows). On a GPU with the package liger-kernel
    its kernels run; elsewhere torch's matmuls in chunks of rows, on a CPU with the softmax in C++. x, weight and
    bias have derivatives.

    Args:
        x: (…, D). weight: (V, D). targets: x's leading axes, int64 in [0, V) or ``ignore_index``. bias: (V,) or None.

    Returns:
        A scalar, float32 (or float64 for float64 inputs on the reference backend).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; the message names them.
        IndexError: a target out of its range, on a CPU. On a GPU a device assertion fails, as in torch's loss, and a
            later call raises.
        BackendUnavailableError: a backend requested by name cannot run these tensors.
    """
    check(x, weight, targets, bias, ignore_index)
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    if not autocast:
        check_dtype(x, weight, bias)
    dtypes = (x.dtype, weight.dtype) if bias is None else (x.dtype, weight.dtype, bias.dtype)
    chosen = backend.choose("linear_cross_entropy", device, dtypes)
    if chosen == "reference":
        if x.is_cpu and not is_traced(x, weight, targets):
            check_targets(targets[targets != ignore_index], weight.shape[0])
        return reference.linear_cross_entropy(x, weight, targets, bias, ignore_index)
    if autocast:
        low = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(low), weight.to(low), None if bias is None else bias.to(low)
    x, targets = x.flatten(0, -2), targets.flatten()
    with torch.autocast(device, enabled=False):
        if chosen == "triton" and _HAS_LIGER and x.is_cuda:
            return _liger(x, weight, targets, bias, ignore_index)
        return chunked.linear_cross_entropy(x, weight, targets, bias, ignore_index)


def _liger(x: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, ignore_index: int) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    inside = (targets == ignore_index) | ((targets >= 0) & (targets < weight.shape[0]))
    torch._assert_async(inside.all(), f"targets need 0 to {weight.shape[0] - 1}, or ignore_index")
    return liger_fused_linear_cross_entropy(
        x, weight, targets, bias, ignore_index=ignore_index, accum_dtype=torch.float32
    )
