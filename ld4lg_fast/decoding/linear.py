"""Matrix products with fixed weights, prepared once for the processor they run on.

Letters: R rows, I inputs, O outputs.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.decoding.rules import UnsupportedError

Linear = Callable[..., Tensor]
"""(x (R, I), residual (R, O) or None) -> x Wᵀ + bias + residual, (R, O)."""

Pack = Callable[[Tensor, Tensor | None], Linear]
"""(weight (O, I), bias (O,) or None) -> the product."""


class PlainLinear:
    """torch's own product."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y if residual is None else y.add_(residual)


class OneDnnLinear:
    """oneDNN's product on weights in the order that its kernels read, as torch's compiler uses it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.plain = PlainLinear(weight, bias)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self.bias = bias

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        # A product with a vector reads each weight once, in whatever order: torch's is faster.
        if len(x) == 1:
            return self.plain(x, residual)
        if residual is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x, residual, self.weight, self.bias, "add")


class Int8Linear:
    """Products of bytes: weights quantised a row at a time, inputs a matrix at a time, sums in int32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.detach().float()
        scales = weight.abs().amax(dim=1).clamp(min=1e-12).double() / 127
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, but nothing else makes what the product takes
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(quantized, None if bias is None else bias.float())

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        # Seven bits of input: two products of eight bits would not fit where processors without VNNI add them.
        y = torch.ops.quantized.linear_dynamic(x, self.packed, True)
        return y if residual is None else y.add_(residual)


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}


def choose_linear(
    precision: str | None, weights: torch.dtype, device: torch.device
) -> tuple[torch.dtype, Pack]:
    """The dtype of everything but the products, and what prepares the products.

    Raises:
        UnsupportedError: a precision that this device has no products for.
    """
    dtype = weights if precision is None else _DTYPES[precision]
    if precision == "int8":
        if device.type != "cpu":
            raise UnsupportedError(f"int8 products on {device.type}")
        if "fbgemm" not in torch.backends.quantized.supported_engines:
            raise UnsupportedError("int8 products with a torch that was built without fbgemm")
        return dtype, Int8Linear
    if device.type == "cpu" and torch.backends.mkldnn.is_available() and dtype == torch.float32:
        return dtype, OneDnnLinear
    return dtype, PlainLinear
