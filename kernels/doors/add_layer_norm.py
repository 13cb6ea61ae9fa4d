"""The arguments of `add_layer_norm` checked, its backend chosen. Letters: B batch, N positions, D model width."""

from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.arguments.add_layer_norm import check
from ld4lg_fast.kernels.library import operator
from ld4lg_fast.kernels.plain import add_layer_norm as plain
from ld4lg_fast.kernels.registration import add_layer_norm as _registered  # noqa: F401

_add_layer_norm = operator("add_layer_norm")


def add_layer_norm(
    branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """The end of one sub-block and the pre-norm of the next: ``x = residual + branch``, ``y = LN(x)``.

    One kernel on a GPU; on a CPU torch's two functions, which a fused loop did not beat.

    Statistics and arithmetic are in float32 whatever the inputs' dtypes, which may differ from one another.
    The derivatives of all tensors are defined.

    Args:
        branch: (B, N, D), or any leading axes. residual: the shape of branch.
        weight, bias: (D,) of the norm.
        eps: added to the variance.

    Returns:
        x in the promoted dtype of branch and residual, y in the promoted dtype of x and weight.

    Raises:
        ValueError: shapes or devices that do not fit; the message names them.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    check(branch, residual, weight, bias, eps)
    dtypes = (branch.dtype, residual.dtype, weight.dtype, bias.dtype)
    if backend.choose("add_layer_norm", branch.device.type, dtypes) != "triton":
        return plain.add_layer_norm(branch, residual, weight, bias, eps)
    x, y, _ = _add_layer_norm(branch, residual, weight, bias, eps)
    return x, y
