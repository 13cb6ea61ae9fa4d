"""The arguments of the operators in the order of their schemas."""

from typing import Any, NamedTuple

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
        *tensors, eps = arguments
        return cls(*tensors, eps=eps)


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
