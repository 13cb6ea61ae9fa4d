"""What `ops.short_attention`, its operator and its backward take.

Letters: B batch, N queries, M keys, H heads of width 64.
"""

from torch import Tensor

from ld4lg_fast.kernels.arguments.rules import check_device
from ld4lg_fast.kernels.plain.short_attention import DIM_HEAD


def check(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, q_gain: Tensor | None, k_gain: Tensor | None
) -> None:
    """Refuses shapes, dtypes and devices that do not fit.

    Raises:
        ValueError: naming them.
    """
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
        wanted = pairs(q, k)
        try:
            bias.expand(wanted)
        except RuntimeError:
            raise ValueError(
                f"bias {tuple(bias.shape)} does not broadcast to (B, H, N, M), {wanted}"
            ) from None
    check_device("q k v bias q_gain k_gain", q, k, v, bias, q_gain, k_gain)


def pairs(q: Tensor, k: Tensor) -> tuple[int, int, int, int]:
    """(B, H, N, M)."""
    return q.shape[0], q.shape[2] // DIM_HEAD, q.shape[1], k.shape[1]


def check_operator(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, q_gain: Tensor | None, k_gain: Tensor | None
) -> None:
    """What ``ld4lg::short_attention`` takes: a bias of all pairs."""
    check(q, k, v, bias, q_gain, k_gain)
    if bias is not None and bias.shape != pairs(q, k):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it needs (B, H, N, M), {pairs(q, k)}")


def check_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    q_gain: Tensor | None,
    k_gain: Tensor | None,
) -> None:
    """What ``ld4lg::short_attention_backward`` takes."""
    check_operator(q, k, v, bias, q_gain, k_gain)
    check_device("q grad", q, grad)
    if grad.shape != q.shape or grad.dtype != q.dtype:
        raise ValueError(
            f"grad is {grad.dtype} {tuple(grad.shape)}; it needs q's dtype and shape, {q.dtype} {tuple(q.shape)}"
        )
