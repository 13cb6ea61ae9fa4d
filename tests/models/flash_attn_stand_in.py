"""Modules in the place of the FlashAttention packages, which need a GPU: their functions' signatures, on SDPA.

Signatures: flash_attn/flash_attn_interface.py (flash-attn 2.8), hopper/flash_attn_interface.py (flash-attn-3) and
flash_attn/cute/interface.py (flash-attn-4 4.0.0b36) of Dao-AILab/flash-attention. Options of no use here are left out.
"""

from types import ModuleType

import torch
import torch.nn.functional as F

tokens = []
"""Of each call: numbers of queries and of keys, over all sequences."""
options = []
"""Of each call: scale, dropout and causal."""


def _attend(q, k, v, scale, causal, dropout=0.0):
    """(N, H, K) to (M, H, K), causal at the end, as FlashAttention aligns it."""
    mask = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q)) if causal else None
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale).transpose(0, 1)


def _fixed(q, k, v, scale, causal, dropout=0.0):
    assert q.dim() == k.dim() == 4 and k.shape == v.shape and q.shape[::2] == k.shape[::2], (q.shape, k.shape)
    assert q.shape[3] == k.shape[3] and q.shape[3] % 8 == 0
    tokens.append((q.shape[0] * q.shape[1], k.shape[0] * k.shape[1]))
    options.append((scale, dropout, causal))
    return torch.stack([_attend(*parts, scale, causal, dropout) for parts in zip(q, k, v, strict=True)])


def _packed(q, k, v, cu_q, cu_k, max_q, max_k, scale, causal, dropout=0.0):
    assert q.dim() == k.dim() == 3 and k.shape == v.shape and q.shape[1:] == k.shape[1:], (q.shape, k.shape)
    assert cu_q.dtype == cu_k.dtype == torch.int32 and len(cu_q) == len(cu_k)
    assert cu_q[-1] == len(q) and cu_k[-1] == len(k) and cu_q[0] == cu_k[0] == 0
    assert max_q == int(cu_q.diff().max()) and max_k == int(cu_k.diff().max())
    tokens.append((len(q), len(k)))
    options.append((scale, dropout, causal))
    lengths = cu_q.diff().tolist(), cu_k.diff().tolist()
    parts = q.split(lengths[0]), k.split(lengths[1]), v.split(lengths[1])
    return torch.cat([_attend(*part, scale, causal, dropout) for part in zip(*parts, strict=True)])


def version_2() -> ModuleType:
    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)):
        return _fixed(q, k, v, softmax_scale, causal, dropout_p)

    def flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
    ):
        lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        return _packed(q, k, v, *lengths, softmax_scale, causal, dropout_p)

    return _module("flash_attn", flash_attn_func, flash_attn_varlen_func)


def version_3() -> ModuleType:
    def flash_attn_func(q, k, v, softmax_scale=None, causal=False, qv=None, window_size=(-1, -1)):
        return _fixed(q, k, v, softmax_scale, causal)

    def flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        seqused_q=None,
        seqused_k=None,
        softmax_scale=None,
        causal=False,
    ):
        lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        return _packed(q, k, v, *lengths, softmax_scale, causal)

    return _module("flash_attn_interface", flash_attn_func, flash_attn_varlen_func)


def version_4() -> ModuleType:
    def flash_attn_func(
        q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False, window_size=(None, None)
    ):
        return _fixed(q, k, v, softmax_scale, causal), None

    def flash_attn_varlen_func(
        q,
        k,
        v,
        qv=None,
        cu_seqlens_q=None,
        cu_seqlens_k=None,
        max_seqlen_q=None,
        max_seqlen_k=None,
        min_seqlen_k=None,
        seqused_q=None,
        seqused_k=None,
        gather_kv_indices=None,
        page_table=None,
        softmax_scale=None,
        causal=False,
    ):
        lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        return _packed(q, k, v, *lengths, softmax_scale, causal), None

    return _module("flash_attn.cute", flash_attn_func, flash_attn_varlen_func)


def _module(name, *functions) -> ModuleType:
    module = ModuleType(name)
    vars(module).update({function.__name__: function for function in functions})
    return module


VERSIONS = {2: version_2, 3: version_3, 4: version_4}
