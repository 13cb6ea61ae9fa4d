"""Attention over short sequences in Triton, forward and backward: every program holds whole heads.

Letters: B batch, N queries, M keys, H heads of width 64.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ld4lg_fast.kernels.short_attention.arguments import Inputs
from ld4lg_fast.kernels.short_attention.reference import gradients

_BACKWARD_LENGTH = 64  # longer heads do not fit the registers with all their gradients


@triton.jit
def _head(
    ptr: tl.tensor, first: tl.tensor, stride: tl.tensor, LENGTH: tl.constexpr, BLOCK: tl.constexpr
) -> tl.tensor:
    """A head's rows (BLOCK, 64), zero from LENGTH on."""
    rows = tl.arange(0, BLOCK)
    places = first + rows[:, None].to(tl.int64) * stride + tl.arange(0, 64)[None, :]
    return tl.load(ptr + places, mask=rows[:, None] < LENGTH, other=0.0)


@triton.jit
def _store_head(
    ptr: tl.tensor,
    first: tl.tensor,
    stride: tl.tensor,
    values: tl.tensor,
    LENGTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    rows = tl.arange(0, BLOCK)
    places = first + rows[:, None].to(tl.int64) * stride + tl.arange(0, 64)[None, :]
    tl.store(ptr + places, values.to(ptr.dtype.element_ty), mask=rows[:, None] < LENGTH)


@triton.jit
def _inverse_rms(x: tl.tensor) -> tl.tensor:
    """1 / max(rms, 1e-8) of the rows of x (BLOCK, 64) float32, as a column."""
    return 1.0 / tl.maximum(tl.sqrt_rn(tl.sum(x * x, 1) / 64.0), 1e-8)[:, None]


@triton.jit
def _normalized(x: tl.tensor, gain_ptr: tl.tensor) -> tl.tensor:
    """x with root mean square gain, in x's dtype."""
    gain = tl.load(gain_ptr + tl.arange(0, 64)).to(tl.float32)[None, :]
    wide = x.to(tl.float32)
    return (wide * _inverse_rms(wide) * gain).to(x.dtype)


@triton.jit
def _through_rms(grad: tl.tensor, x: tl.tensor, gain_ptr: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Gradient of x from that of its normalized form, and the gradient of the gain over these rows (64,)."""
    gain = tl.load(gain_ptr + tl.arange(0, 64)).to(tl.float32)[None, :]
    wide = x.to(tl.float32)
    inverse = _inverse_rms(wide)
    normed, scaled = wide * inverse, grad * gain
    along = tl.sum(scaled * normed, 1)[:, None] / 64.0
    return (scaled - normed * along) * inverse, tl.sum(grad * normed, 0)


@triton.jit
def _probabilities(
    q: tl.tensor,
    k: tl.tensor,
    bias_ptr: tl.tensor | None,
    bias_first: tl.tensor,
    bias_row: tl.tensor,
    bias_column: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """softmax of the scores (BN, BM) float32, and which pairs have a gradient."""
    rows, columns = tl.arange(0, BN)[:, None], tl.arange(0, BM)[None, :]
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * 0.125
    counts = (rows < N) & (columns < M)
    if bias_ptr is not None:
        places = bias_first + rows.to(tl.int64) * bias_row + columns * bias_column
        bias = tl.load(bias_ptr + places, mask=counts, other=0.0).to(tl.float32)
        scores += bias
        counts = counts & (bias > -1e38)
    scores = tl.where(columns < M, scores, float("-inf"))
    exponentials = tl.exp(scores - tl.max(scores, 1)[:, None])
    return exponentials / tl.sum(exponentials, 1)[:, None], counts


@triton.jit
def short_attention_forward(
    q_ptr: tl.tensor,
    k_ptr: tl.tensor,
    v_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    q_gain_ptr: tl.tensor | None,
    k_gain_ptr: tl.tensor,
    out_ptr: tl.tensor,
    q_batch: tl.tensor,
    q_stride: tl.tensor,
    k_batch: tl.tensor,
    k_stride: tl.tensor,
    v_batch: tl.tensor,
    v_stride: tl.tensor,
    bias_batch: tl.tensor,
    bias_head: tl.tensor,
    bias_row: tl.tensor,
    bias_column: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    HEADS: tl.constexpr,
    HEADS_AT_ONCE: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
) -> None:
    """Program (b, j): HEADS_AT_ONCE heads of sequence b."""
    batch = tl.program_id(0).to(tl.int64)
    first_head = tl.program_id(1) * HEADS_AT_ONCE
    for head in range(first_head, tl.minimum(first_head + HEADS_AT_ONCE, HEADS)):
        q = _head(q_ptr, batch * q_batch + head * 64, q_stride, N, BN)
        k = _head(k_ptr, batch * k_batch + head * 64, k_stride, M, BM)
        if q_gain_ptr is not None:
            q, k = _normalized(q, q_gain_ptr), _normalized(k, k_gain_ptr)
        v = _head(v_ptr, batch * v_batch + head * 64, v_stride, M, BM)
        bias_first = batch * bias_batch + head * bias_head
        p, _ = _probabilities(q, k, bias_ptr, bias_first, bias_row, bias_column, N, M, BN, BM)
        out = tl.dot(p.to(v.dtype), v, input_precision="ieee")
        _store_head(out_ptr, (batch * N * HEADS + head) * 64, HEADS * 64, out, N, BN)


@triton.jit
def short_attention_backward(
    grad_ptr: tl.tensor,
    q_ptr: tl.tensor,
    k_ptr: tl.tensor,
    v_ptr: tl.tensor,
    bias_ptr: tl.tensor | None,
    q_gain_ptr: tl.tensor | None,
    k_gain_ptr: tl.tensor,
    grad_q_ptr: tl.tensor,
    grad_k_ptr: tl.tensor,
    grad_v_ptr: tl.tensor,
    grad_scores_ptr: tl.tensor,
    q_sums_ptr: tl.tensor,
    k_sums_ptr: tl.tensor,
    grad_batch: tl.tensor,
    grad_stride: tl.tensor,
    q_batch: tl.tensor,
    q_stride: tl.tensor,
    k_batch: tl.tensor,
    k_stride: tl.tensor,
    v_batch: tl.tensor,
    v_stride: tl.tensor,
    bias_batch: tl.tensor,
    bias_head: tl.tensor,
    bias_row: tl.tensor,
    bias_column: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    HEADS: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
) -> None:
    """Program (b, head): recomputes the scores, then all gradients of the head."""
    batch, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    raw_q = _head(q_ptr, batch * q_batch + head * 64, q_stride, N, BN)
    raw_k = _head(k_ptr, batch * k_batch + head * 64, k_stride, M, BM)
    v = _head(v_ptr, batch * v_batch + head * 64, v_stride, M, BM)
    grad = _head(grad_ptr, batch * grad_batch + head * 64, grad_stride, N, BN)
    q, k = raw_q, raw_k
    if q_gain_ptr is not None:
        q, k = _normalized(raw_q, q_gain_ptr), _normalized(raw_k, k_gain_ptr)
    bias_first = batch * bias_batch + head * bias_head
    p, counts = _probabilities(q, k, bias_ptr, bias_first, bias_row, bias_column, N, M, BN, BM)

    at_queries, at_keys = (batch * N * HEADS + head) * 64, (batch * M * HEADS + head) * 64
    # The upstream gradient of rows from N on is 0.
    grad_v = tl.dot(tl.trans(p.to(grad.dtype)), grad, input_precision="ieee")
    _store_head(grad_v_ptr, at_keys, HEADS * 64, grad_v, M, BM)
    grad_p = tl.dot(grad, tl.trans(v), input_precision="ieee")
    grad_scores = p * (grad_p - tl.sum(p * grad_p, 1)[:, None])
    grad_scores = tl.where(counts, grad_scores, 0.0)
    if bias_ptr is not None:
        rows, columns = tl.arange(0, BN)[:, None], tl.arange(0, BM)[None, :]
        places = (batch * HEADS + head) * N * M + rows * M + columns
        tl.store(grad_scores_ptr + places, grad_scores, mask=(rows < N) & (columns < M))
    grad_scores *= 0.125
    grad_q = tl.dot(grad_scores.to(k.dtype), k, input_precision="ieee")
    grad_k = tl.dot(tl.trans(grad_scores.to(q.dtype)), q, input_precision="ieee")
    if q_gain_ptr is not None:
        sums = (batch * HEADS + head) * 64 + tl.arange(0, 64)
        grad_q, q_sum = _through_rms(grad_q, raw_q, q_gain_ptr)
        grad_k, k_sum = _through_rms(grad_k, raw_k, k_gain_ptr)
        tl.store(q_sums_ptr + sums, q_sum)
        tl.store(k_sums_ptr + sums, k_sum)
    _store_head(grad_q_ptr, at_queries, HEADS * 64, grad_q, N, BN)
    _store_head(grad_k_ptr, at_keys, HEADS * 64, grad_k, M, BM)


def launch_options(queries: int, keys: int) -> dict[str, int]:
    """Tiles that hold the whole sequences, and warps for them; the loop over heads is not pipelined."""
    rows, columns = (max(16, triton.next_power_of_2(length)) for length in (queries, keys))
    return {"BN": rows, "BM": columns, "num_warps": 8 if rows * columns > 32 * 32 else 4, "num_stages": 1}


def _strided(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def forward(*arguments: Any) -> Tensor:
    """(B, N, H·64) in q's dtype; bias (B, H, N, M)."""
    q, k, v, bias, q_gain, k_gain = inputs = Inputs(*arguments)
    batch, heads, queries, keys = inputs.pairs()
    out = q.new_empty(q.shape)
    if not out.numel() or not keys:
        return out.zero_()
    q, k, v = _strided(q), _strided(k), _strided(v)
    at_once = 4 if queries <= 32 and batch * heads >= 1024 else 1
    short_attention_forward[(batch, triton.cdiv(heads, at_once))](
        q,
        k,
        v,
        bias,
        *(None if gain is None else gain.contiguous() for gain in (q_gain, k_gain)),
        out,
        *(stride for x in (q, k, v) for stride in x.stride()[:2]),
        *((0, 0, 0, 0) if bias is None else bias.stride()),
        N=queries,
        M=keys,
        HEADS=heads,
        HEADS_AT_ONCE=at_once,
        **launch_options(queries, keys),
    )
    return out


def backward(grad: Tensor, *arguments: Any) -> list[Tensor]:
    """See ``ld4lg::short_attention_backward`` in ``op.py``."""
    q, k, v, bias, q_gain, k_gain = inputs = Inputs(*arguments)
    batch, heads, queries, keys = inputs.pairs()
    if max(queries, keys) > _BACKWARD_LENGTH:
        return gradients(grad, *inputs)
    targets = inputs.gradients()
    found = [x for x in targets if x is not None]
    if not q.numel() or not k.numel():
        return [x.zero_() for x in found]
    grad, q, k, v = (_strided(x) for x in (grad, q, k, v))
    short_attention_backward[(batch, heads)](
        grad,
        q,
        k,
        v,
        bias,
        *(None if gain is None else gain.contiguous() for gain in (q_gain, k_gain)),
        *targets,
        *(stride for x in (grad, q, k, v) for stride in x.stride()[:2]),
        *((0, 0, 0, 0) if bias is None else bias.stride()),
        N=queries,
        M=keys,
        HEADS=heads,
        **launch_options(queries, keys),
    )
    return found
