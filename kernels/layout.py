"""Views of tensors of any shape as rows and groups of rows, the layout of the kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

ROWS_PER_PART = 8


def as_rows(tensor: Tensor, width: int) -> Tensor:
    """(rows, width) with adjacent elements in a row: a view if the strides allow it."""
    matrix = tensor.reshape(-1, width)
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def grouped_modulation(scale: Tensor, shift: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Expands scale and shift to (…leading axes of shape, 1, …, 1, D), with as many trailing ones as both allow."""
    ndim = len(shape)
    of_scale, of_h = tuple(scale.shape), tuple(shape)  # torch's own shapes take longer to cut
    if of_scale == shift.shape and len(of_scale) == ndim and of_scale[-1] == of_h[-1]:
        varying = _varying_axes(of_scale)
        if of_scale[:varying] == of_h[:varying]:
            return scale, shift
    try:
        broadcast = torch.broadcast_shapes(scale.shape, shift.shape, (shape[-1],))
        if torch.broadcast_shapes(broadcast, shape) != shape:
            raise RuntimeError
    except RuntimeError:
        raise ValueError(
            f"scale {tuple(scale.shape)}, shift {tuple(shift.shape)} do not broadcast to h's {tuple(shape)}"
        ) from None
    broadcast = (1,) * (ndim - len(broadcast)) + tuple(broadcast)
    varying = _varying_axes(broadcast)
    target = (*shape[:varying], *broadcast[varying:-1], shape[-1])
    return scale.expand(target), shift.expand(target)


def _varying_axes(shape: Sequence[int]) -> int:
    """Number of leading axes up to the last one that is not 1, without D."""
    count = len(shape) - 1
    while count > 0 and shape[count - 1] == 1:
        count -= 1
    return count


def parts_of_group(rows_per_group: int) -> int:
    """Number of parts of ROWS_PER_PART rows into which a group is split to sum its columns."""
    return (rows_per_group + ROWS_PER_PART - 1) // ROWS_PER_PART
