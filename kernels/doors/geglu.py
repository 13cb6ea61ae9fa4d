"""The arguments of `geglu` checked, its backend chosen. Letters: F width of value and of gate."""

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.library import operator
from ld4lg_fast.kernels.plain import geglu as plain
from ld4lg_fast.kernels.registration import geglu as _registered  # noqa: F401

_geglu = operator("geglu")


def geglu(projected: Tensor, bias: Tensor, dropout: float = 0.0, seed: Tensor | None = None) -> Tensor:
    """Bias, split, value·GELU(gate) and dropout in one pass (Shazeer 2020).

    ``value | gate = projected + bias`` and ``out = value · gate · Φ(gate)``, Φ the normal distribution (the
    exact, erf form of GELU). Arithmetic is in float32 whatever the inputs' dtypes, which may differ. The
    derivatives of both tensors are defined.

    Args:
        projected: (…, 2F), a product without its bias.
        bias: (2F,).
        dropout: probability in [0, 1) of an element to become 0; the others grow by 1/(1-dropout).
        seed: one int64 on projected's device, needed with dropout: the same seed drops the same elements, in
            every backend (`reference.geglu` gives the mapping).

    Returns:
        (…, F) in projected's dtype.

    Raises:
        ValueError: arguments that do not fit; the message names them.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    check_arguments(tuple(projected.shape), bias, dropout, seed)
    if backend.choose("geglu", projected.device.type, (projected.dtype, bias.dtype)) == "reference":
        return plain.geglu(projected, bias, dropout, seed)
    return _geglu(projected, bias, seed if dropout else None, dropout)


def check_arguments(shape: tuple[int, ...], bias: Tensor, dropout: float, seed: Tensor | None) -> None:
    """Refuses what `geglu` cannot take; ``shape`` is the product's.

    Raises:
        ValueError: naming the argument.
    """
    if not shape or shape[-1] == 0 or shape[-1] % 2:
        raise ValueError(
            f"projected has shape {shape}; its last axis needs an even, positive number of elements"
        )
    if bias.shape != shape[-1:]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it needs {shape[-1:]}, projected's last axis")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it needs 0 <= dropout < 1")
    if dropout and (seed is None or seed.dtype != torch.int64 or seed.numel() != 1):
        raise ValueError(
            "dropout needs a seed: a tensor of one int64, for example torch.randint(2**62, (1,))"
        )
