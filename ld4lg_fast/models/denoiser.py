"""The denoiser of recipe v2: a pre-norm transformer with time-modulated feed-forward branches.

Lovelace et al. 2023, section 3 and appendix; exact rules in golden NOTES 1-13.
Letters: B batch, N latent positions, M context positions, D model width, d latent width, L blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import ops
from ld4lg_fast.models.attention_backends import choose
from ld4lg_fast.models.context_encoder import BlockStates
from ld4lg_fast.models.denoiser_base import ConditionArguments, Denoiser, DenoiserSizes
from ld4lg_fast.models.layers import (
    CrossAttention,
    GEGLUFeedForward,
    Modulation,
    PositionTable,
    SelfAttention,
    SinusoidalEmbedding,
    add_and_norm,
    attention_bias,
    check_mask,
    compute_dtype,
    store_in_parts,
    twice,
)
from ld4lg_fast.models.packed_sequences import Lengths, PackedSequences, Varlen


@dataclass(frozen=True)
class DenoiserConfig(DenoiserSizes):
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
        qk_norm: RMS-normalise each head's q and k in self-attention.

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
    qk_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
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
    def class_modulates(self) -> bool:
        """Whether the class is part of the `Modulation`."""
        return self.num_classes > 0


class Block(nn.Module):
    """Self-attention, optional cross-attention, feed-forward, each pre-normed with a residual."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        dim, dropout = config.dim, config.dropout
        self.attn_norm = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, dropout, config.heads, config.qk_norm)
        if config.dim_context:
            self.cross_norm = nn.LayerNorm(dim)
            self.cross_attn = CrossAttention(dim, dropout, config.heads)
        self.ff_norm = nn.LayerNorm(dim)
        self.ff = GEGLUFeedForward(dim, dropout)
        if config.scale_shift:
            self.post_norm = nn.LayerNorm(dim)


@dataclass(frozen=True)
class Conditions:
    """What all evaluations of a batch share besides time and class, computed once by a sampler.

    Args:
        guided: the output has 2B rows for B inputs, the second half of them unconditional.
        self_bias: (B, 1, N, N), guided (2B, 1, N, N), or None. source_bias: (B, 1, N, M) or None.
        source: each block's cross-attention keys and values (B, M, 2·H·64); None without a source.
        no_source: under guidance, each block's cross-attention to the null token alone, (1, 1, D); it does not
            depend on the query, as a softmax over one key is 1.
        source_varlen: for FlashAttention, in the place of ``source_bias``: the sources are packed, ``source`` is
            (1, T, 2·H·64).
    """

    guided: bool = False
    self_bias: Tensor | None = None
    source: tuple[Tensor, ...] | None = None
    source_bias: Tensor | None = None
    no_source: tuple[Tensor, ...] | None = None
    source_varlen: Varlen | None = None

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether batches of one size have tensors of the same shapes, so that a graph can be replayed for them."""
        return self.source_varlen is None


class DiffusionTransformer(Denoiser):
    """Predicts noise, x_start or v from a noised latent (recipe v2)."""

    OPTIONAL = (
        "init_self_cond",
        "context_proj",
        "null_context",
    )  # unused in batches with, or without, a condition
    config: DenoiserConfig

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
        blocks = (Block(config) for _ in range(config.depth))
        self.blocks: Sequence[Block] = nn.ModuleList(blocks)  # type: ignore[assignment]  # of any modules
        if config.scale_shift:
            # One matmul gives every block's scale and shift; stored block by block.
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
        self.check_class(class_id)
        weight = self.time_mlp[0].weight
        # The sinusoid of 1000·alpha_sq stays in float32: bfloat16 would lose its phase.
        tau = self.time_mlp(self.sinusoid(time.float() * 1000).to(weight.dtype))
        if class_id is not None:
            tau = tau + self.class_proj(self.class_embedding(class_id))
        tau = F.gelu(tau)[:, None]
        return Modulation(self.time_proj(tau), self.modulation(tau) if self.config.scale_shift else None)

    def network_input(self, z_t: Tensor, x_self_cond: Tensor | None) -> Tensor:
        """The input of `run_blocks`: (B, N, d), with a self-condition or its learned start vector (B, N, 2d)."""
        if not self.config.self_condition:
            return z_t
        if x_self_cond is None:
            x_self_cond = self.init_self_cond.expand_as(z_t)
        return torch.cat([z_t, x_self_cond], dim=-1)

    def conditions(
        self, shape: Sequence[int], *, guided: bool = False, **given: Unpack[ConditionArguments]
    ) -> Conditions:
        """`Conditions` of a batch of ``shape`` (B, N); ``class_id`` is part of the `Modulation` alone."""
        context, context_mask = given.get("context"), given.get("context_mask")
        batch, length = shape
        weight = self.input_proj.weight
        dtype = compute_dtype(weight)
        rows = check_mask("mask", given.get("mask"), (batch, length))
        self_bias = None if rows is None else attention_bias(rows, rows, dtype)
        if guided and self_bias is not None:
            self_bias = twice(self_bias)
        if not self.config.dim_context:
            if context is not None:
                raise ConfigError("This denoiser was trained without a source text; it takes no context.")
            return Conditions(guided, self_bias)
        tokens: Tensor | BlockStates
        columns = None
        if context is None:
            tokens = self.null_context.expand(batch, 1, -1)
        else:
            if isinstance(context, BlockStates):
                tokens = context.linear(self.context_proj)
            else:
                # The states of a source are float32 where the blocks' precision is a smaller one.
                tokens = self.context_proj(context.to(weight.dtype))
            columns = check_mask("context_mask", context_mask, tokens.shape[:2])
        source_bias, varlen = None, None
        longest = max(length, tokens.shape[1])
        if (
            columns is not None
            and rows is None
            and choose(self.attn_implementation, weight.device, dtype, longest) == "flash_attn"
        ):
            packed = PackedSequences.of(columns)
            tokens = packed.pack(tokens.rows() if isinstance(tokens, BlockStates) else tokens)
            varlen = Varlen(Lengths.equal(batch, length, weight.device), packed.lengths)
        elif rows is not None or columns is not None:
            real = torch.ones((), dtype=torch.bool, device=weight.device)
            source_bias = attention_bias(
                real.expand(batch, length) if rows is None else rows,
                real.expand(tokens.shape[:2]) if columns is None else columns,
                dtype,
            )
        no_source = None
        if guided:
            null = self.null_context[None]
            attention = [block.cross_attn for block in self.blocks]
            no_source = tuple(attn.to_out(attn.kv(null).chunk(2, dim=-1)[1]) for attn in attention)
        layers = (block.cross_attn.kv for block in self.blocks)
        if isinstance(tokens, BlockStates):
            source = tuple(tokens.linear(kv).rows() for kv in layers)
        else:
            source = tuple(kv(tokens) for kv in layers)
        return Conditions(guided, self_bias, source, source_bias, no_source, varlen)

    def run_blocks(self, inputs: Tensor, modulation: Modulation, conditions: Conditions) -> Tensor:
        """The part that runs in every step: `network_input` -> output (B, N, d), guided (2B, N, d)."""
        n, depth = self.config.num_dense_connections, self.config.depth
        skips: list[Tensor] = []
        x = self.input_proj(inputs.to(modulation.embedding.dtype)) + self.pos_emb(inputs.shape[1])
        if conditions.guided and self.config.num_classes:
            x = twice(x)
        x = x + modulation.embedding
        normed = self.blocks[0].attn_norm(x)
        for i, block in enumerate(self.blocks):
            dense = i - (depth - n)
            if dense >= 0:
                x = self.dense_projections[dense](torch.cat([x, skips.pop()], dim=-1))
                normed = block.attn_norm(x)
            bias = None if conditions.self_bias is None else conditions.self_bias[: x.shape[0]]
            branch = block.attn(normed, bias)
            if conditions.source is not None:
                x = x + branch
                if conditions.guided and x.shape[0] == inputs.shape[0]:
                    x = twice(x)  # up to here the two halves are the same
                branch = self._attend_to_source(i, x, conditions.source[i], conditions)
            x, normed = add_and_norm(branch, x, block.ff_norm)
            h = block.ff(normed)
            next_norm: nn.LayerNorm | None = self.norm if i + 1 == depth else self.blocks[i + 1].attn_norm
            if depth - n <= i + 1 < depth:
                next_norm = None  # a dense projection comes before it
            if self.config.scale_shift:
                next_weights = () if next_norm is None else (next_norm.weight, next_norm.bias)
                post, (scale, shift) = block.post_norm, modulation.of_block(i)
                x, normed = ops.adaln_residual(h, x, post.weight, post.bias, scale, shift, *next_weights)
            elif next_norm is None:
                x = x + h
            else:
                x, normed = add_and_norm(h, x, next_norm)
            if len(skips) < n and not (self.config.unet_skips and i >= n):
                skips.append(x)
        return self.output_proj(normed)

    def _attend_to_source(self, index: int, x: Tensor, keys_values: Tensor, conditions: Conditions) -> Tensor:
        block, varlen = self.blocks[index], conditions.source_varlen
        cond = block.cross_norm(x if conditions.no_source is None else x[: x.shape[0] // 2])
        if varlen is None:
            cond = block.cross_attn(cond, keys_values, conditions.source_bias)
        else:
            packed = cond.flatten(0, 1)[None]
            cond = block.cross_attn(packed, keys_values, varlen=varlen).view_as(cond)
        if conditions.no_source is None:
            return cond
        return torch.cat([cond, conditions.no_source[index].expand_as(cond)])
