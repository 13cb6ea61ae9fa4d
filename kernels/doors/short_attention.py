"""The arguments of `short_attention` checked, its backend chosen.

Letters: B batch, N queries, M keys, H heads of width 64.
"""

from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.library import operator
from ld4lg_fast.kernels.plain import short_attention as plain
from ld4lg_fast.kernels.registration import short_attention as _registered  # noqa: F401

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
    """Attention over sequences of at most 128, a whole head at a time, without copies of its inputs.

    ``softmax(q·kᵀ / 8 + bias)·v`` for each head, the softmax in float32; the inputs may be the parts of one
    fused product, and the output is what the output projection takes. ``auto`` goes to PyTorch's own attention
    where nothing was measured: on a GPU, and for longer sequences.

    Args:
        q: (B, N, H·64). k, v: (B, M, H·64), in q's dtype.
        bias: broadcastable to (B, H, N, M), in q's dtype, added to the scores; the lowest finite number excludes
            a pair, and a query all of whose pairs are excluded takes the mean of v.
        q_gain, k_gain: (64,) float: each head of q and k is first scaled to this root mean square
            (the Perceiver's attention; Zhang & Sennrich 2019); both or neither.

    Returns:
        (B, N, H·64) in q's dtype.

    Raises:
        ValueError: shapes or dtypes that do not fit, or a length above 128 for a backend asked for by name.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    _check(q, k, v, bias, q_gain, k_gain)
    tensors = [t for t in (q, k, v, bias, q_gain, k_gain) if t is not None]
    name = backend.choose("short_attention", q.device.type, tuple({t.dtype for t in tensors}))
    longest = max(q.shape[1], k.shape[1])
    if backend.current_backend() == "auto" and (name == "triton" or longest > MAX_LENGTH):
        name = "reference"
    if name == "reference":
        return plain.short_attention(q, k, v, bias, q_gain, k_gain)
    if longest > MAX_LENGTH:
        raise ValueError(f"short_attention takes at most {MAX_LENGTH} positions on '{name}', got {longest}")
    if bias is not None:
        bias = bias.expand(q.shape[0], q.shape[2] // plain.DIM_HEAD, q.shape[1], k.shape[1])
    return _short_attention(q, k, v, bias, q_gain, k_gain)


def _check(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, q_gain: Tensor | None, k_gain: Tensor | None
) -> None:
    width = plain.DIM_HEAD
    if q.ndim != 3 or q.shape[2] % width or k.shape != (q.shape[0], *k.shape[1:2], q.shape[2]):
        raise ValueError(
            f"q {tuple(q.shape)} and k {tuple(k.shape)} do not fit; they need (B, N, H·64) and (B, M, H·64)"
        )
    if v.shape != k.shape or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"v is {v.dtype} {tuple(v.shape)}; it needs k's shape, {tuple(k.shape)}, and one dtype with "
            f"q ({q.dtype}) and k ({k.dtype})"
        )
    if (q_gain is None) != (k_gain is None):
        raise ValueError("q_gain and k_gain come together; give both or neither")
    for name, gain in (("q_gain", q_gain), ("k_gain", k_gain)):
        if gain is not None and gain.shape != (width,):
            raise ValueError(f"{name} has shape {tuple(gain.shape)}; it needs ({width},)")
    if bias is not None:
        if bias.dtype != q.dtype:
            raise ValueError(f"bias is {bias.dtype}; it needs q's dtype, {q.dtype}")
        wanted = (q.shape[0], q.shape[2] // width, q.shape[1], k.shape[1])
        try:
            bias.expand(wanted)
        except RuntimeError:
            raise ValueError(
                f"bias {tuple(bias.shape)} does not broadcast to (B, H, N, M), {wanted}"
            ) from None
