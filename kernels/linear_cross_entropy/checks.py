"""Checks of the arguments of `ops.linear_cross_entropy`. Letters: D width of x, V vocabulary."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.argument_checks import check_device, check_integer, check_within


def check(x: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, ignore_index: int) -> None:
    """Refuses shapes, dtypes and devices that do not fit.

    Raises:
        ValueError: naming them.
    """
    of_x, of_weight = tuple(x.shape), weight.shape
    fits = len(of_x) > 1 and len(of_weight) == 2 and of_x[-1] == of_weight[1] and targets.shape == of_x[:-1]
    if not fits or not of_weight[0]:
        raise ValueError(
            f"x {tuple(x.shape)}, weight {tuple(weight.shape)} and targets {tuple(targets.shape)} do not fit; "
            "they need (…, D), (V, D) and (…)"
        )
    if bias is not None and bias.shape != (of_weight[0],):
        raise ValueError(
            f"bias has shape {tuple(bias.shape)}; it needs ({weight.shape[0]},), one for each class"
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"targets is {targets.dtype}; it needs int64")
    check_integer("ignore_index", ignore_index, -(2**63))
    check_device("x weight targets bias", x, weight, targets, bias)


def check_dtype(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Refuses a matmul of two dtypes.

    Raises:
        ValueError: naming them.
    """
    if x.dtype != weight.dtype or (bias is not None and bias.dtype != x.dtype):
        of_bias = "" if bias is None else f", bias {bias.dtype}"
        raise ValueError(f"x is {x.dtype}, weight {weight.dtype}{of_bias}; a matmul needs one dtype")


def check_targets(targets: Tensor, vocabulary: int) -> None:
    """Refuses targets that are no classes, on a CPU. The caller removes those to ignore.

    Raises:
        IndexError: naming one.
    """
    check_within("targets", targets, 0, vocabulary - 1, " or ignore_index")
