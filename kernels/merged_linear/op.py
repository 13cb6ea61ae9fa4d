"""Matmuls of the same rows with up to three weights, which are read where they are.

Letters: R rows, I inputs, O outputs of a weight.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.argument_checks import check_device
from ld4lg_fast.kernels.merged_linear import reference
from ld4lg_fast.kernels.native import instruction_set

MOST_WEIGHTS = 3
# Rows up to which the C++ library is not slower than torch, by instruction set.
FEW_ROWS = {"avx512_bf16": 64, "avx512_vnni": 64, "avx512": 64, "avx2": 64, "baseline": 8}


def check(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    residual: Tensor | None,
    glu: str | None,
) -> None:
    """Refuses shapes, devices and names that do not fit.

    Raises:
        ValueError: naming them.
    """
    shapes = [tuple(weight.shape) for weight in weights]
    if (
        not 1 <= len(weights) <= MOST_WEIGHTS
        or x.ndim != 2
        or any(len(s) != 2 or s[1] != x.shape[1] for s in shapes)
    ):
        raise ValueError(
            f"x {tuple(x.shape)} and weights {shapes} do not fit; they need (R, I) and one to {MOST_WEIGHTS} of (O, I)"
        )
    dtypes = {weight.dtype for weight in weights}
    if len(dtypes) > 1 or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype}, weights {dtypes}; they need floating-point numbers, the weights of one dtype"
        )
    if len(biases) != len(weights) or any(
        bias is not None and bias.shape != (shape[0],) for bias, shape in zip(biases, shapes, strict=False)
    ):
        raise ValueError(f"biases do not fit weights {shapes}; they need None or (O,) for each")
    if glu is not None and (glu not in reference.ACTIVATIONS or len(weights) != 2 or shapes[0] != shapes[1]):
        raise ValueError(
            f"glu is {glu!r} for weights {shapes}; it needs two of the same shape and one of "
            f"{', '.join(reference.ACTIVATIONS)}"
        )
    columns = shapes[0][0] if glu is not None else sum(shape[0] for shape in shapes)
    if residual is not None and (residual.shape != (x.shape[0], columns) or residual.dtype != x.dtype):
        raise ValueError(
            f"residual is {residual.dtype} {tuple(residual.shape)}; it needs {x.dtype} {(x.shape[0], columns)}"
        )
    check_device(
        "x residual" + " weight" * len(weights) + " bias" * len(biases), x, residual, *weights, *biases
    )


def merged_linear(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None = None,
    residual: Tensor | None = None,
    glu: str | None = None,
) -> Tensor:
    """x Wᵀ + bias of every weight, side by side, or activation(gate)·up of two; + residual. For inference.

    The weights keep their layout, so that no copy of them is held; those of bfloat16 are widened while they are read.
    The C++ library serves few rows of float32, where the time is that of reading the weights once; torch the others.

    Args:
        x: (R, I). weights: one to three of (O, I), of the same dtype, that of x, or bfloat16 for x in float32.
        biases: for each (O,) or None; None: no biases.
        residual: (R, sum of O), or (R, O) with ``glu``, or None.
        glu: the activation of a gated linear unit (Shazeer 2020), ``silu`` or ``gelu_pytorch_tanh``, of the weights
            (gate, up); None: the outputs side by side.

    Returns:
        (R, sum of O), or (R, O) with ``glu``, in the dtype of x.

    Raises:
        ValueError: arguments that do not fit; the message names them.
        BackendUnavailableError: a backend requested by name cannot run these tensors.
    """
    offsets = (None,) * len(weights) if biases is None else biases
    check(x, weights, offsets, residual, glu)
    name = "reference"
    if x.dtype == torch.float32 and x.is_cpu and x.shape[0]:
        name = backend.choose("merged_linear", "cpu", tuple(weight.dtype for weight in weights))
    plain = all(weight.is_contiguous() for weight in weights)
    if name != "native" or not plain or x.shape[0] > FEW_ROWS[instruction_set()]:
        return reference.merged_linear(x, weights, offsets, residual, glu)
    from ld4lg_fast.kernels.merged_linear.cpu import merged_linear as native

    floats = [None if bias is None else bias.float() for bias in offsets]
    return native(x, weights, floats, residual, glu)
