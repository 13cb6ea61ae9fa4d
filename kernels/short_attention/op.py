"""Attention with few queries and keys, its bias added in the kernel, with its derivative.

Letters: B batch, N queries, M keys, H heads of width 64. The bias of the operator is expanded to (B, H, N, M).

The backward operator gives the results of `reference.gradients`. It recomputes the scores, so that the forward
operator saves only its inputs.
"""

from typing import Any

from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.argument_checks import check_device
from ld4lg_fast.kernels.library import operator, register, register_autograd
from ld4lg_fast.kernels.short_attention import reference
from ld4lg_fast.kernels.short_attention.arguments import Inputs
from ld4lg_fast.kernels.short_attention.reference import DIM_HEAD


def check(inputs: Inputs) -> None:
    """Refuses shapes, dtypes and devices that do not fit.

    Raises:
        ValueError: naming them.
    """
    q, k, v, bias, q_gain, k_gain = inputs
    of_q, of_k = q.shape, k.shape
    if len(of_q) != 3 or of_q[2] % DIM_HEAD or len(of_k) != 3 or of_k[::2] != of_q[::2]:
        raise ValueError(
            f"q {tuple(of_q)} and k {tuple(of_k)} do not fit; they need (B, N, H·64) and (B, M, H·64)"
        )
    if v.shape != of_k or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"v is {v.dtype} {tuple(v.shape)}; it needs k's shape, {tuple(of_k)}, and one dtype with "
            f"q ({q.dtype}) and k ({k.dtype})"
        )
    if (q_gain is None) != (k_gain is None):
        raise ValueError("q_gain and k_gain come together; give both or neither")
    for name, gain in (("q_gain", q_gain), ("k_gain", k_gain)):
        if gain is not None and gain.shape != (DIM_HEAD,):
            raise ValueError(f"{name} has shape {tuple(gain.shape)}; it needs ({DIM_HEAD},)")
    if bias is not None:
        if bias.dtype != q.dtype:
            raise ValueError(f"bias is {bias.dtype}; it needs q's dtype, {q.dtype}")
        wanted = inputs.pairs()
        try:
            bias.expand(wanted)
        except RuntimeError:
            raise ValueError(
                f"bias {tuple(bias.shape)} does not broadcast to (B, H, N, M), {wanted}"
            ) from None
    check_device("q k v bias q_gain k_gain", *inputs)


def check_operator(*arguments: Any) -> None:
    """Checks the arguments of ``ld4lg::short_attention``: the bias has all pairs."""
    inputs = Inputs(*arguments)
    check(inputs)
    bias, wanted = inputs.bias, inputs.pairs()
    if bias is not None and bias.shape != wanted:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it needs (B, H, N, M), {wanted}")


def check_backward(grad: Tensor, q: Tensor, *others: Any) -> None:
    """Checks the arguments of ``ld4lg::short_attention_backward``."""
    check_operator(q, *others)
    check_device("q grad", q, grad)
    if grad.shape != q.shape or grad.dtype != q.dtype:
        raise ValueError(
            f"grad is {grad.dtype} {tuple(grad.shape)}; it needs q's dtype and shape, {q.dtype} {tuple(q.shape)}"
        )


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? q_gain, Tensor? k_gain"


def _fake(q: Tensor, *_: Any) -> Tensor:
    return q.new_empty(q.shape)


def _fake_backward(_: Tensor, *arguments: Any) -> list[Tensor]:
    return [x for x in Inputs(*arguments).gradients() if x is not None]


register(f"short_attention({_INPUTS}) -> Tensor", _fake, check_operator, "short_attention", "forward")
register(
    f"short_attention_backward(Tensor grad, {_INPUTS}) -> Tensor[]",
    _fake_backward,
    check_backward,
    "short_attention",
    "backward",
)

_short_attention_backward = operator("short_attention_backward")


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # read once: under activation checkpointing each reading recomputes
    *_, bias, q_gain, _ = saved
    grad_q, grad_k, grad_v, *rest = _short_attention_backward(grad, *saved)
    grad_bias = None if bias is None else rest.pop(0).to(bias.dtype)
    gains = [part.sum((0, 1)).to(q_gain.dtype) for part in rest] or [None, None]
    return grad_q, grad_k, grad_v, grad_bias, *gains


register_autograd("short_attention", _backward, _setup)


_short_attention = operator("short_attention")

MAX_LENGTH = 128


def short_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    q_gain: Tensor | None = None,
    k_gain: Tensor | None = None,
) -> Tensor:
    """Attention over sequences of at most 128 positions, a whole head at a time, without copies of its inputs.

    ``softmax(q·kᵀ / 8 + bias)·v`` for each head, the softmax in float32. The inputs may be views of one
    fused matmul; the output has the layout of the output projection's input. ``auto`` uses PyTorch's attention on a
    GPU and for longer sequences, for which this kernel was not measured.

    Args:
        q: (B, N, H·64). k, v: (B, M, H·64), in q's dtype.
        bias: broadcastable to (B, H, N, M), in q's dtype, added to the scores. The lowest finite number excludes
            a pair; a query without any other pair gets the mean of v.
        q_gain, k_gain: (64,) float: each head of q and k is first scaled to this root mean square
            (the Perceiver's attention; Zhang & Sennrich 2019); both or neither.

    Returns:
        (B, N, H·64) in q's dtype.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a length above 128 for a backend requested by name.
        BackendUnavailableError: a backend requested by name cannot run these tensors.
    """
    inputs = Inputs(q, k, v, bias, q_gain, k_gain)
    check(inputs)
    dtypes = {tensor.dtype for tensor in inputs if tensor is not None}
    name = backend.choose("short_attention", q.device.type, tuple(dtypes))
    longest = max(q.shape[1], k.shape[1])
    if backend.current_backend() == "auto" and (name == "triton" or longest > MAX_LENGTH):
        name = "reference"
    if name == "reference":
        return reference.short_attention(*inputs)
    if longest > MAX_LENGTH:
        raise ValueError(f"short_attention takes at most {MAX_LENGTH} positions on '{name}', got {longest}")
    if bias is not None:
        bias = bias.expand(inputs.pairs())
    return _short_attention(q, k, v, bias, q_gain, k_gain)
