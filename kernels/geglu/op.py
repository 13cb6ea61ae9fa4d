"""Bias, split, value·GELU(gate) and dropout in one pass (GEGLU: Shazeer 2020), with its derivative.

Letters: F width of value and gate, R rows (all leading axes), P parts of `ROWS_PER_PART` rows.

The backward operator gives the gradient of projected and the column sums (P, 2F) float32 of the gradient's
unrounded rows, a row of sums for each part: the gradient of the bias.
"""

from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.argument_checks import check_device
from ld4lg_fast.kernels.geglu import reference
from ld4lg_fast.kernels.library import operator, register, register_autograd

MAX_WIDTH = 2**31  # of projected: columns and random words of dropout have 32 bits


def check(shape: tuple[int, ...], bias: Tensor, dropout: float, seed: Tensor | None) -> None:
    """Refuses shapes, dtypes and numbers that do not fit; ``shape`` is that of projected.

    Raises:
        ValueError: naming the argument.
    """
    if not shape or not 0 < shape[-1] < MAX_WIDTH or shape[-1] % 2:
        raise ValueError(
            f"projected has shape {shape}; its last axis needs an even, positive number of elements below 2**31"
        )
    if bias.shape != shape[-1:]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it needs {shape[-1:]}, projected's last axis")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it needs 0 <= dropout < 1")
    if dropout and (seed is None or seed.dtype != torch.int64 or seed.numel() != 1):
        raise ValueError(
            "dropout needs a seed: a tensor of one int64, for example torch.randint(2**62, (1,))"
        )


def check_operator(projected: Tensor, bias: Tensor, seed: Tensor | None, dropout: float) -> None:
    """Checks the arguments of ``ld4lg::geglu``, which has a seed exactly if it has dropout."""
    check(tuple(projected.shape), bias, dropout, seed)
    check_device("projected bias seed", projected, bias, seed)
    if (seed is not None) != (dropout > 0):
        raise ValueError(f"seed and dropout come together; dropout is {dropout}")


def check_backward(
    grad: Tensor, projected: Tensor, bias: Tensor, seed: Tensor | None, dropout: float
) -> None:
    """Checks the arguments of ``ld4lg::geglu_backward``."""
    check_operator(projected, bias, seed, dropout)
    check_device("projected grad", projected, grad)
    shape = (*projected.shape[:-1], projected.shape[-1] // 2)
    if grad.shape != shape:
        raise ValueError(
            f"grad has shape {tuple(grad.shape)}; it needs {shape}, half of projected's last axis"
        )


ROWS_PER_PART = 32


def parts_of(rows: int) -> int:
    """P for R rows."""
    return (rows + ROWS_PER_PART - 1) // ROWS_PER_PART


def _fake(projected: Tensor, bias: Tensor, seed: Tensor | None, dropout: float) -> Tensor:
    return projected.new_empty((*projected.shape[:-1], projected.shape[-1] // 2))


def _fake_backward(
    grad: Tensor, projected: Tensor, bias: Tensor, seed: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    width = projected.shape[-1]
    parts = parts_of(projected.numel() // width)
    return projected.new_empty(projected.shape), projected.new_empty((parts, width), dtype=torch.float32)


register(
    "geglu(Tensor projected, Tensor bias, Tensor? seed, float dropout) -> Tensor",
    _fake,
    check_operator,
    "geglu",
    "forward",
)
register(
    "geglu_backward(Tensor grad, Tensor projected, Tensor bias, Tensor? seed, float dropout)"
    " -> (Tensor grad_projected, Tensor sums)",
    _fake_backward,
    check_backward,
    "geglu",
    "backward",
)

_geglu_backward = operator("geglu_backward")


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    projected, bias, seed, ctx.dropout = inputs
    ctx.save_for_backward(projected, bias, seed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    projected, bias, seed = ctx.saved_tensors
    grad_projected, sums = _geglu_backward(grad, projected, bias, seed, ctx.dropout)
    return grad_projected, sums.sum(0).to(bias.dtype), None, None


register_autograd("geglu", _backward, _setup)


_geglu = operator("geglu")


def geglu(projected: Tensor, bias: Tensor, dropout: float = 0.0, seed: Tensor | None = None) -> Tensor:
    """Bias, split, value·GELU(gate) and dropout in one pass (Shazeer 2020).

    ``value | gate = projected + bias`` and ``out = value · gate · Φ(gate)``, Φ the normal distribution (the
    exact, erf form of GELU). Computes in float32. The inputs' dtypes may differ. Both tensors have
    derivatives.

    Args:
        projected: (…, 2F), a matmul without its bias.
        bias: (2F,).
        dropout: probability in [0, 1) that an element becomes 0; the others are multiplied by 1/(1-dropout).
        seed: one int64 on projected's device, needed with dropout: the same seed drops the same elements, in
            every backend (`reference.geglu` gives the mapping).

    Returns:
        (…, F) in projected's dtype.

    Raises:
        ValueError: arguments that do not fit; the message names them.
        BackendUnavailableError: a backend requested by name cannot run these tensors.
    """
    check(tuple(projected.shape), bias, dropout, seed)
    check_device("projected bias seed", projected, bias, seed)
    if backend.choose("geglu", projected.device.type, (projected.dtype, bias.dtype)) == "reference":
        return reference.geglu(projected, bias, dropout, seed)
    return _geglu(projected, bias, seed if dropout else None, dropout)
