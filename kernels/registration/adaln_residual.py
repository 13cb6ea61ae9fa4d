"""Registers ``ld4lg::adaln_residual`` (x alone) and ``ld4lg::adaln_residual_norm`` (x and the next norm's y).

Letters: D model width, R rows (all leading axes of h), G groups of rows that share scale and shift, P parts
of a group.

scale and shift have G·D elements, G dividing R; row r belongs to group r // (R/G). The statistics are
float32, (2, R) or (4, R): mean and 1/std of h, then of x.

The backward operator gives the gradient of h, column sums (G, P, 2 or 4, D) float32, and, with a next norm,
the gradient of the residual, which otherwise is grad_x. With g the gradient of x and n, m the normalised h and
x, the sums are Σ g·n, Σ g, Σ grad_y·m, Σ grad_y over a part's rows: all that the vectors' gradients need.
"""

import torch
from torch import Tensor

from ld4lg_fast.kernels.arguments.adaln_residual import check_backward, check_operator, check_operator_norm
from ld4lg_fast.kernels.backend import INTERPRETED
from ld4lg_fast.kernels.layout import parts_of_group
from ld4lg_fast.kernels.library import is_traced, operator, register, register_autograd

_INPUTS = "Tensor h, Tensor residual, Tensor weight, Tensor bias, Tensor scale, Tensor shift"


def _fake(h, residual, weight, bias, scale, shift, eps):
    stats = h.new_empty((2, h.numel() // h.shape[-1]), dtype=torch.float32)
    return residual.new_empty(residual.shape), stats


def _fake_norm(h, residual, weight, bias, scale, shift, next_weight, next_bias, eps):
    stats = h.new_empty((4, h.numel() // h.shape[-1]), dtype=torch.float32)
    y_dtype = torch.promote_types(residual.dtype, next_weight.dtype)
    return residual.new_empty(residual.shape), residual.new_empty(residual.shape, dtype=y_dtype), stats


def _fake_backward(grad_x, grad_y, h, x, weight, scale, next_weight, stats):
    width = h.shape[-1]
    groups = scale.numel() // width
    parts = parts_of_group(h.numel() // width // max(1, groups))
    sums = h.new_empty((groups, parts, 2 if grad_y is None else 4, width), dtype=torch.float32)
    results = [h.new_empty(h.shape), sums]
    return results if grad_y is None else [*results, grad_x.new_empty(grad_x.shape)]


register(
    f"adaln_residual({_INPUTS}, float eps) -> (Tensor x, Tensor stats)",
    _fake,
    check_operator,
    "adaln_residual",
    "forward",
)
register(
    f"adaln_residual_norm({_INPUTS}, Tensor next_weight, Tensor next_bias, float eps)"
    " -> (Tensor x, Tensor y, Tensor stats)",
    _fake_norm,
    check_operator_norm,
    "adaln_residual",
    "forward_norm",
)
register(
    "adaln_residual_backward(Tensor grad_x, Tensor? grad_y, Tensor h, Tensor? x, Tensor weight, Tensor scale,"
    " Tensor? next_weight, Tensor stats) -> Tensor[]",
    _fake_backward,
    check_backward,
    "adaln_residual",
    "backward",
)

_adaln_residual_backward = operator("adaln_residual_backward")


def _setup(ctx, inputs, output) -> None:
    h, _, weight, bias, scale, _, _ = inputs
    stats = output[1]
    ctx.mark_non_differentiable(stats)
    ctx.save_for_backward(h, weight, bias, scale, stats)


def _backward(ctx, grad_x: Tensor, _: Tensor):
    h, weight, bias, scale, stats = ctx.saved_tensors
    results = _adaln_residual_backward(grad_x, None, h, None, weight, scale, None, stats)
    grad_h, sums = results
    return grad_h, grad_x, *_vector_gradients(sums, weight, bias, scale, None), None


def _setup_norm(ctx, inputs, output) -> None:
    h, _, weight, bias, scale, _, next_weight, _, _ = inputs
    x, _, stats = output
    ctx.mark_non_differentiable(stats)
    ctx.save_for_backward(h, x, weight, bias, scale, next_weight, stats)


def _backward_norm(ctx, grad_x: Tensor, grad_y: Tensor, _: Tensor):
    h, x, weight, bias, scale, next_weight, stats = ctx.saved_tensors
    results = _adaln_residual_backward(grad_x, grad_y, h, x, weight, scale, next_weight, stats)
    grad_h, sums, grad_residual = results
    return grad_h, grad_residual, *_vector_gradients(sums, weight, bias, scale, next_weight), None


def _vector_gradients(
    sums: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, next_weight: Tensor | None
) -> list[Tensor]:
    """Gradients of weight, bias, scale, shift (and next_weight, next_bias) from the column sums.

    With u = Σ g·n and v = Σ g over a group: scale gets weight·u + bias·v, shift gets v, weight gets
    Σ (1+scale)·u over the groups and bias Σ (1+scale)·v. On a CPU one loop in C++ instead of a dozen small
    operations, each of which would cost more than its arithmetic.
    """
    if sums.is_cpu and not INTERPRETED and not is_traced(sums):
        from ld4lg_fast.kernels.cpu.adaln_residual import vector_gradients

        return vector_gradients(sums, weight, bias, scale, next_weight)
    normed, plain, *of_y = sums.sum(1).unbind(1)
    gain = 1 + scale.reshape(normed.shape).float()
    grads = [
        (gain * normed).sum(0).to(weight.dtype),
        (gain * plain).sum(0).to(bias.dtype),
        (weight.float() * normed + bias.float() * plain).reshape(scale.shape).to(scale.dtype),
        plain.reshape(scale.shape).to(scale.dtype),
    ]
    return [*grads, *(total.sum(0).to(next_weight.dtype) for total in of_y)]


register_autograd("adaln_residual", _backward, _setup)
register_autograd("adaln_residual_norm", _backward_norm, _setup_norm)
