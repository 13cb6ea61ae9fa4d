"""What `ops.geglu_linear` and its operator take. Letters: D width of x, F width of value and of gate."""

from torch import Tensor

from ld4lg_fast.kernels.arguments import geglu
from ld4lg_fast.kernels.arguments.rules import check_device


def check(x: Tensor, weight: Tensor, bias: Tensor, dropout: float, seed: Tensor | None) -> None:
    """Refuses shapes, devices and numbers that do not fit.

    Raises:
        ValueError: naming them.
    """
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1] or not x.shape[-1]:
        raise ValueError(
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)} do not fit; weight needs (2F, D)"
        )
    geglu.check((*x.shape[:-1], weight.shape[0]), bias, dropout, seed)
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
