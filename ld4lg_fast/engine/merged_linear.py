"""Matmuls of the same input as one: the q/k/v and the gate/up projections of decoder-only models.

Weights in float32 and bfloat16 are read where they are, so that no second copy of a model is held.

Letters: R rows, I inputs, O outputs.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ld4lg_fast.engine.precision import Int8Linear, Linear, Pack, Tf32Linear, choose_linear, fp8_or_plain
from ld4lg_fast.kernels import backend, ops

Merge = Callable[..., Linear]
"""(linears of the same input, glu) -> their outputs side by side, or glu(first) · second of two."""


def share(linears: Sequence[nn.Linear], glu: str | None = None, *, dtype: torch.dtype) -> Linear:
    """`ops.MergedLinear` of the linears' own weights, or of copies of them in another dtype."""
    weights = [linear.weight.detach().to(dtype) for linear in linears]
    return ops.MergedLinear(
        weights, [None if linear.bias is None else linear.bias.detach() for linear in linears], glu
    )


class PackedLinears:
    """The linears' weights packed as one."""

    def __init__(
        self, linears: Sequence[nn.Linear], glu: str | None = None, *, pack: Pack, dtype: torch.dtype
    ) -> None:
        weights: list[Tensor] = [linear.weight for linear in linears]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        bias = None
        if any(linear.bias is not None for linear in linears):
            absent = weight.new_zeros
            biases: list[Tensor] = [absent(len(x.weight)) if x.bias is None else x.bias for x in linears]
            bias = torch.cat(biases).detach().to(dtype)
        # int8 is rounded from any float, without a float32 copy of a bfloat16 weight.
        weight = weight.detach() if pack is Int8Linear else weight.detach().to(dtype)
        self.matmul = pack(weight, bias)
        self.activation = None if glu is None else ACT2FN[glu]

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.activation is None:
            return self.matmul(x, residual)
        gate, up = self.matmul(x).chunk(2, dim=-1)
        return self.activation(gate).mul_(up)


def choose_merge(
    precision: str | None, weights: torch.dtype, device: torch.device, deterministic: bool = False
) -> tuple[torch.dtype, Merge]:
    """The dtype of everything but the matmuls, and the `Merge` of the matmuls, see `precision.choose_linear`.

    bfloat16 weights are multiplied with float32 where the C++ library runs.

    Raises:
        ConfigError: an unknown precision, or one that this device does not support.
    """
    dtype, pack = choose_linear(precision, weights, device, few_rows=True, deterministic=deterministic)
    if deterministic or pack in (Int8Linear, Tf32Linear, fp8_or_plain):
        return dtype, partial(PackedLinears, pack=pack, dtype=dtype)
    stored = torch.bfloat16 if precision == "bf16" else dtype
    if stored == torch.bfloat16 and device.type == "cpu" and backend.has_native():
        dtype = torch.float32
    return dtype, partial(share, dtype=stored)
