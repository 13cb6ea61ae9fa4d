"""Layers that both published denoisers share.

Letters: B batch, N query positions, M key positions, D model width, H heads, h head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, einsum, nn


class SinusoidalTime(nn.Module):
    """Time (B,) -> (B, D): sine half, then cosine half, frequencies 10000^(-k/(D/2-1))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, time: Tensor) -> Tensor:
        half = self.dim // 2
        frequency = torch.exp(torch.arange(half, device=time.device) * -(math.log(10000) / (half - 1)))
        angle = time[:, None] * frequency[None, :]
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


class AbsolutePositions(nn.Module):
    """A learned table times width^-0.5; gives (N, D) for an input (B, N, …)."""

    def __init__(self, dim: int, max_len: int) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.emb = nn.Embedding(max_len, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.emb(torch.arange(x.shape[1], device=x.device)) * self.scale


class GEGLU(nn.Module):
    """Linear to value | gate, then value · GELU(gate)."""

    def __init__(self, dim: int, dim_inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * dim_inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, H·h) -> (B, H, N, h)."""
    batch, length, _ = x.shape
    return x.reshape(batch, length, heads, -1).permute(0, 2, 1, 3)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, h) -> (B, N, H·h)."""
    batch, _, length, _ = x.shape
    return x.permute(0, 2, 1, 3).reshape(batch, length, -1)


def softmax_in_float32(scores: Tensor) -> Tensor:
    """Softmax over the last axis in float32 whatever the type, cast back afterwards."""
    return scores.softmax(dim=-1, dtype=torch.float32).to(scores.dtype)


def exclude(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Scores (B, H, N, M) with the lowest finite number where a pair does not count.

    Not -inf: a row without any allowed pair attends uniformly. ``allowed`` broadcasts over the heads.
    """
    return scores if allowed is None else scores.masked_fill(~allowed, -torch.finfo(scores.dtype).max)


def pairs(query_mask: Tensor, key_mask: Tensor) -> Tensor:
    """(B, 1, N, M) bool: pairs whose both ends are real, from masks (B, N) and (B, M), True (or 1) = keep."""
    return query_mask.bool()[:, None, :, None] & key_mask.bool()[:, None, None, :]


class Attention(nn.Module):
    """Multi-head attention without any bias vector; heads are ``dim_head`` wide whatever D is."""

    def __init__(self, dim: int, heads: int, dropout: float, dim_head: int = 64) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_k = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_v = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, context: Tensor | None, allowed: Tensor | None, bias: Tensor | None = None
    ) -> Tensor:
        """x (B, N, D) attends to ``context`` (B, M, D), or to itself where there is none.

        ``allowed`` (B, 1, N, M) bool; ``bias`` (1, H, N, M) is added to the scores before it is applied.
        """
        source = x if context is None else context
        q, k, v = (split_heads(t, self.heads) for t in (self.to_q(x), self.to_k(source), self.to_v(source)))
        scores = einsum("bhid,bhjd->bhij", q * self.scale, k)
        if bias is not None:
            scores = scores + bias
        weights = self.dropout(softmax_in_float32(exclude(scores, allowed)))
        return self.to_out(merge_heads(einsum("bhij,bhjd->bhid", weights, v)))
