"""The Perceiver around a language model: token states to a fixed number of narrow latents, and back.

Lovelace et al. 2023, section 4; resampler: Alayrac et al. 2022 (Flamingo). Exact rules in golden NOTES 14-17.
Letters: B batch, T tokens, N latents, d latent width, W language model width, H heads of 64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.models.attention_backends import AttentionModule, attention, choose
from ld4lg_fast.models.layers import (
    DIM_HEAD,
    HeadRMSNorm,
    PositionTable,
    add_and_norm,
    attention_bias,
    check_mask,
    compute_dtype,
    project_to_sphere,
    store_in_parts,
)
from ld4lg_fast.models.packed_sequences import Lengths, PackedSequences, Varlen, appended

DECODERS = ("transformer", "perceiver")


@dataclass(frozen=True)
class PerceiverConfig:
    """Sizes of a `Perceiver`.

    Args:
        dim_lm: W. dim_latent: d. num_latents: N. depth: layers on each side. max_len: largest T.
        l2_normalize: scale each latent to norm √d.
        decoder: ``transformer`` (N output states, as every published model) or ``perceiver``
            (``num_decoder_latents`` output states).

    Raises:
        ConfigError: an unknown decoder, or widths whose larger one is not a multiple of 64.
    """

    dim_lm: int = 768
    dim_latent: int = 64
    num_latents: int = 32
    depth: int = 3
    max_len: int = 64
    l2_normalize: bool = False
    decoder: str = "transformer"
    num_decoder_latents: int = 32
    ff_mult: int = 4

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise ConfigError(f"Unknown Perceiver decoder {self.decoder!r}; choose {' or '.join(DECODERS)}.")
        if max(self.dim_lm, self.dim_latent) % DIM_HEAD or (
            self.decoder == "transformer" and self.dim_lm % DIM_HEAD
        ):
            raise ConfigError(
                f"The language model is {self.dim_lm} wide and the latents {self.dim_latent}; "
                f"the larger width must be a multiple of {DIM_HEAD}."
            )

    @property
    def num_states(self) -> int:
        """Number of states that latents are expanded to."""
        return self.num_latents if self.decoder == "transformer" else self.num_decoder_latents


def feed_forward(dim: int, mult: int) -> nn.Sequential:
    """LN -> Linear -> GELU -> Linear."""
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, mult * dim), nn.GELU(), nn.Linear(mult * dim, dim))


class PerceiverAttention(AttentionModule):
    """Queries attend to the inputs and to themselves; q and k are RMS-normalised per head.

    Inner width max(input width, query width). Where the widths are equal, one key-value projection serves both.
    """

    def __init__(self, dim_input: int, dim_query: int) -> None:
        super().__init__()
        inner = max(dim_input, dim_query)
        self.input_norm, self.query_norm = nn.LayerNorm(dim_input), nn.LayerNorm(dim_query)
        self.q_rms, self.k_rms = HeadRMSNorm(), HeadRMSNorm()
        self.to_q = nn.Linear(dim_query, inner, bias=False)
        self.to_kv = nn.Linear(dim_input, 2 * inner, bias=False)
        self.query_to_kv = nn.Linear(dim_query, 2 * inner, bias=False) if dim_query != dim_input else None
        self.to_out = nn.Linear(inner, dim_query)

    def forward(
        self, x: Tensor, queries: Tensor, bias: Tensor | None, packing: "InputPacking | None" = None
    ) -> Tensor:
        """x (B, T, dim_input), queries (B, N, dim_query); ``bias`` broadcastable to (B, H, N, T + N).

        With a ``packing`` x is (1, tokens, dim_input).
        """
        x, queries = self.input_norm(x), self.query_norm(queries)
        own_kv = self.to_kv if self.query_to_kv is None else self.query_to_kv
        q, own, varlen = self.to_q(queries), own_kv(queries), None
        if packing is not None:
            q, own, varlen = q.flatten(0, 1)[None], own.flatten(0, 1)[None], packing.varlen
        keys_values = torch.cat([self.to_kv(x), own], dim=1)
        if packing is not None:
            keys_values = keys_values.index_select(1, packing.order)
        k, v = keys_values.chunk(2, dim=-1)
        options: dict[str, Any] = {"norms": (self.q_rms, self.k_rms), "backend": self.attn_implementation}
        out = attention(q, k, v, bias, varlen=varlen, **options)
        return self.to_out(out.reshape(*queries.shape[:2], -1))


@dataclass(frozen=True)
class InputPacking:
    """The inputs of a batch packed, each text's own queries after its tokens.

    ``order`` (tokens + B·N,) puts keys in these places, from all tokens followed by all queries.
    """

    order: Tensor
    varlen: Varlen

    @classmethod
    def of(cls, packed: PackedSequences, num_queries: int) -> "InputPacking":
        order, keys = appended(packed.sample, packed.lengths, num_queries)
        return cls(order, Varlen(Lengths.equal(packed.shape[0], num_queries, order.device), keys))


class PerceiverResampler(AttentionModule):
    """Learned queries read the inputs: (B, T, dim_input) -> (B, N, dim_query)."""

    def __init__(
        self, dim_input: int, dim_query: int, num_queries: int, depth: int, max_len: int, mult: int
    ) -> None:
        super().__init__()
        self.pos_emb = PositionTable(max_len, dim_input)
        self.queries = nn.Parameter(torch.randn(num_queries, dim_query) * 0.02)
        attn = (PerceiverAttention(dim_input, dim_query) for _ in range(depth))
        self.attn: Sequence[PerceiverAttention] = nn.ModuleList(attn)  # type: ignore[assignment]  # of any modules
        ff = (feed_forward(dim_query, mult) for _ in range(depth))
        self.ff: Sequence[nn.Sequential] = nn.ModuleList(ff)  # type: ignore[assignment]  # of any modules
        self.norm = nn.LayerNorm(dim_query)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, length = x.shape[:2]
        x = x + self.pos_emb(length)
        bias, packing, num_queries = None, None, self.queries.shape[0]
        if (mask := check_mask("attention_mask", mask, (batch, length))) is not None:
            dtype = compute_dtype(self.attn[0].to_q.weight)
            if choose(self.attn_implementation, x.device, dtype, length) == "flash_attn":
                packed = PackedSequences.of(mask)
                x, packing = packed.pack(x), InputPacking.of(packed, num_queries)
            else:
                keys = torch.cat([mask, mask.new_ones(batch, num_queries)], dim=1)
                bias = attention_bias(mask.new_ones(batch, num_queries), keys, dtype)
        queries = self.queries.expand(batch, -1, -1)
        for attn, ff in zip(self.attn, self.ff, strict=True):
            branch = attn(x, queries, bias, packing)
            queries, normed = add_and_norm(branch, queries, ff[0])  # type: ignore[arg-type]  # its norm
            queries = queries + ff[1:](normed)
        return self.norm(queries)


class RMSSelfAttention(AttentionModule):
    """Pre-normed self-attention with per-head RMS-normalised q and k, and a bias on the output."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.q_rms, self.k_rms = HeadRMSNorm(), HeadRMSNorm()
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        store_in_parts(self, "qkv", ("to_q", "to_k", "to_v"))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        norms = (self.q_rms, self.k_rms)
        return self.to_out(attention(q, k, v, norms=norms, backend=self.attn_implementation))


class TransformerExpander(nn.Module):
    """Latents to states for the language model's decoder: (B, N, d) -> (B, N, W)."""

    def __init__(self, dim_latent: int, dim: int, num_latents: int, depth: int, mult: int) -> None:
        super().__init__()
        self.pos_emb = PositionTable(num_latents, dim)
        self.input_proj = nn.Linear(dim_latent, dim)
        attn = (RMSSelfAttention(dim) for _ in range(depth))
        self.attn: Sequence[RMSSelfAttention] = nn.ModuleList(attn)  # type: ignore[assignment]  # of any modules
        ff = (feed_forward(dim, mult) for _ in range(depth))
        self.ff: Sequence[nn.Sequential] = nn.ModuleList(ff)  # type: ignore[assignment]  # of any modules
        self.norm = nn.LayerNorm(dim)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.input_proj(latents) + self.pos_emb(latents.shape[1])
        for attn, ff in zip(self.attn, self.ff, strict=True):
            x, normed = add_and_norm(attn(x), x, ff[0])  # type: ignore[arg-type]  # its norm
            x = x + ff[1:](normed)
        return self.norm(x)


class Perceiver(nn.Module):
    """Compresses language model states to latents and expands latents to states."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.config = c = config
        self.encoder = PerceiverResampler(
            c.dim_lm, c.dim_latent, c.num_latents, c.depth, c.max_len, c.ff_mult
        )
        self.decoder: TransformerExpander | PerceiverResampler
        if c.decoder == "transformer":
            self.decoder = TransformerExpander(c.dim_latent, c.dim_lm, c.num_latents, c.depth, c.ff_mult)
        else:
            self.decoder = PerceiverResampler(
                c.dim_latent, c.dim_lm, c.num_decoder_latents, c.depth, c.num_latents, c.ff_mult
            )

    def encode(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encoder states (B, T, W) with mask (B, T), True = keep -> latents (B, N, d).

        Raises:
            ConfigError: more than ``max_len`` tokens, or a mask of another shape.
        """
        latents = self.encoder(states, mask)
        return project_to_sphere(latents) if self.config.l2_normalize else latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, N, d) -> states (B, N or num_decoder_latents, W) for the language model's decoder."""
        return self.decoder(latents)
