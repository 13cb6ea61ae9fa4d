"""What `ops.geglu`, its operator and its backward take. Letters: F width of value and of gate."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.arguments.rules import check_device

MAX_WIDTH = 2**31  # of a product: columns are counted in 32 bits, as the words are that drop them


def check(shape: tuple[int, ...], bias: Tensor, dropout: float, seed: Tensor | None) -> None:
    """Refuses shapes, dtypes and numbers that do not fit; ``shape`` is the product's.

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
    """What ``ld4lg::geglu`` takes: a seed with dropout, and none without."""
    check(tuple(projected.shape), bias, dropout, seed)
    check_device("projected bias seed", projected, bias, seed)
    if (seed is not None) != (dropout > 0):
        raise ValueError(f"seed and dropout come together; dropout is {dropout}")


def check_backward(
    grad: Tensor, projected: Tensor, bias: Tensor, seed: Tensor | None, dropout: float
) -> None:
    """What ``ld4lg::geglu_backward`` takes."""
    check_operator(projected, bias, seed, dropout)
    check_device("projected grad", projected, grad)
    shape = (*projected.shape[:-1], projected.shape[-1] // 2)
    if grad.shape != shape:
        raise ValueError(
            f"grad has shape {tuple(grad.shape)}; it needs {shape}, half of projected's last axis"
        )
