"""The only door to the kernels: check, choose a backend, call.

Every op is a registered torch operator (schema, fake, autograd), so that it works under
``torch.compile(fullgraph=True)``. Letters: B batch, N positions, D model width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ld4lg_fast.kernels import native, reference
from ld4lg_fast.kernels.backend import choose

_library = torch.library.Library("ld4lg", "DEF")
_library.define(
    "adaln_residual(Tensor h, Tensor residual, Tensor weight, Tensor bias, Tensor scale, Tensor shift, float eps)"
    " -> Tensor"
)
_library.define(
    "adaln_residual_norm(Tensor h, Tensor residual, Tensor weight, Tensor bias, Tensor scale, Tensor shift,"
    " Tensor next_weight, Tensor next_bias, float eps) -> (Tensor, Tensor)"
)
_library.define("philox_normal(int seed, Tensor sample_ids, int stream, int[] shape) -> Tensor")


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
    """Post-norm, modulation, residual and the next pre-norm in one pass (SPEC v2, block; adaLN: Peebles & Xie 2023).

    ``x = residual + (1 + scale)·LN(h; weight, bias) + shift`` and ``y = LN(x; next_weight, next_bias)``.

    Args:
        h, residual: (B, N, D). weight, bias, next_weight, next_bias: (D,).
        scale, shift: broadcastable to (B, N, D), usually (B, 1, D).

    Dtypes may differ; arithmetic is float32 (float64 for float64 h); x and y have the residual's dtype.

    Returns:
        ``(x, y)``; y is None without a next norm.

    Raises:
        ValueError: shapes that do not fit, or only one half of the next norm.
    """
    if h.dim() != 3 or h.shape != residual.shape:
        raise ValueError(f"h {tuple(h.shape)} and residual {tuple(residual.shape)} must both be (B, N, D).")
    for name, param in (("weight", weight), ("bias", bias), ("next_weight", next_weight), ("next_bias", next_bias)):
        if param is not None and param.shape != h.shape[-1:]:
            raise ValueError(f"{name} has the shape {tuple(param.shape)}; it must be {tuple(h.shape[-1:])}.")
    for name, modulation in (("scale", scale), ("shift", shift)):
        if torch.broadcast_shapes(modulation.shape, h.shape) != h.shape:
            raise ValueError(f"{name} {tuple(modulation.shape)} cannot be broadcast to {tuple(h.shape)}.")
    if (next_weight is None) != (next_bias is None):
        raise ValueError("The next norm needs both next_weight and next_bias, or neither.")
    if next_weight is None:
        return torch.ops.ld4lg.adaln_residual(h, residual, weight, bias, scale, shift, eps), None
    return torch.ops.ld4lg.adaln_residual_norm(
        h, residual, weight, bias, scale, shift, next_weight, next_bias, eps
    )


def philox_normal(seed: int, sample_ids: Tensor, stream: int, shape: Sequence[int]) -> Tensor:
    """Normal noise (B, *shape) float32, row i a pure function of (seed, sample_ids[i], stream).

    The same numbers on every device, for every batch size and backend (up to the last float32 digit); the mapping
    is given in `reference.philox_normal`.

    Args:
        seed: 64 bits; negative seeds wrap. sample_ids: (B,) int64. stream: 0 … 2³²-1, e.g. the sampling step.

    Raises:
        ValueError: a stream out of range, or sample ids that are not a vector.
    """
    if not 0 <= stream < 1 << 32:
        raise ValueError(f"stream {stream} must lie between 0 and {(1 << 32) - 1}.")
    if sample_ids.dim() != 1:
        raise ValueError(f"sample_ids has the shape {tuple(sample_ids.shape)}; it must be a vector.")
    seed &= (1 << 64) - 1
    signed = seed - (1 << 64) if seed >= 1 << 63 else seed  # operators take signed 64-bit integers
    return torch.ops.ld4lg.philox_normal(signed, sample_ids, stream, list(shape))


def _adaln(h, residual, weight, bias, scale, shift, eps):
    weights = (weight, bias)
    if choose(h.device.type) == "native" and native.supports_adaln(h, residual, weights, scale, shift):
        return native.adaln_residual(h, residual, weight, bias, scale, shift, None, None, eps)[0]
    return reference.adaln_residual(h, residual, weight, bias, scale, shift, eps)


def _adaln_norm(h, residual, weight, bias, scale, shift, next_weight, next_bias, eps):
    weights = (weight, bias, next_weight, next_bias)
    if choose(h.device.type) == "native" and native.supports_adaln(h, residual, weights, scale, shift):
        return native.adaln_residual(h, residual, weight, bias, scale, shift, next_weight, next_bias, eps)
    return reference.adaln_residual_norm(h, residual, weight, bias, scale, shift, next_weight, next_bias, eps)


def _philox(seed, sample_ids, stream, shape):
    if choose(sample_ids.device.type) == "native":
        return native.philox_normal(seed, sample_ids, stream, shape)
    return reference.philox_normal(seed, sample_ids, stream, shape)


for _name, _function in (
    ("adaln_residual", _adaln),
    ("adaln_residual_norm", _adaln_norm),
    ("philox_normal", _philox),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")


@torch.library.register_fake("ld4lg::adaln_residual")
def _(h, residual, weight, bias, scale, shift, eps):
    return torch.empty_like(residual, memory_format=torch.contiguous_format)


@torch.library.register_fake("ld4lg::adaln_residual_norm")
def _(h, residual, weight, bias, scale, shift, next_weight, next_bias, eps):
    x = torch.empty_like(residual, memory_format=torch.contiguous_format)
    return x, torch.empty_like(x)


@torch.library.register_fake("ld4lg::philox_normal")
def _(seed, sample_ids, stream, shape):
    return sample_ids.new_empty((sample_ids.shape[0], *shape), dtype=torch.float32)


def _layer_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Gradients of LN(x) in float32 or wider, and LN(x) itself; its statistics are recomputed, not stored."""
    wide = torch.promote_types(x.dtype, torch.float32)
    x, weight, bias = x.to(wide), weight.to(wide), bias.to(wide)
    out, mean, inverse_std = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
    grads = torch.ops.aten.native_layer_norm_backward(
        grad.to(wide), x, x.shape[-1:], mean, inverse_std, weight, bias, [True, True, True]
    )
    return *grads, out


def _modulated_backward(ctx, grad_x: Tensor) -> tuple[Tensor, ...]:
    h, residual, weight, bias, scale, shift = ctx.saved_tensors[:6]
    wide = torch.promote_types(h.dtype, torch.float32)
    grad_x = grad_x.to(wide)
    grad_norm = grad_x * (1 + scale.to(wide))
    grad_h, grad_weight, grad_bias, norm = _layer_norm_backward(grad_norm, h, weight, bias, ctx.eps)
    grad_scale = (grad_x * norm).sum_to_size(scale.shape)
    grad_shift = grad_x.sum_to_size(shift.shape)
    inputs = (h, residual, weight, bias, scale, shift)
    grads = (grad_h, grad_x, grad_weight, grad_bias, grad_scale, grad_shift)
    return tuple(grad.to(tensor.dtype) for grad, tensor in zip(grads, inputs, strict=True))


def _setup_adaln(ctx, inputs, output):
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _setup_adaln_norm(ctx, inputs, output):
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors, output[0])


def _adaln_backward(ctx, grad_x):
    return *_modulated_backward(ctx, grad_x), None


def _adaln_norm_backward(ctx, grad_x, grad_y):
    *_, next_weight, next_bias, x = ctx.saved_tensors
    from_y, grad_weight, grad_bias, _ = _layer_norm_backward(grad_y, x, next_weight, next_bias, ctx.eps)
    grads = _modulated_backward(ctx, from_y + grad_x)
    return *grads, grad_weight.to(next_weight.dtype), grad_bias.to(next_bias.dtype), None


torch.library.register_autograd("ld4lg::adaln_residual", _adaln_backward, setup_context=_setup_adaln)
torch.library.register_autograd("ld4lg::adaln_residual_norm", _adaln_norm_backward, setup_context=_setup_adaln_norm)
