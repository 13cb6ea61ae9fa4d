"""What operations ask of their arguments alike: one device, numbers that fit, indices within a range.

A check of shapes, dtypes and numbers reads no tensor's memory. What a CPU tensor holds is looked at by `check_within`;
on other devices nobody waits for it, and the kernels pass over what is out of range.
"""

from numbers import Integral

import torch
from torch import Tensor

INT64_MAX = 2**63 - 1
FLOAT32_MIN, FLOAT32_MAX = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


def check_device(names: str, first: Tensor, *others: Tensor | None) -> None:
    """Refuses tensors that are not all on the device of the first; ``names`` are theirs.

    Raises:
        ValueError: naming the two.
    """
    if first.is_cpu:
        for tensor in others:
            if tensor is not None and not tensor.is_cpu:
                break
        else:
            return
    of_first, *of_others = names.split()
    for name, tensor in zip(of_others, others, strict=True):
        if tensor is not None and tensor.device != first.device:
            raise ValueError(f"{name} is on {tensor.device}; it needs {of_first}'s device, {first.device}")


def check_integer(name: str, value: int, low: int = 0, high: int = INT64_MAX) -> None:
    """Refuses what is not a whole number from ``low`` to ``high``, which numbers beyond 64 bits never are.

    Raises:
        ValueError: naming it.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it needs a whole number from {low} to {high}")


def check_within(name: str, values: Tensor, low: int, high: int, besides: str = "") -> None:
    """Refuses indices out of a range, for tensors on a CPU; ``besides`` says what else they may be.

    Raises:
        IndexError: naming one.
    """
    if values.numel():
        for extreme in torch.aminmax(values):
            if not low <= (value := extreme.item()) <= high:
                raise IndexError(f"{name} holds {value}; it needs {low} to {high}{besides}")
