"""Matmuls with constant weights in several precisions, packed for the device that they run on.

Letters: R rows, I inputs, O outputs.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import backend, ops
from ld4lg_fast.options.checks import check_choice
from ld4lg_fast.options.precisions import precision_name

Linear = Callable[..., Tensor]
"""(x (R, I), residual (R, O) or None) -> x Wᵀ + bias, or its GELU, + residual, (R, O)."""

Pack = Callable[..., Linear]
"""(weight (O, I), bias (O,) or None, gelu) -> the matmul, followed by the exact GELU if ``gelu``."""


def _finish(y: Tensor, gelu: bool, residual: Tensor | None) -> Tensor:
    y = F.gelu(y) if gelu else y
    return y if residual is None else y.add_(residual)


class PlainLinear:
    """torch's matmul."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        self.weight, self.bias, self.gelu = weight, bias, gelu

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return _finish(F.linear(x, self.weight, self.bias), self.gelu, residual)


class OneDnnLinear:
    """oneDNN's matmul on prepacked weights, as torch.compile uses it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self.bias = bias
        self.after: tuple[str, list, str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is None or self.after[0] == "gelu":
            y = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *self.after)
            return y if residual is None else y.add_(residual)
        return torch.ops.mkldnn._linear_pointwise(x, residual, self.weight, self.bias, "add")


class CpuLinear:
    """`ops.PackedLinear` for few rows if the C++ library is built, `OneDnnLinear` for more; packed at first use."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        self.weight, self.bias, self.gelu = weight, bias, gelu
        self.few_rows: float = ops.PackedLinear.few_rows()
        self.for_few: ops.PackedLinear | None = None
        self.for_many: OneDnnLinear | None = None

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if x.shape[0] > self.few_rows:
            return self.many(x, residual)
        if self.for_few is None:
            self.for_few = ops.PackedLinear(self.weight, self.bias, self.gelu)
        return self.for_few(x, residual)

    def many(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if self.for_many is None:
            self.for_many = OneDnnLinear(self.weight, self.bias, self.gelu)
        return self.for_many(x, residual)


class CpuBFloat16Linear(CpuLinear):
    """`CpuLinear` with weights in bfloat16, inputs and outputs in float32.

    Only oneDNN rounds the inputs to bfloat16, too. On CPUs without bfloat16 in oneDNN, `ops.PackedLinear` serves any
    number of rows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        super().__init__(weight.detach().bfloat16(), bias, gelu)
        self.few_rows = FEW_ROWS_BF16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else math.inf

    def many(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if self.for_many is None:
            bias = None if self.bias is None else self.bias.bfloat16()
            self.for_many = OneDnnLinear(self.weight, bias, self.gelu)
        y = self.for_many(x.bfloat16()).float()
        return y if residual is None else y.add_(residual)


class InvariantLinear(CpuLinear):
    """`ops.PackedLinear` for any number of rows: no row's outputs depend on the other rows, unlike with oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        super().__init__(weight, bias, gelu)
        self.few_rows = math.inf


class InvariantBFloat16Linear(CpuBFloat16Linear):
    """`CpuBFloat16Linear` as `InvariantLinear`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        super().__init__(weight, bias, gelu)
        self.few_rows = math.inf


class NarrowCpuLinear:
    """`ops.NarrowLinear`; ``geglu`` fuses value·GELU(gate) with the matmul."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        gelu: bool = False,
        geglu: bool = False,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.matmul, self.gelu = ops.NarrowLinear(weight, bias, dtype, geglu), gelu

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return _finish(self.matmul(x), self.gelu, residual)


class Int8Linear(NarrowCpuLinear):
    """int8 matmul with a scale for each row of the weight and of the input; accumulates in int32."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False, geglu: bool = False) -> None:
        super().__init__(weight, bias, gelu, geglu, torch.int8)


class Fp8Linear:
    """float8 (e4m3) matmul with a scale for each row of the weight and of the input, see `ops.quantize_rows`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        quantized, scale = ops.quantize_rows(weight.detach())
        self.weight, self.scale = quantized.t(), scale.t()
        self.bias = None if bias is None else bias.detach().bfloat16()
        self.gelu = gelu

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return _finish(self.matmul(*ops.quantize_rows(x)), self.gelu, residual)

    def matmul(self, quantized: Tensor, scale: Tensor) -> Tensor:
        """(R, O) bfloat16 of a quantized input."""
        # The error of fast accumulation is smaller than that of 8-bit inputs.
        return torch._scaled_mm(
            quantized,
            self.weight,
            scale,
            self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )


def fp8_or_plain(weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Linear:
    """`Fp8Linear` if the sizes are multiples of 16, as `torch._scaled_mm` requires, else `PlainLinear`."""
    kind: Pack = PlainLinear if any(size % 16 for size in weight.shape) else Fp8Linear
    return kind(weight, bias, gelu)


class Tf32Linear(PlainLinear):
    """torch's float32 matmul with TF32 tensor cores."""

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        settings = torch.backends.cuda.matmul
        before, settings.allow_tf32 = settings.allow_tf32, True
        try:
            return super().__call__(x, residual)
        finally:
            settings.allow_tf32 = before


FEW_ROWS_BF16 = 8  # up to which `ops.PackedLinear` in bfloat16 is not slower than oneDNN

_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,
    "fp8": torch.bfloat16,
}
PRECISIONS = tuple(_DTYPES)


def checked_precision(precision: str | None) -> str | None:
    """The name in `PRECISIONS` of a precision; None is that of a model's weights.

    Raises:
        ConfigError: it is none of `PRECISIONS`.
    """
    name = precision_name(precision)
    check_choice("precision", name, PRECISIONS, or_none=True)
    return name


def choose_linear(
    precision: str | None,
    weights: torch.dtype,
    device: torch.device,
    few_rows: bool = False,
    deterministic: bool = False,
) -> tuple[torch.dtype, Pack]:
    """The dtype of everything but the matmuls, and the `Pack` of the matmuls.

    Args:
        few_rows: whether reading the weights dominates, as in a decoding step; on a CPU, bf16 then applies to the
            weights only.
        deterministic: whether no row may depend on the other rows.

    Raises:
        ConfigError: an unknown precision, one that this device does not support, or one that cannot be deterministic.
    """
    precision = checked_precision(precision)
    reason = _unavailable(precision, device)
    if reason is not None:
        raise ConfigError(f"precision={precision} cannot be had here: {reason}.")
    dtype = weights if precision is None else _DTYPES[precision]
    if deterministic:
        check_deterministic(precision, weights, device)
        if precision == "bf16":
            return (torch.float32, InvariantBFloat16Linear) if few_rows else (dtype, NarrowCpuLinear)
        return dtype, Int8Linear if precision == "int8" else InvariantLinear
    if precision in _SPECIAL:
        return dtype, _SPECIAL[precision]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        if dtype == torch.float32:
            return dtype, CpuLinear
        if precision == "bf16" and few_rows and backend.has_native():
            return torch.float32, CpuBFloat16Linear
        if dtype == torch.bfloat16 and backend.has_fast_bf16():
            return dtype, NarrowCpuLinear
        if dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return dtype, OneDnnLinear
    return dtype, PlainLinear


def check_deterministic(precision: str | None, weights: torch.dtype, device: torch.device) -> None:
    """Refuses a model or a precision whose matmuls cannot give a row the same numbers in every batch.

    Raises:
        ConfigError: the sentence says what to do.
    """
    if device.type != "cpu":
        raise ConfigError(
            f"deterministic=true needs a CPU, not {device.type}; leave it out, or move to the CPU."
        )
    if (missing := backend.unavailable_reason("native")) is not None:
        raise ConfigError(f"deterministic=true cannot be had here: {missing}.")
    if weights != torch.float32:
        raise ConfigError(
            f"deterministic=true needs weights in fp32, not {weights}; leave out the dtype and choose a precision."
        )
    if precision not in (None, "fp32", "bf16", "int8"):
        raise ConfigError(f"precision is {precision}; with deterministic=true it must be fp32, bf16 or int8.")


_SPECIAL: dict[str, Pack] = {"tf32": Tf32Linear, "int8": Int8Linear, "fp8": fp8_or_plain}


def _unavailable(precision: str | None, device: torch.device) -> str | None:
    """Why the device does not support a precision, or None."""
    if precision == "int8":
        if device.type != "cpu":
            return f"int8 matmuls need a CPU, not {device.type}; use bf16"
        if (missing := backend.unavailable_reason("native")) is not None:
            return missing
    if precision in ("tf32", "fp8"):
        needed = {"tf32": (8, 0), "fp8": (9, 0)}[precision]
        if device.type != "cuda":
            return f"it needs a GPU, not {device.type}; use fp32, bf16 or int8"
        if torch.cuda.get_device_capability(device) < needed:
            return f"the GPU needs compute capability {needed[0]}.{needed[1]}; use bf16 or fp16"
    return None
