"""Matmuls of the same rows with up to three weights, which are read where they are.

Letters: R rows, I inputs, O outputs of a weight.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.argument_checks import check_device
from ld4lg_fast.kernels.merged_linear import reference
from ld4lg_fast.kernels.native import instruction_set

MOST_WEIGHTS = 3
# Rows of float32 up to which the C++ library is not slower than torch. Of bfloat16 it serves any number, as torch would
# multiply with a copy in float32.
FEW_ROWS = {"avx512_bf16": 64, "avx512_vnni": 64, "avx512": 64, "avx2": 64, "baseline": 8}


class MergedLinear:
    """x Wᵀ + bias of every weight, side by side, or activation(gate)·up of two; + residual. For inference.

    The weights keep their layout, so that no copy of them is held; those of bfloat16 are widened while they are read.
    The C++ library serves few rows of float32, where the time is that of reading the weights once; torch the others.

    Args:
        weights: one to three of (O, I), of the same dtype.
        biases: for each (O,) or None; None: no biases.
        glu: the activation of a gated linear unit (Shazeer 2020), ``silu`` or ``gelu_pytorch_tanh``, of the weights
            (gate, up); None: the outputs side by side.

    Raises:
        ValueError: arguments that do not fit; the message names them.
    """

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None] | None = None, glu: str | None = None
    ) -> None:
        self.weights = list(weights)
        self.biases = [None] * len(self.weights) if biases is None else list(biases)
        self.glu = glu
        self._check()
        sizes = [len(weight) for weight in self.weights]
        self.inputs, self.outputs = self.weights[0].shape[1], sum(sizes) if glu is None else sizes[0]
        self.dtypes = (self.weights[0].dtype,)
        self.few_rows: float = 0
        weight = self.weights[0]
        if weight.is_cpu and backend.has_native() and all(weight.is_contiguous() for weight in self.weights):
            from ld4lg_fast.kernels.merged_linear.cpu import prepare

            if weight.dtype in (torch.float32, torch.bfloat16):
                self.floats = [None if bias is None else bias.float().contiguous() for bias in self.biases]
                self.native = prepare(self.weights, self.floats, glu)
                self.few_rows = FEW_ROWS[instruction_set()] if weight.dtype == torch.float32 else math.inf

    def _check(self) -> None:
        shapes, dtypes = [tuple(w.shape) for w in self.weights], {w.dtype for w in self.weights}
        if not 1 <= len(shapes) <= MOST_WEIGHTS or {(len(s), s[-1:]) for s in shapes} != {
            (2, shapes[0][-1:])
        }:
            raise ValueError(f"weights {shapes} do not fit; they need one to {MOST_WEIGHTS} of (O, I)")
        if len(dtypes) > 1 or not self.weights[0].is_floating_point():
            raise ValueError(f"weights are {dtypes}; they need floating-point numbers of one dtype")
        if len(self.biases) != len(shapes) or any(
            bias is not None and bias.shape != (shape[0],)
            for bias, shape in zip(self.biases, shapes, strict=False)
        ):
            raise ValueError(f"biases do not fit weights {shapes}; they need None or (O,) for each")
        if self.glu is not None and (
            self.glu not in reference.ACTIVATIONS or len(shapes) != 2 or shapes[0] != shapes[1]
        ):
            raise ValueError(
                f"glu is {self.glu!r} for weights {shapes}; it needs two of the same shape and one of "
                f"{', '.join(reference.ACTIVATIONS)}"
            )
        names = " ".join(["weight"] * len(shapes) + ["bias"] * len(shapes))
        check_device(names, *self.weights, *self.biases)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The outputs in the dtype of x, (R, sum of O), or (R, O) with ``glu``.

        Args:
            x: (R, I) floating-point. residual: of the shape and dtype of the outputs, or None.

        Raises:
            ValueError: arguments that do not fit; the message names them.
            BackendUnavailableError: a backend requested by name cannot run these tensors.
        """
        shape, dtype = x.shape, x.dtype
        if len(shape) != 2 or shape[1] != self.inputs or not x.is_floating_point():
            raise ValueError(
                f"x is {dtype} {tuple(shape)}; it needs floating-point numbers of shape (R, {self.inputs})"
            )
        if residual is not None and (residual.shape != (shape[0], self.outputs) or residual.dtype != dtype):
            raise ValueError(
                f"residual is {residual.dtype} {tuple(residual.shape)}; it needs {dtype} {(shape[0], self.outputs)}"
            )
        check_device("weight x residual", self.weights[0], x, residual)
        few = dtype == torch.float32 and 0 < shape[0] <= self.few_rows
        if few and backend.choose("merged_linear", "cpu", self.dtypes) == "native":
            return self.native(x, residual)
        return reference.merged_linear(x, self.weights, self.biases, residual, self.glu)
