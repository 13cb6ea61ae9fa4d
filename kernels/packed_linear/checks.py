"""Checks of the arguments of `ops.PackedLinear` and `ops.NarrowLinear`. Letters: R rows, I inputs, O outputs."""

from typing import NoReturn

import torch
from torch import Tensor

MAX_BYTE_INPUTS = 2**17  # of int8 matmuls: the sum of more overflows 32 bits
KNOWN = (torch.float32, torch.bfloat16)


def check_weight(weight: Tensor, bias: Tensor | None, dtypes: tuple[torch.dtype, ...]) -> None:
    """Refuses weights and biases that cannot be packed.

    Raises:
        ValueError: naming them.
    """
    if weight.ndim != 2 or 0 in weight.shape or weight.dtype not in dtypes or not weight.is_cpu:
        known = " or ".join(str(dtype) for dtype in dtypes)
        raise ValueError(
            f"weight is {weight.dtype} {tuple(weight.shape)} on {weight.device}; it needs {known} of shape (O, I) "
            "with at least one element, on a CPU"
        )
    if bias is not None and (bias.shape != weight.shape[:1] or not bias.is_cpu):
        raise ValueError(
            f"bias has shape {tuple(bias.shape)} on {bias.device}; it needs ({weight.shape[0]},), one for each output"
        )


def check_packed(weight: Tensor, bias: Tensor | None) -> None:
    """Refuses weights and biases that `ops.PackedLinear` does not take.

    Raises:
        ValueError: naming it.
    """
    check_weight(weight, bias, KNOWN)
    if bias is not None and bias.dtype != torch.float32:
        raise ValueError(f"bias is {bias.dtype}; it needs torch.float32")


def check_narrow(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, geglu: bool) -> None:
    """Refuses weights, biases and dtypes that `ops.NarrowLinear` does not take.

    Raises:
        ValueError: naming it.
    """
    check_weight(weight, bias, (*KNOWN, torch.float16, torch.float64))
    if dtype not in (torch.bfloat16, torch.int8):
        raise ValueError(f"dtype is {dtype}; it needs torch.bfloat16 or torch.int8")
    outputs, inputs = weight.shape
    if geglu and outputs % 2:
        raise ValueError(f"weight has {outputs} outputs; a GEGLU needs an even number")
    if dtype == torch.int8 and inputs > MAX_BYTE_INPUTS:
        raise ValueError(f"weight has {inputs} inputs; int8 matmuls take {MAX_BYTE_INPUTS} at most")


def check_rows(x: Tensor, width: int, dtypes: tuple[torch.dtype, ...]) -> None:
    """Refuses an input whose rows are not ``width`` numbers on the CPU.

    Raises:
        ValueError: naming it.
    """
    shape = x.shape
    if len(shape) != 2 or shape[1] != width or x.dtype not in dtypes or not x.is_cpu:
        _refuse("x", x, "R", width, dtypes)


def check_residual(residual: Tensor, rows: int, width: int) -> None:
    """Refuses a residual that is not (rows, width) float32 on the CPU.

    Raises:
        ValueError: naming it.
    """
    if residual.shape != (rows, width) or residual.dtype != torch.float32 or not residual.is_cpu:
        _refuse("residual", residual, rows, width, (torch.float32,))


def _refuse(name: str, x: Tensor, rows: int | str, width: int, dtypes: tuple[torch.dtype, ...]) -> NoReturn:
    known = " or ".join(str(dtype) for dtype in dtypes)
    raise ValueError(
        f"{name} is {x.dtype} {tuple(x.shape)} on {x.device}; it needs {known} of shape ({rows}, {width}) on the CPU"
    )
