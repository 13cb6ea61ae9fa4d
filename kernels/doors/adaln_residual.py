"""The arguments of `adaln_residual` checked, its backend chosen. Letters: B batch, N positions, D model width."""

from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.arguments.adaln_residual import check
from ld4lg_fast.kernels.layout import grouped_modulation
from ld4lg_fast.kernels.library import operator
from ld4lg_fast.kernels.plain import adaln_residual as plain
from ld4lg_fast.kernels.registration import adaln_residual as _registered  # noqa: F401

_residual = operator("adaln_residual")
_residual_norm = operator("adaln_residual_norm")


def adaln_residual(
    h: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    next_weight: Tensor | None = None,
    next_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor | None]:
    """Post-norm, time modulation, residual and the next sub-block's pre-norm, in one pass.

    ``x = residual + (1 + scale)·LN(h; weight, bias) + shift`` and ``y = LN(x; next_weight, next_bias)``
    (the feed-forward branch of Lovelace et al. 2023; adaptive norms after Peebles & Xie 2023).

    Statistics and arithmetic are in float32 whatever the inputs' dtypes, which may differ from one another.
    The derivatives of all tensors are defined.

    Args:
        h: (B, N, D), or any leading axes: the branch's output.
        residual: the shape of h.
        weight, bias: (D,) of the norm of h.
        scale, shift: broadcastable to h's shape, e.g. (B, 1, D) or (B, N, D).
        next_weight, next_bias: (D,) of the norm of x, or both None.
        eps: added to both variances.

    Returns:
        x in residual's dtype, and y in the promoted dtype of x and next_weight, or None without a next norm.

    Raises:
        ValueError: shapes or devices that do not fit; the message names them.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    check(h, residual, weight, bias, scale, shift, next_weight, next_bias)
    dtypes = {h.dtype, residual.dtype, scale.dtype, shift.dtype, weight.dtype, bias.dtype}
    if next_weight is not None:
        dtypes |= {next_weight.dtype, next_bias.dtype}
    scale, shift = grouped_modulation(scale, shift, h.shape)
    chosen = backend.choose("adaln_residual", h.device.type, tuple(dtypes))
    if chosen == "reference":
        return plain.adaln_residual(h, residual, weight, bias, scale, shift, next_weight, next_bias, eps)
    if next_weight is None:
        x, _ = _residual(h, residual, weight, bias, scale, shift, eps)
        return x, None
    x, y, _ = _residual_norm(h, residual, weight, bias, scale, shift, next_weight, next_bias, eps)
    return x, y
