"""The arguments of `short_attention` checked, its backend chosen.

Letters: B batch, N queries, M keys, H heads of width 64.
"""

from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.arguments.short_attention import check, pairs
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
        ValueError: shapes, dtypes or devices that do not fit, or a length above 128 for a backend asked for by name.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    check(q, k, v, bias, q_gain, k_gain)
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
        bias = bias.expand(pairs(q, k))
    return _short_attention(q, k, v, bias, q_gain, k_gain)
