"""A linear layer and its GEGLU, without the (…, 2F) matmul between them in memory.

Letters: D width of x, F width of value and of gate.

Backward recomputes the matmul and calls ``ld4lg::geglu_backward``.
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
    """Refuses x and weight of two dtypes.

    Raises:
        ValueError: naming them.
    """
    if x.dtype != weight.dtype:
        raise ValueError(f"x is {x.dtype} and weight {weight.dtype}; a matmul needs one dtype")


def check_operator(x: Tensor, weight: Tensor, bias: Tensor, seed: Tensor | None, dropout: float) -> None:
    """Checks the arguments of ``ld4lg::geglu_linear``, which has a seed exactly if it has dropout."""
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
FEW_ROWS = 512  # of x: up to this many the native kernel is faster


def geglu_linear(
    x: Tensor, weight: Tensor, bias: Tensor, dropout: float = 0.0, seed: Tensor | None = None
) -> Tensor:
    """The first half of a GEGLU feed-forward: matmul, bias, split, value·GELU(gate), dropout.

    ``auto`` and ``native`` run torch's matmul and then `geglu`; on a CPU, in float32 and without gradients, up to
    `FEW_ROWS` rows run as the transposed matmul, which is faster. ``triton``, requested by name, runs one kernel: a
    program computes value and gate columns together, and the (…, 2F) matmul is never written; backward recomputes
    it. ``benchmarks/ops.py`` measures which is faster on a GPU.

    Args:
        x: (…, D). weight: (2F, D), value rows first. bias: (2F,).
        dropout, seed: as in `geglu`, with the same dropout mask.

    Returns:
        (…, F) in the dtype of the matmul (that of autocast if enabled).

    Raises:
        ValueError: arguments that do not fit; the message names them.
        BackendUnavailableError: a backend requested by name cannot run these tensors.
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
    """Whether the native kernel, which has no backward, can run on these tensors and is faster."""
    return (
        x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and x.numel() <= FEW_ROWS * x.shape[-1]
        and not need_gradients((x, weight, bias))
        and not torch.is_autocast_enabled("cpu")
        and not is_traced(x, weight, bias)
        and backend.choose("geglu_linear", "cpu", (torch.float32, bias.dtype)) == "native"
    )
