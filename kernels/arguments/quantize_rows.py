"""What `ops.quantize_rows` and its operator take."""

from torch import Tensor

from ld4lg_fast.kernels.arguments import geglu
from ld4lg_fast.kernels.arguments.rules import check_device


def check(x: Tensor, geglu_bias: Tensor | None) -> None:
    """Refuses shapes and devices that do not fit.

    Raises:
        ValueError: naming them.
    """
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; it needs two axes, the last with at least one element"
        )
    if geglu_bias is not None:
        geglu.check(tuple(x.shape), geglu_bias, 0.0, None)
        check_device("x geglu_bias", x, geglu_bias)
