"""The arguments of the operators in the order of their schemas."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ld4lg_fast.kernels.layout import parts_of_group


class Inputs(NamedTuple):
    """Arguments of ``ld4lg::adaln_residual_norm``. Those of ``ld4lg::adaln_residual`` have no next norm."""

    h: Tensor
    residual: Tensor
    weight: Tensor
    bias: Tensor
    scale: Tensor
    shift: Tensor
    next_weight: Tensor | None = None
    next_bias: Tensor | None = None
    eps: float = 1e-5

    @classmethod
    def without_next(cls, *arguments: Any) -> "Inputs":
        """From the arguments of ``ld4lg::adaln_residual``."""
        h, residual, weight, bias, scale, shift, eps = arguments
        return cls(h, residual, weight, bias, scale, shift, eps=eps)


def outputs(residual: Tensor, next_weight: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
    """Uninitialized x, y and statistics of the forward operators; y is None without a next norm."""
    x, y = torch.empty_like(residual, memory_format=torch.contiguous_format), None
    rows = x.numel() // x.shape[-1]
    if next_weight is not None:
        dtype = next_weight.dtype
        y = torch.empty_like(x, dtype=dtype if dtype == x.dtype else torch.promote_types(x.dtype, dtype))
    return x, y, x.new_empty((2 if y is None else 4, rows), dtype=torch.float32)


class BackwardInputs(NamedTuple):
    """Arguments of ``ld4lg::adaln_residual_backward``. grad_y, x and next_weight are None without a next norm."""

    grad_x: Tensor
    grad_y: Tensor | None
    h: Tensor
    x: Tensor | None
    weight: Tensor
    scale: Tensor
    next_weight: Tensor | None
    stats: Tensor

    def parts(self) -> tuple[int, int, int, int]:
        """Rows, rows of a group, and the sizes (G, P) of the column sums."""
        width = self.h.shape[-1]
        rows, groups = self.h.numel() // width, self.scale.numel() // width
        rows_per_group = rows // max(1, groups)
        return rows, rows_per_group, groups, parts_of_group(rows_per_group)

    def outputs(self) -> list[Tensor]:
        """Uninitialized gradient of h, column sums and, with a next norm, gradient of the residual."""
        grad_h = torch.empty_like(self.h, memory_format=torch.contiguous_format)
        kinds = 2 if self.grad_y is None else 4
        sums = grad_h.new_empty((*self.parts()[2:], kinds, grad_h.shape[-1]), dtype=torch.float32)
        if self.grad_y is None:
            return [grad_h, sums]
        return [grad_h, sums, torch.empty_like(self.grad_x, memory_format=torch.contiguous_format)]
