"""Registers ``ld4lg::short_attention``, see `ops.short_attention`; the bias is expanded to (B, H, N, M).

The backward operator gives what `plain.short_attention.gradients` lists. It computes the scores again, so that
the forward operator keeps nothing but its inputs.
"""

import torch

from ld4lg_fast.kernels.arguments.short_attention import check_backward, check_operator
from ld4lg_fast.kernels.library import operator, register, register_autograd

_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? q_gain, Tensor? k_gain"


def _fake(q, k, v, bias, q_gain, k_gain):
    return q.new_empty(q.shape)


def _fake_backward(grad, q, k, v, bias, q_gain, k_gain):
    batch, length, width = q.shape
    found = [x.new_empty(x.shape) for x in (q, k, v)]
    wide = {"dtype": torch.float32}
    if bias is not None:
        found.append(q.new_empty((batch, width // 64, length, k.shape[1]), **wide))
    return found + [q.new_empty((batch, width // 64, 64), **wide) for g in (q_gain, k_gain) if g is not None]


register(f"short_attention({_INPUTS}) -> Tensor", _fake, check_operator, "short_attention", "forward")
register(
    f"short_attention_backward(Tensor grad, {_INPUTS}) -> Tensor[]",
    _fake_backward,
    check_backward,
    "short_attention",
    "backward",
)

_short_attention_backward = operator("short_attention_backward")


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    q, k, v, bias, q_gain, k_gain = ctx.saved_tensors
    found = _short_attention_backward(grad, q, k, v, bias, q_gain, k_gain)
    grad_q, grad_k, grad_v, *rest = found
    grad_bias = None if bias is None else rest.pop(0).to(bias.dtype)
    gains = [part.sum((0, 1)).to(q_gain.dtype) for part in rest] or [None, None]
    return grad_q, grad_k, grad_v, grad_bias, *gains


register_autograd("short_attention", _backward, _setup)
