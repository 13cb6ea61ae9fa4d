"""The unofficial implementation's denoiser.

Letters: B batch, N positions, M context tokens, D hidden width, d latent width, H heads.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.reference.layers import GEGLU, AbsolutePositions, Attention, SinusoidalTime, pairs


def relative_position_buckets(distance: Tensor, num_buckets: int = 32, max_distance: int = 128) -> Tensor:
    """T5's bidirectional buckets of ``key index - query index``: keys after the query use the upper half."""
    half = num_buckets // 2
    exact = half // 2
    after = (distance > 0).long() * half
    size = distance.abs()
    share = torch.log(size.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
    return after + torch.where(size < exact, size, far)


class RelativePositionBias(nn.Module):
    """One learned number per bucket and head, times the square root of ``head_dim``."""

    def __init__(self, heads: int, head_dim: int, num_buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.scale = head_dim**0.5
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.relative_attention_bias = nn.Embedding(num_buckets, heads)

    def forward(self, length: int, device: torch.device) -> Tensor:
        """(1, H, N, N)."""
        index = torch.arange(length, device=device)
        buckets = relative_position_buckets(index[None] - index[:, None], self.num_buckets, self.max_distance)
        return self.relative_attention_bias(buckets).permute(2, 0, 1)[None] * self.scale


class FeedForward(nn.Module):
    """Gated feed-forward of inner width 4D, dropout after the gate."""

    def __init__(self, dim: int, dropout: float, mult: int = 4) -> None:
        super().__init__()
        self.ff = nn.Sequential(GEGLU(dim, mult * dim), nn.Dropout(dropout), nn.Linear(mult * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class ScaleShift(nn.Module):
    """``(scale + 1)·h + shift`` from the time embedding (B, 1, 4d); starts at zero."""

    def __init__(self, dim_time: int, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.GELU(), nn.Linear(dim_time, 2 * dim))
        nn.init.zeros_(self.time_mlp[-1].weight)
        nn.init.zeros_(self.time_mlp[-1].bias)

    def forward(self, h: Tensor, time_embedding: Tensor) -> Tensor:
        scale, shift = self.time_mlp(time_embedding).chunk(2, dim=-1)
        return h * (scale + 1) + shift


class TransformerLayers(nn.Module):
    """The block repeated: ``a`` self-attention, ``c`` cross-attention, ``f`` feed-forward, all residual."""

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        head_dim: int,
        layer_block: Sequence[str],
        dim_time: int,
        attn_dropout: float,
        ff_dropout: float,
    ) -> None:
        super().__init__()
        self.kinds = tuple(layer_block) * depth
        self.rel_pos = RelativePositionBias(heads, head_dim)
        self.layers = nn.ModuleList()
        for kind in self.kinds:
            if kind == "f":
                layer = [nn.LayerNorm(dim), FeedForward(dim, ff_dropout), ScaleShift(dim_time, dim)]
            else:
                layer = [nn.LayerNorm(dim), Attention(dim, heads, attn_dropout)]
            self.layers.append(nn.ModuleList(layer))

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        context: Tensor | None,
        context_mask: Tensor | None,
        time_embedding: Tensor,
    ) -> Tensor:
        """x (B, N, D), mask (B, N), context (B, M, D) with its mask (B, M), time_embedding (B, 1, 4d)."""
        within = pairs(mask, mask)
        across = within if context is None else pairs(mask, context_mask)
        bias = self.rel_pos(x.shape[1], x.device)
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            h = layer[0](x)
            if kind == "a":
                h = layer[1](h, None, within, bias)
            elif kind == "c":
                h = layer[1](h, context, across)
            else:
                h = layer[2](layer[1](h), time_embedding)
            x = x + h
        return x


class DiffusionTransformer(nn.Module):
    """Noised encoder states to a prediction; the arguments carry the implementation's own names.

    Args:
        x_dim: d. hidden_dim: D. seq_len: largest N. heads: any number, each 64 wide.
        head_dim: reaches the relative bias alone, as published.
        num_classes: the id ``num_classes`` is the null class.
    """

    def __init__(
        self,
        x_dim: int,
        seq_len: int,
        hidden_dim: int,
        heads: int,
        depth: int,
        layer_block: Sequence[str] = ("a", "c", "f"),
        head_dim: int = 64,
        attn_dropout: float = 0.1,
        ff_dropout: float = 0.1,
        use_self_condition: bool = True,
        use_class_condition: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.x_dim, self.seq_len = x_dim, seq_len
        self.use_self_condition, self.use_class_condition = use_self_condition, use_class_condition
        self.num_classes = num_classes
        dim_time = 4 * x_dim
        self.time_mlp = nn.Sequential(
            SinusoidalTime(hidden_dim),
            nn.Linear(hidden_dim, dim_time),
            nn.GELU(),
            nn.Linear(dim_time, dim_time),
        )
        self.time_pos_emb_mlp = nn.Sequential(nn.GELU(), nn.Linear(dim_time, hidden_dim))
        self.pos_emb = AbsolutePositions(hidden_dim, seq_len)
        self.input_proj = nn.Linear(x_dim, hidden_dim)
        if use_self_condition:
            self.self_proj = nn.Linear(x_dim, hidden_dim)
            self.null_emb = nn.Embedding(1, hidden_dim)
        if use_class_condition:
            self.class_emb = nn.Embedding(num_classes + 1, hidden_dim)
        self.transformer_layers = TransformerLayers(
            hidden_dim, depth, heads, head_dim, layer_block, dim_time, attn_dropout, ff_dropout
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.output_proj = nn.Linear(hidden_dim, x_dim)

    def forward(
        self,
        x: Tensor,
        x_mask: Tensor,
        t: Tensor,
        x_self_cond: Tensor | None = None,
        class_id: Tensor | None = None,
    ) -> Tensor:
        """x (B, N, d), x_mask (B, N) bool or 0/1, t (B,) integer steps -> (B, N, d)."""
        batch = x.shape[0]
        tau = self.time_mlp(t)[:, None]
        h = self.input_proj(x) + self.pos_emb(x) + self.time_pos_emb_mlp(tau)
        tokens, masks = [], []
        one = torch.ones((batch, 1), dtype=torch.bool, device=x.device)
        if self.use_self_condition and x_self_cond is None:
            tokens.append(self.null_emb.weight.expand(batch, 1, -1))
            masks.append(one)
        elif self.use_self_condition:
            tokens.append(self.self_proj(x_self_cond))
            masks.append(x_mask.bool())
        if self.use_class_condition:
            tokens.append(self.class_emb(class_id)[:, None])
            masks.append(one)
        context = torch.cat(tokens, dim=1) if tokens else None
        context_mask = torch.cat(masks, dim=1) if masks else None
        h = self.transformer_layers(h, x_mask, context, context_mask, tau)
        return self.output_proj(self.norm(h))
