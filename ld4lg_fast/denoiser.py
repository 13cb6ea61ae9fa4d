"""The denoiser of recipe v2: a pre-norm transformer with time-modulated feed-forward branches.

Lovelace et al. 2023, section 3 and appendix; exact rules in golden NOTES 1-13.
Letters: B batch, N latent positions, M context positions, D model width, d latent width, L blocks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import ops
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


@dataclass(frozen=True)
class DenoiserConfig:
    """Sizes and switches of a `DiffusionTransformer`.

    Args:
        dim: D, a multiple of 64 (heads are 64 wide). depth: L. dim_latent: d. max_len: largest N.
        num_dense_connections: n concatenations into the last n blocks, with ``n < depth``.
        unet_skips: False: the published stack, where only the first of the n is a long skip (NOTES 8).
            True: real U-ViT skips, block i to block L-1-i, as the paper describes them (2n <= depth).
        self_condition: concatenate the previous x_start on the channels.
        scale_shift: time modulation and the second norm of the feed-forward branches.
        num_classes: 0 for none; the id ``num_classes`` is the null class.
        dim_context: width of a cross-attended source, 0 for none.
        dropout: on attention probabilities and inside the feed-forward.
        heads: None for D/64; published networks may have another number (each 64 wide).

    Raises:
        ConfigError: sizes that do not fit together.
    """

    dim: int = 768
    depth: int = 12
    dim_latent: int = 64
    max_len: int = 32
    num_dense_connections: int = 3
    unet_skips: bool = False
    self_condition: bool = True
    scale_shift: bool = True
    num_classes: int = 0
    dim_context: int = 0
    dropout: float = 0.1
    heads: int | None = None

    def __post_init__(self) -> None:
        if self.heads is None and (self.dim < DIM_HEAD or self.dim % DIM_HEAD):
            raise ConfigError(f"Denoiser width {self.dim} must be a positive multiple of {DIM_HEAD}.")
        if self.num_dense_connections and self.depth <= self.num_dense_connections:
            raise ConfigError(
                f"A denoiser of depth {self.depth} cannot have {self.num_dense_connections} dense connections; "
                "they must be fewer than the blocks."
            )
        if self.unet_skips and self.depth < 2 * self.num_dense_connections:
            raise ConfigError(
                f"{self.num_dense_connections} U-ViT skips need a depth of at least "
                f"{2 * self.num_dense_connections}, not {self.depth}."
            )

    @property
    def null_class(self) -> int | None:
        return self.num_classes or None


class Block(nn.Module):
    """Self-attention, optional cross-attention, feed-forward, each pre-normed with a residual."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        dim, dropout = config.dim, config.dropout
        self.attn_norm = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, dropout, config.heads)
        if config.dim_context:
            self.cross_norm = nn.LayerNorm(dim)
            self.cross_attn = CrossAttention(dim, dropout, config.heads)
        self.ff_norm = nn.LayerNorm(dim)
        self.ff = GEGLUFeedForward(dim, dropout)
        if config.scale_shift:
            self.post_norm = nn.LayerNorm(dim)


@dataclass(frozen=True)
class Modulation:
    """Everything that depends on time and class alone, so that a sampler can compute it once per run.

    ``embedding`` (B, 1, D) is added to the input; ``scale`` and ``shift`` are L tensors (B, 1, D).
    """

    embedding: Tensor
    scale: tuple[Tensor, ...]
    shift: tuple[Tensor, ...]


class DiffusionTransformer(nn.Module):
    """Predicts noise, x_start or v from a noised latent (recipe v2)."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        dim, dim_time = config.dim, 4 * config.dim
        self.sinusoid = SinusoidalEmbedding(dim)
        self.time_mlp = nn.Sequential(nn.Linear(dim, dim_time), nn.GELU(), nn.Linear(dim_time, dim_time))
        self.time_proj = nn.Linear(dim_time, dim)
        if config.num_classes:
            self.class_embedding = nn.Embedding(config.num_classes + 1, dim)
            self.class_proj = nn.Linear(dim, dim_time)
        self.pos_emb = PositionTable(config.max_len, dim)
        self.input_proj = nn.Linear(config.dim_latent * (2 if config.self_condition else 1), dim)
        if config.self_condition:
            self.init_self_cond = nn.Parameter(torch.randn(1, config.dim_latent))
        if config.dim_context:
            self.context_proj = nn.Linear(config.dim_context, dim)
            self.null_context = nn.Parameter(torch.randn(1, dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        if config.scale_shift:
            # One product gives every block's scale and shift; stored block by block.
            self.modulation = nn.Linear(dim_time, 2 * dim * config.depth)
            store_in_parts(self, "modulation", [f"blocks.{i}.modulation" for i in range(config.depth)])
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)
        self.dense_projections = nn.ModuleList(
            nn.Linear(2 * dim, dim) for _ in range(config.num_dense_connections)
        )
        self.norm = nn.LayerNorm(dim)
        self.output_proj = nn.Linear(dim, config.dim_latent)
        nn.init.zeros_(self.output_proj.weight)
        nn.init.zeros_(self.output_proj.bias)

    def modulate(self, time: Tensor, class_id: Tensor | None = None) -> Modulation:
        """The time and class dependent part for levels ``time`` (B,) in [0, 1] (``alpha_sq``).

        Raises:
            ConfigError: a class-conditional model without ids, or ids given to an unconditional one.
        """
        if (class_id is not None) != bool(self.config.num_classes):
            raise ConfigError(
                f"This denoiser has {self.config.num_classes} classes; "
                + ("give class_id." if self.config.num_classes else "it takes no class_id.")
            )
        weight = self.time_mlp[0].weight
        # The sinusoid of 1000·alpha_sq stays in float32: bfloat16 would lose its phase.
        tau = self.time_mlp(self.sinusoid(time.float() * 1000).to(weight.dtype))
        if class_id is not None:
            tau = tau + self.class_proj(self.class_embedding(class_id))
        tau = F.gelu(tau)[:, None]
        scale: tuple[Tensor, ...] = ()
        shift: tuple[Tensor, ...] = ()
        if self.config.scale_shift:
            parts = self.modulation(tau).chunk(2 * self.config.depth, dim=-1)
            scale, shift = parts[0::2], parts[1::2]
        return Modulation(self.time_proj(tau), scale, shift)

    def project_context(self, context: Tensor | None, batch: int) -> Tensor | None:
        """Source states (B, M, dim_context) -> (B, M, D), or the learned null token when there is no source.

        Raises:
            ConfigError: a source given to a model that was built without one.
        """
        if not self.config.dim_context:
            if context is not None:
                raise ConfigError("This denoiser was trained without a source text; it takes no context.")
            return None
        if context is None:
            return self.null_context.expand(batch, 1, -1)
        return self.context_proj(context)

    def embed(self, z_t: Tensor, x_self_cond: Tensor | None, embedding: Tensor) -> Tensor:
        """Latents (B, N, d) and self-condition -> the first block's input (B, N, D)."""
        if self.config.self_condition:
            if x_self_cond is None:
                x_self_cond = self.init_self_cond.expand_as(z_t)
            z_t = torch.cat([z_t, x_self_cond], dim=-1)
        return self.input_proj(z_t.to(embedding.dtype)) + self.pos_emb(z_t.shape[1]) + embedding

    def forward(
        self,
        z_t: Tensor,
        time: Tensor,
        *,
        mask: Tensor | None = None,
        x_self_cond: Tensor | None = None,
        class_id: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """One evaluation of the network.

        Args:
            z_t: (B, N, d). time: (B,) ``alpha_sq`` in [0, 1].
            mask: (B, N), True = keep; None when all positions are real. context_mask: (B, M) likewise.
            x_self_cond: (B, N, d), the previous x_start; None uses the learned start vector.
            class_id: (B,) long in [0, num_classes]. context: (B, M, dim_context).

        Returns:
            (B, N, d) in the dtype of the weights (or of autocast).

        Raises:
            ConfigError: more positions than ``max_len``, a mask of another shape, or a condition that this
                model does not have (or needs and was not given).
        """
        self_bias, cross_bias = self.attention_biases(z_t, mask, context, context_mask)
        return self.run_blocks(
            z_t,
            x_self_cond,
            self.modulate(time, class_id),
            self_bias,
            self.project_context(context, z_t.shape[0]),
            cross_bias,
        )

    def attention_biases(
        self, z_t: Tensor, mask: Tensor | None, context: Tensor | None, context_mask: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Additive masks of self- and cross-attention, (B, 1, N, N) and (B, 1, N, M), or None where all is real."""
        batch, length = z_t.shape[:2]
        dtype = compute_dtype(self.input_proj.weight)
        rows = check_mask("mask", mask, (batch, length))
        self_bias = None if rows is None else attention_bias(rows, rows, dtype)
        if not self.config.dim_context:
            return self_bias, None
        num_keys = 1 if context is None else context.shape[1]
        columns = None if context is None else check_mask("context_mask", context_mask, (batch, num_keys))
        if rows is None and columns is None:
            return self_bias, None
        rows = z_t.new_ones((batch, length), dtype=torch.bool) if rows is None else rows
        columns = z_t.new_ones((batch, num_keys), dtype=torch.bool) if columns is None else columns
        return self_bias, attention_bias(rows, columns, dtype)

    def run_blocks(
        self,
        z_t: Tensor,
        x_self_cond: Tensor | None,
        modulation: Modulation,
        self_bias: Tensor | None = None,
        context: Tensor | None = None,
        cross_bias: Tensor | None = None,
    ) -> Tensor:
        """The part that a sampler repeats: blocks and output for a given `Modulation` (shapes as in forward)."""
        n, depth = self.config.num_dense_connections, self.config.depth
        skips: list[Tensor] = []
        x = self.embed(z_t, x_self_cond, modulation.embedding)
        normed = self.blocks[0].attn_norm(x)
        for i, block in enumerate(self.blocks):
            dense = i - (depth - n)
            if dense >= 0:
                x = self.dense_projections[dense](torch.cat([x, skips.pop()], dim=-1))
                normed = block.attn_norm(x)
            x = x + block.attn(normed, self_bias)
            if context is not None:
                x = x + block.cross_attn(block.cross_norm(x), context, cross_bias)
            h = block.ff(block.ff_norm(x))
            next_norm = self.norm if i + 1 == depth else self.blocks[i + 1].attn_norm
            if self.config.scale_shift:
                x, normed = ops.adaln_residual(
                    h,
                    x,
                    block.post_norm.weight,
                    block.post_norm.bias,
                    modulation.scale[i],
                    modulation.shift[i],
                    next_norm.weight,
                    next_norm.bias,
                )
            else:
                x = x + h
                normed = next_norm(x)
            if len(skips) < n and not (self.config.unet_skips and i >= n):
                skips.append(x)
        return self.output_proj(normed)
