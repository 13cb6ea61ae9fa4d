"""The arguments of `geglu` checked, its backend chosen. Letters: F width of value and of gate."""

from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.arguments.geglu import check
from ld4lg_fast.kernels.arguments.rules import check_device
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
    check(tuple(projected.shape), bias, dropout, seed)
    check_device("projected bias seed", projected, bias, seed)
    if backend.choose("geglu", projected.device.type, (projected.dtype, bias.dtype)) == "reference":
        return plain.geglu(projected, bias, dropout, seed)
    return _geglu(projected, bias, seed if dropout else None, dropout)
