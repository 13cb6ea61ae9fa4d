"""Residual add, adaptive layer norm and modulation in one pass (DiT: Peebles & Xie 2023), with its derivative.

``ld4lg::adaln_residual`` gives x alone, ``ld4lg::adaln_residual_norm`` x and the next norm's y.

Letters: B batch, N positions, D model width, R rows (all leading axes of h), G groups of rows that share scale and
shift, P parts of a group.

scale and shift have G·D elements, G dividing R; row r belongs to group r // (R/G). The statistics are
float32, (2, R) or (4, R): mean and 1/std of h, then of x.

The backward operator gives the gradient of h, column sums (G, P, 2 or 4, D) float32, and, with a next norm,
the gradient of the residual (without one it is grad_x). With g the gradient of x and n, m the normalised h and
x, the sums are Σ g·n, Σ g, Σ grad_y·m, Σ grad_y over the rows of a part. The gradients of the vectors follow
from them.
"""

from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.adaln_residual import reference
from ld4lg_fast.kernels.adaln_residual.arguments import BackwardInputs, Inputs, outputs
from ld4lg_fast.kernels.argument_checks import check_device
from ld4lg_fast.kernels.backend import INTERPRETED
from ld4lg_fast.kernels.layout import grouped_modulation
from ld4lg_fast.kernels.library import is_traced, operator, register, register_autograd


def check(inputs: Inputs) -> None:
    """Refuses shapes and devices that do not fit. How scale and shift broadcast is checked elsewhere.

    Raises:
        ValueError: naming them.
    """
    h, residual, weight, bias, _, _, next_weight, next_bias, _ = inputs
    shape = h.shape
    if residual.shape != shape:
        raise ValueError(f"residual has shape {tuple(residual.shape)}; it needs h's, {tuple(shape)}")
    if (next_weight is None) != (next_bias is None):
        raise ValueError("next_weight and next_bias come together; give both or neither")
    if not shape or shape[-1] == 0:
        raise ValueError(f"h has shape {tuple(shape)}; its last axis needs at least one element")
    width = (shape[-1],)
    vectors = (("weight", weight), ("bias", bias), ("next_weight", next_weight), ("next_bias", next_bias))
    for name, vector in vectors:
        if vector is not None and vector.shape != width:
            raise ValueError(f"{name} has shape {tuple(vector.shape)}; it needs {width}, h's last axis")
    check_device("h residual weight bias scale shift next_weight next_bias", *inputs[:-1])


def check_groups(scale: Tensor, rows: int, width: int) -> None:
    """Refuses a scale whose rows do not divide the rows of h into equal groups.

    Raises:
        ValueError: naming their shape.
    """
    groups, rest = divmod(scale.numel(), width)
    if scale.shape[-1:] != (width,) or rest or (rows % groups if groups else rows):
        raise ValueError(
            f"scale has shape {tuple(scale.shape)}; it needs (…, {width}) and a number of rows that divides h's {rows}"
        )


def check_operator(*arguments: Any) -> None:
    """Checks the arguments of ``ld4lg::adaln_residual``."""
    check_operator_norm(*Inputs.without_next(*arguments))


def check_operator_norm(*arguments: Any) -> None:
    """Checks those of ``ld4lg::adaln_residual_norm``: scale and shift as `layout.grouped_modulation` gives them."""
    inputs = Inputs(*arguments)
    check(inputs)
    h, scale, shift = inputs.h, inputs.scale, inputs.shift
    if scale.shape != shift.shape:
        raise ValueError(f"shift has shape {tuple(shift.shape)}; it needs scale's, {tuple(scale.shape)}")
    check_groups(scale, h.numel() // h.shape[-1], h.shape[-1])


def check_backward(*arguments: Any) -> None:
    """Checks the arguments of ``ld4lg::adaln_residual_backward``."""
    grad_x, grad_y, h, x, weight, scale, next_weight, stats = BackwardInputs(*arguments)
    if grad_x.shape != h.shape:
        raise ValueError(f"grad_x has shape {tuple(grad_x.shape)}; it needs h's, {tuple(h.shape)}")
    check(Inputs(h, grad_x, weight, weight, scale, scale, next_weight, next_weight, 0.0))
    if not (grad_y is None) == (x is None) == (next_weight is None):
        raise ValueError("grad_y, x and next_weight come together; give all or none")
    check_device("h grad_x grad_y x stats", h, grad_x, grad_y, x, stats)
    width = h.shape[-1]
    rows = h.numel() // width
    check_groups(scale, rows, width)
    if grad_y is not None and x is not None and not (grad_y.shape == x.shape == h.shape):
        raise ValueError(
            f"grad_y {tuple(grad_y.shape)} and x {tuple(x.shape)} need h's shape, {tuple(h.shape)}"
        )
    if x is not None and (x.dtype != grad_x.dtype or not x.is_contiguous()):
        raise ValueError(f"x is {x.dtype}; it needs grad_x's dtype, {grad_x.dtype}, and to be contiguous")
    check_stats(stats, 2 if x is None else 4, rows)


def check_stats(stats: Tensor, kinds: int, rows: int) -> None:
    """Refuses statistics of another shape or dtype than those of the forward pass.

    Raises:
        ValueError: naming their shape and dtype.
    """
    if stats.shape != (kinds, rows) or stats.dtype != torch.float32 or not stats.is_contiguous():
        raise ValueError(
            f"stats is {stats.dtype} {tuple(stats.shape)}; it needs contiguous float32 of {(kinds, rows)}"
        )


_INPUTS = "Tensor h, Tensor residual, Tensor weight, Tensor bias, Tensor scale, Tensor shift"


def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    x, _, stats = outputs(arguments[1], None)
    return x, stats


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
    lambda *arguments: outputs(arguments[1], arguments[6]),
    check_operator_norm,
    "adaln_residual",
    "forward_norm",
)
register(
    "adaln_residual_backward(Tensor grad_x, Tensor? grad_y, Tensor h, Tensor? x, Tensor weight, Tensor scale,"
    " Tensor? next_weight, Tensor stats) -> Tensor[]",
    lambda *arguments: BackwardInputs(*arguments).outputs(),
    check_backward,
    "adaln_residual",
    "backward",
)

_adaln_residual_backward = operator("adaln_residual_backward")


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    h, _, weight, bias, scale, *_ = inputs
    stats = output[1]
    ctx.mark_non_differentiable(stats)
    ctx.save_for_backward(h, weight, bias, scale, stats)


def _backward(ctx: Any, grad_x: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    h, weight, bias, scale, stats = ctx.saved_tensors
    grad_h, sums = _adaln_residual_backward(grad_x, None, h, None, weight, scale, None, stats)
    return grad_h, grad_x, *_vector_gradients(sums, weight, bias, scale, None), None


def _setup_norm(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    h, _, weight, bias, scale, _, next_weight, _, _ = inputs
    x, _, stats = output
    ctx.mark_non_differentiable(stats)
    ctx.save_for_backward(h, x, weight, bias, scale, next_weight, stats)


def _backward_norm(ctx: Any, grad_x: Tensor, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    h, x, weight, bias, scale, next_weight, stats = ctx.saved_tensors
    grad_h, sums, grad_residual = _adaln_residual_backward(
        grad_x, grad_y, h, x, weight, scale, next_weight, stats
    )
    return grad_h, grad_residual, *_vector_gradients(sums, weight, bias, scale, next_weight), None


def _vector_gradients(
    sums: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, next_weight: Tensor | None
) -> list[Tensor]:
    """Gradients of weight, bias, scale, shift (and next_weight, next_bias) from the column sums.

    With u = Σ g·n and v = Σ g over a group: scale gets weight·u + bias·v, shift gets v, weight gets
    Σ (1+scale)·u over the groups and bias Σ (1+scale)·v. On a CPU one loop in C++ instead of a dozen small
    operations, whose overhead would exceed their arithmetic.
    """
    if sums.is_cpu and not INTERPRETED and not is_traced(sums):
        from ld4lg_fast.kernels.adaln_residual.cpu import vector_gradients

        return vector_gradients(sums, weight, bias, scale, next_weight)
    normed, plain, *of_y = sums.sum(1).unbind(1)
    gain = 1 + scale.reshape(normed.shape).float()
    grads = [
        (gain * normed).sum(0).to(weight.dtype),
        (gain * plain).sum(0).to(bias.dtype),
        (weight.float() * normed + bias.float() * plain).reshape(scale.shape).to(scale.dtype),
        plain.reshape(scale.shape).to(scale.dtype),
    ]
    if next_weight is None:
        return grads
    return [*grads, *(total.sum(0).to(next_weight.dtype) for total in of_y)]


register_autograd("adaln_residual", _backward, _setup)
register_autograd("adaln_residual_norm", _backward_norm, _setup_norm)


_residual = operator("adaln_residual")
_residual_norm = operator("adaln_residual_norm")


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
    """Post-norm, time modulation, residual and the next sub-block's pre-norm, in one pass.

    ``x = residual + (1 + scale)·LN(h; weight, bias) + shift`` and ``y = LN(x; next_weight, next_bias)``
    (the feed-forward branch of Lovelace et al. 2023; adaptive norms of Peebles & Xie 2023).

    Computes in float32. The inputs' dtypes may differ. All tensors have derivatives.

    Args:
        h: (B, N, D), or any leading axes: the branch's output.
        residual: the shape of h.
        weight, bias: (D,) of the norm of h.
        scale, shift: broadcastable to h's shape, e.g. (B, 1, D) or (B, N, D).
        next_weight, next_bias: (D,) of the norm of x, or both None.
        eps: added to both variances.

    Returns:
        x in residual's dtype, and y in the promoted dtype of x and next_weight, or None without a next norm.

    Raises:
        ValueError: shapes or devices that do not fit; the message names them.
        BackendUnavailableError: a backend requested by name cannot run these tensors.
    """
    check(Inputs(h, residual, weight, bias, scale, shift, next_weight, next_bias, eps))
    dtypes = {h.dtype, residual.dtype, scale.dtype, shift.dtype, weight.dtype, bias.dtype}
    if next_weight is not None and next_bias is not None:
        dtypes |= {next_weight.dtype, next_bias.dtype}
    scale, shift = grouped_modulation(scale, shift, h.shape)
    chosen = backend.choose("adaln_residual", h.device.type, tuple(dtypes))
    if chosen == "reference":
        return reference.adaln_residual(h, residual, weight, bias, scale, shift, next_weight, next_bias, eps)
    if next_weight is None:
        x, _ = _residual(h, residual, weight, bias, scale, shift, eps)
        return x, None
    x, y, _ = _residual_norm(h, residual, weight, bias, scale, shift, next_weight, next_bias, eps)
    return x, y
