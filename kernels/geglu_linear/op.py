"""A linear layer and the GEGLU after it, without the product between them in memory.

Letters: D width of x, F width of value and of gate.

Backward computes the product again and goes through ``ld4lg::geglu_backward``: the (…, 2F) product is not kept.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.argument_checks import check_device
from ld4lg_fast.kernels.geglu.op import check as check_geglu
from ld4lg_fast.kernels.geglu.op import geglu
from ld4lg_fast.kernels.library import is_traced, need_gradients, operator, register, register_autograd


def check(x: Tensor, weight: Tensor, bias: Tensor, dropout: float, seed: Tensor | None) -> None:
    """Refuses shapes, devices and numbers that do not fit.

    Raises:
        ValueError: naming them.
    """
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1] or not x.shape[-1]:
        raise ValueError(
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)} do not fit; weight needs (2F, D)"
        )
    check_geglu((*x.shape[:-1], weight.shape[0]), bias, dropout, seed)
    check_device("x weight bias seed", x, weight, bias, seed)


def check_dtype(x: Tensor, weight: Tensor) -> None:
    """Refuses factors of two dtypes.

    Raises:
        ValueError: naming them.
    """
    if x.dtype != weight.dtype:
        raise ValueError(f"x is {x.dtype} and weight {weight.dtype}; a product needs one dtype")


def check_operator(x: Tensor, weight: Tensor, bias: Tensor, seed: Tensor | None, dropout: float) -> None:
    """What ``ld4lg::geglu_linear`` takes: a seed with dropout, and none without; on a CPU in float32 and no dropout."""
    check(x, weight, bias, dropout, seed)
    check_dtype(x, weight)
    if (seed is not None) != (dropout > 0):
        raise ValueError(f"seed and dropout come together; dropout is {dropout}")


def _fake(x: Tensor, weight: Tensor, bias: Tensor, seed: Tensor | None, dropout: float) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0] // 2))


register(
    "geglu_linear(Tensor x, Tensor weight, Tensor bias, Tensor? seed, float dropout) -> Tensor",
    _fake,
    check_operator,
    "geglu_linear",
    "forward",
)


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, bias, seed, ctx.dropout = inputs
    ctx.save_for_backward(x, weight, bias, seed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, seed = ctx.saved_tensors
    projected = torch.nn.functional.linear(x, weight)
    grad_projected, sums = torch.ops.ld4lg.geglu_backward(grad, projected, bias, seed, ctx.dropout)
    grad_x = grad_projected @ weight
    grad_weight = grad_projected.flatten(0, -2).t() @ x.flatten(0, -2)
    return grad_x, grad_weight, sums.sum(0).to(bias.dtype), None, None


register_autograd("geglu_linear", _backward, _setup)


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
