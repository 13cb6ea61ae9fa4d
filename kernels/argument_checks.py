"""Argument checks that operations share: devices, integers, ranges of indices.

Checks of shapes, dtypes and numbers read no tensor elements. `check_within` reads those of CPU tensors; on other
devices reading would block the host, so the kernels skip indices that are out of range.
"""

from numbers import Integral

import torch
from torch import Tensor

INT64_MAX = 2**63 - 1
FLOAT32_MIN, FLOAT32_MAX = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max


def check_device(names: str, first: Tensor, *others: Tensor | None) -> None:
    """Refuses tensors on another device than the first; ``names`` are those of all tensors.

    Raises:
        ValueError: naming the tensor and both devices.
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
    """Refuses anything but an integer from ``low`` to ``high``.

    Raises:
        ValueError: naming it.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it needs a whole number from {low} to {high}")


def check_within(name: str, values: Tensor, low: int, high: int, besides: str = "") -> None:
    """Refuses indices out of a range, for tensors on a CPU; the message ends with ``besides``.

    Raises:
        IndexError: naming one.
    """
    if values.numel():
        for extreme in torch.aminmax(values):
            if not low <= (value := extreme.item()) <= high:
                raise IndexError(f"{name} holds {value}; it needs {low} to {high}{besides}")
