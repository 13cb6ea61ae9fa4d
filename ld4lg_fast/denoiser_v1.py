"""The denoiser of recipe v1: relative positions, self-condition and class as context tokens.

The unofficial implementation's network; exact rules in golden NOTES 42-49.
Letters: B batch, N positions, M context tokens, D model width, d latent width, L blocks.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.layers import (
    DIM_HEAD,
    CrossAttention,
    GEGLUFeedForward,
    PositionTable,
    SelfAttention,
    SinusoidalEmbedding,
    attention_bias,
    check_mask,
    compute_dtype,
    store_in_parts,
)


def relative_position_bucket(distance: Tensor, num_buckets: int = 32, max_distance: int = 128) -> Tensor:
    """T5's bidirectional bucket of ``key index - query index`` (Raffel et al. 2020): half of the buckets for
    keys after the query, exact up to a quarter of them, then logarithmic up to ``max_distance``."""
    half, exact = num_buckets // 2, num_buckets // 4
    far = distance.abs()
    log_ratio = torch.log(far.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    logarithmic = (exact + (log_ratio * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, logarithmic) + half * (distance > 0)


@dataclass(frozen=True)
class DenoiserConfigV1:
    """Sizes and switches of a `DiffusionTransformerV1`.

    Args:
        dim: D, a multiple of 64. depth: L. dim_latent: d, the language model's width. max_len: largest N.
        cross_attention: whether blocks attend to the condition tokens (published: always with conditions).
        self_condition: the previous x_start as context tokens.
        num_classes: 0 for none; the id ``num_classes`` is the null class.
        heads: None for D/64; published networks may have another number (each 64 wide).

    Raises:
        ConfigError: a width that is not a multiple of 64.
    """

    dim: int = 768
    depth: int = 12
    dim_latent: int = 768
    max_len: int = 64
    cross_attention: bool = True
    self_condition: bool = True
    num_classes: int = 0
    dropout: float = 0.1
    heads: int | None = None

    def __post_init__(self) -> None:
        if self.heads is None and (self.dim < DIM_HEAD or self.dim % DIM_HEAD):
            raise ConfigError(f"Denoiser width {self.dim} must be a positive multiple of {DIM_HEAD}.")

    @property
    def null_class(self) -> int | None:
        return self.num_classes or None


class BlockV1(nn.Module):
    """Self-attention, cross-attention, modulated feed-forward; no norm after the feed-forward."""

    def __init__(self, config: DenoiserConfigV1) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(config.dim)
        self.attn = SelfAttention(config.dim, config.dropout, config.heads)
        if config.cross_attention:
            self.cross_norm = nn.LayerNorm(config.dim)
            self.cross_attn = CrossAttention(config.dim, config.dropout, config.heads)
        self.ff_norm = nn.LayerNorm(config.dim)
        self.ff = GEGLUFeedForward(config.dim, config.dropout)


class DiffusionTransformerV1(nn.Module):
    """Predicts x_start or noise from noised encoder states (recipe v1)."""

    NUM_BUCKETS = 32

    def __init__(self, config: DenoiserConfigV1) -> None:
        super().__init__()
        self.config = config
        dim, dim_time = config.dim, 4 * config.dim_latent
        self.sinusoid = SinusoidalEmbedding(dim)
        self.time_mlp = nn.Sequential(nn.Linear(dim, dim_time), nn.GELU(), nn.Linear(dim_time, dim_time))
        self.time_proj = nn.Linear(dim_time, dim)
        self.pos_emb = PositionTable(config.max_len, dim)
        self.relative_bias = nn.Embedding(self.NUM_BUCKETS, config.heads or dim // DIM_HEAD)
        self.input_proj = nn.Linear(config.dim_latent, dim)
        if config.self_condition:
            self.self_cond_proj = nn.Linear(config.dim_latent, dim)
            self.null_self_cond = nn.Parameter(torch.randn(1, dim))
        if config.num_classes:
            self.class_embedding = nn.Embedding(config.num_classes + 1, dim)
        self.blocks = nn.ModuleList(BlockV1(config) for _ in range(config.depth))
        self.modulation = nn.Linear(dim_time, 2 * dim * config.depth)
        store_in_parts(self, "modulation", [f"blocks.{i}.modulation" for i in range(config.depth)])
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.norm = nn.LayerNorm(dim)
        self.output_proj = nn.Linear(dim, config.dim_latent)

    def position_bias(self, length: int) -> Tensor:
        """T5 bias (1, H, N, N), times √64 as published (NOTES 44)."""
        index = torch.arange(length, device=self.relative_bias.weight.device)
        bucket = relative_position_bucket(index[None, :] - index[:, None], self.NUM_BUCKETS)
        return self.relative_bias(bucket).permute(2, 0, 1)[None] * math.sqrt(DIM_HEAD)

    def context_tokens(
        self, x_self_cond: Tensor | None, class_id: Tensor | None, rows: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Condition tokens (B, M, D) and their mask (B, M); rows (B, N) is the latents' mask."""
        tokens, masks = [], []
        one = rows.new_ones((rows.shape[0], 1))
        if self.config.self_condition:
            if x_self_cond is None:
                tokens.append(self.null_self_cond.expand(rows.shape[0], 1, -1))
                masks.append(one)
            else:
                tokens.append(self.self_cond_proj(x_self_cond.to(self.self_cond_proj.weight.dtype)))
                masks.append(rows)
        if self.config.num_classes:
            tokens.append(self.class_embedding(class_id)[:, None])
            masks.append(one)
        if not tokens:
            return None, None
        dtype = compute_dtype(self.input_proj.weight)
        return torch.cat([token.to(dtype) for token in tokens], dim=1), torch.cat(masks, dim=1)

    def forward(
        self,
        z_t: Tensor,
        time: Tensor,
        *,
        mask: Tensor | None = None,
        x_self_cond: Tensor | None = None,
        class_id: Tensor | None = None,
        context: None = None,
        context_mask: None = None,
    ) -> Tensor:
        """One evaluation of the network.

        Args:
            z_t: (B, N, d). time: (B,) integer step. mask: (B, N), True = keep, or None.
            x_self_cond: (B, N, d). class_id: (B,) long in [0, num_classes].

        Raises:
            ConfigError: more positions than ``max_len``, a mask of another shape, missing or superfluous class ids,
                or a source text (this recipe has none).
        """
        if context is not None or context_mask is not None:
            raise ConfigError("Recipe v1 has no sequence-to-sequence mode; use recipe v2 for a source text.")
        if (class_id is not None) != bool(self.config.num_classes):
            raise ConfigError(
                f"This denoiser has {self.config.num_classes} classes; "
                + ("give class_id." if self.config.num_classes else "it takes no class_id.")
            )
        batch, length = z_t.shape[:2]
        rows = check_mask("mask", mask, (batch, length))
        if rows is None:
            rows = z_t.new_ones((batch, length), dtype=torch.bool)
        weight = self.input_proj.weight
        dtype = compute_dtype(weight)

        tau = F.gelu(self.time_mlp(self.sinusoid(time).to(weight.dtype)))[:, None]
        parts = self.modulation(tau).chunk(2 * self.config.depth, dim=-1)
        x = self.input_proj(z_t.to(weight.dtype)) + self.pos_emb(length) + self.time_proj(tau)
        tokens, token_mask = self.context_tokens(x_self_cond, class_id, rows)
        padding = attention_bias(rows, rows, dtype)
        lowest = torch.finfo(dtype).min
        self_bias = torch.where(padding < 0, lowest, self.position_bias(length).to(dtype))
        cross_bias = padding if tokens is None else attention_bias(rows, token_mask, dtype)

        for i, block in enumerate(self.blocks):
            x = x + block.attn(block.attn_norm(x), self_bias, rows)
            if self.config.cross_attention:
                normed = block.cross_norm(x)
                x = x + block.cross_attn(normed, normed if tokens is None else tokens, cross_bias, rows)
            scale, shift = parts[2 * i], parts[2 * i + 1]
            x = x + block.ff(block.ff_norm(x)) * (1 + scale) + shift
        return self.output_proj(self.norm(x))
