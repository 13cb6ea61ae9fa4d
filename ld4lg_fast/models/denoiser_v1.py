"""The denoiser of recipe v1: relative positions, self-condition and class as context tokens.

The unofficial implementation's network; exact rules in golden NOTES 42-49.
Letters: B batch, N positions, M context tokens, D model width, d latent width, L blocks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.models.attention_backends import choose
from ld4lg_fast.models.denoiser_base import ConditionArguments, Denoiser, DenoiserSizes
from ld4lg_fast.models.layers import (
    DIM_HEAD,
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
from ld4lg_fast.models.packed_sequences import (
    Lengths,
    PackedSequences,
    Varlen,
    appended,
    relative_columns,
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
class DenoiserConfigV1(DenoiserSizes):
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

    @property
    def class_modulates(self) -> bool:
        """Whether the class is part of the `Modulation`."""
        return False


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


@dataclass(frozen=True)
class ConditionsV1:
    """What all evaluations of a batch share besides time, computed once by a sampler.

    R rows: B, or 2B where ``guided``; the second half of the output is then unconditional.

    Args:
        self_bias: (R or 1, H, N, N): relative positions and padding.
        first_bias, cross_bias: padding for cross-attention, (R, 1, N, M), without and with a self-condition;
            None where nothing is padded.
        class_keys_values: each block's cross-attention keys and values of the class token (R, 1, 2·H·64).
        rows: (R, N) real positions where `attend` needs them, else None.
        packing: for FlashAttention, in the place of biases and rows.
    """

    guided: bool
    self_bias: Tensor
    first_bias: Tensor | None
    cross_bias: Tensor | None
    class_keys_values: tuple[Tensor, ...] | None
    rows: Tensor | None
    packing: "PackingV1 | None" = None

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether batches of one size have tensors of the same shapes, so that a graph can be replayed for them."""
        return self.packing is None


@dataclass(frozen=True)
class PackedKeys:
    """Keys of a cross-attention, packed. ``order`` puts class tokens after those of their sample; None without."""

    order: Tensor | None
    varlen: Varlen


@dataclass(frozen=True)
class PackingV1:
    """A batch without its padding: (1, T, D), or (2, T, D) under guidance, in the place of (B, N, D) and (2B, N, D).

    Args:
        self_varlen: of self-attention, for one copy of the batch and for two.
        first_keys, cross_keys: of cross-attention, without and with a self-condition.
    """

    latents: PackedSequences
    self_varlen: tuple[Varlen, Varlen]
    first_keys: PackedKeys
    cross_keys: PackedKeys

    @classmethod
    def of(
        cls, latents: PackedSequences, position_bias: Tensor, config: DenoiserConfigV1, guided: bool
    ) -> "PackingV1":
        """From the places of real positions and the bias of relative positions (H, N, N)."""
        batch, lengths, device = latents.shape[0], latents.lengths, latents.index.device

        def keys(sample: Tensor, of_keys: Lengths, with_class: bool) -> PackedKeys:
            order = None
            if with_class:
                order, of_keys = appended(sample, of_keys, 1)
            varlen = Varlen(lengths, of_keys)
            return PackedKeys(order, varlen.twice() if guided else varlen)

        has_class = config.num_classes > 0
        one_each = torch.arange(batch, device=device), Lengths.equal(batch, 1, device)
        every = latents.sample, lengths
        first = one_each if config.self_condition or has_class else every
        columns = relative_columns(position_bias, latents, DIM_HEAD)
        own = Varlen(lengths, lengths, columns)
        return cls(
            latents,
            (own, own.twice()),
            keys(*first, config.self_condition and has_class),
            keys(*every, has_class),
        )

    def per_token(self, x: Tensor) -> Tensor:
        """Rows (B, 1, D) as (1, T, D); one row for all samples stays (1, 1, D)."""
        return x if x.shape[0] == 1 else x.index_select(0, self.latents.sample).transpose(0, 1)


class DiffusionTransformerV1(Denoiser):
    """Predicts x_start or noise from noised encoder states (recipe v1)."""

    NUM_BUCKETS = 32
    OPTIONAL = ("null_self_cond", "self_cond_proj")  # unused in batches with, or without, a self-condition
    config: DenoiserConfigV1

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
        blocks = (BlockV1(config) for _ in range(config.depth))
        self.blocks: Sequence[BlockV1] = nn.ModuleList(blocks)  # type: ignore[assignment]  # of any modules
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

    def modulate(self, time: Tensor, class_id: Tensor | None = None) -> Modulation:
        """The time dependent part for integer steps ``time`` (B,); the class is a token here."""
        tau = F.gelu(self.time_mlp(self.sinusoid(time).to(self.input_proj.weight.dtype)))[:, None]
        return Modulation(self.time_proj(tau), self.modulation(tau))

    def network_input(self, z_t: Tensor, x_self_cond: Tensor | None) -> Tensor:
        """The input of `run_blocks`: (B, N, d), or with a self-condition (B, N, 2d)."""
        if x_self_cond is None or not self.config.self_condition:
            return z_t
        return torch.cat([z_t, x_self_cond], dim=-1)

    def conditions(
        self, shape: Sequence[int], *, guided: bool = False, **given: Unpack[ConditionArguments]
    ) -> ConditionsV1:
        """`ConditionsV1` of a batch of ``shape`` (B, N); under guidance ``class_id`` has 2B ids."""
        if given.get("context") is not None or given.get("context_mask") is not None:
            raise ConfigError("Recipe v1 has no sequence-to-sequence mode; use recipe v2 for a source text.")
        class_id = given.get("class_id")
        self.check_class(class_id)
        dtype = compute_dtype(self.input_proj.weight)
        rows = check_mask("mask", given.get("mask"), tuple(shape))
        self_bias, first_bias, cross_bias = self.position_bias(shape[1]).to(dtype), None, None
        packing = None
        device = self_bias.device
        if choose(self.attn_implementation, device, dtype, shape[1], has_bias=True) == "flash_attn":
            real = torch.ones(*shape, dtype=torch.bool, device=device) if rows is None else rows
            packing, rows = PackingV1.of(PackedSequences.of(real), self_bias[0], self.config, guided), None
        if rows is not None:
            rows = twice(rows) if guided else rows
            padding = attention_bias(rows, rows, dtype)
            self_bias = torch.where(padding < 0, torch.finfo(dtype).min, self_bias)
            one = [rows.new_ones((rows.shape[0], 1))]
            class_token = one if self.config.num_classes else []
            start = one if self.config.self_condition else []
            if start or class_token:
                first_bias = attention_bias(rows, torch.cat(start + class_token, dim=1), dtype)
            cross_bias = padding
            if class_token:
                cross_bias = attention_bias(rows, torch.cat([rows, *class_token], dim=1), dtype)
        keys_values = None
        if class_id is not None and self.config.cross_attention:
            token = self.class_embedding(class_id)[:, None].to(dtype)
            keys_values = tuple(block.cross_attn.kv(token) for block in self.blocks)
        # Needed for gradients, and by attention kernels on a GPU, which give 0 or NaN for padded queries; see `attend`.
        needed = rows if torch.is_grad_enabled() or self.input_proj.weight.is_cuda else None
        return ConditionsV1(guided, self_bias, first_bias, cross_bias, keys_values, needed, packing)

    def run_blocks(self, inputs: Tensor, modulation: Modulation, conditions: ConditionsV1) -> Tensor:
        """The part that runs in every step: `network_input` -> output (B, N, d), guided (2B, N, d)."""
        weight, packing = self.input_proj.weight, conditions.packing
        positions, embedding = self.pos_emb(inputs.shape[1]), modulation.embedding
        if packing is not None:
            inputs, embedding = packing.latents.pack(inputs), packing.per_token(embedding)
            positions = positions.index_select(0, packing.latents.position)
        z_t, *x_self_cond = inputs.to(weight.dtype).split(self.config.dim_latent, dim=-1)
        x = self.input_proj(z_t) + positions + embedding
        tokens = None
        if x_self_cond:
            tokens = self.self_cond_proj(x_self_cond[0])
        elif self.config.self_condition:
            # Not a view: torch's FLOP counter fails on a view of a parameter without gradient.
            copies = (x.shape[0], 1, 1) if packing is None else (1, packing.latents.shape[0], 1)
            tokens = self.null_self_cond.to(compute_dtype(weight)).repeat(copies)
        has_other_keys = not x_self_cond and (tokens is not None or conditions.class_keys_values is not None)
        cross_bias = conditions.first_bias if has_other_keys else conditions.cross_bias
        keys = None
        if packing is not None:
            keys = packing.first_keys if has_other_keys else packing.cross_keys

        for i, block in enumerate(self.blocks):
            branch = self._attend_to_itself(block, x, conditions)
            if conditions.guided and i == 0:
                x, branch = twice(x), twice(branch)  # up to here the two halves are the same
            if self.config.cross_attention:
                x, normed = add_and_norm(branch, x, block.cross_norm)
                keys_values = self._keys_values(i, normed, tokens, conditions, keys)
                varlen = None if keys is None else keys.varlen
                branch = block.cross_attn(normed, keys_values, cross_bias, conditions.rows, varlen)
            x, normed = add_and_norm(branch, x, block.ff_norm)
            scale, shift = modulation.of_block(i)
            if packing is not None:
                scale, shift = packing.per_token(scale), packing.per_token(shift)
            x = x + block.ff(normed) * (1 + scale) + shift
        output = self.output_proj(self.norm(x))
        return output if packing is None else packing.latents.unpack(output)

    def _attend_to_itself(self, block: BlockV1, x: Tensor, conditions: ConditionsV1) -> Tensor:
        normed, count = block.attn_norm(x), x.shape[0]
        if conditions.packing is not None:
            return block.attn(normed, varlen=conditions.packing.self_varlen[count - 1])
        rows = None if conditions.rows is None else conditions.rows[:count]
        return block.attn(normed, conditions.self_bias[:count], rows)

    def _keys_values(
        self,
        index: int,
        normed: Tensor,
        tokens: Tensor | None,
        conditions: ConditionsV1,
        keys: PackedKeys | None,
    ) -> Tensor:
        """Keys and values of the self-condition and class tokens; without any condition, of the latents themselves."""
        kv, of_class = self.blocks[index].cross_attn.kv, None
        if conditions.class_keys_values is not None:
            of_class = conditions.class_keys_values[index]
            if conditions.packing is not None:
                of_class = of_class.view(normed.shape[0], -1, of_class.shape[-1])
        if tokens is None:
            return kv(normed) if of_class is None else of_class
        keys_values = twice(kv(tokens)) if conditions.guided else kv(tokens)
        if of_class is None:
            return keys_values
        keys_values = torch.cat([keys_values, of_class], dim=1)
        return keys_values if keys is None or keys.order is None else keys_values.index_select(1, keys.order)
