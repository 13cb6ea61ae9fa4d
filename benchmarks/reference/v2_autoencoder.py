"""The official release's Perceiver autoencoder, with both of its decoders.

Letters: B batch, T tokens, N latents, W language model width, d latent width, H heads, h head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, einsum, nn

from benchmarks.reference.layers import (
    AbsolutePositions,
    exclude,
    merge_heads,
    pairs,
    softmax_in_float32,
    split_heads,
)


class HeadRMSNorm(nn.Module):
    """``x / max(‖x‖·h^-0.5, 1e-8) · gamma`` over the head width; one gain for all heads."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        norm = x.norm(dim=-1, keepdim=True) * self.scale
        return x / norm.clamp(min=1e-8) * self.gamma


def feed_forward(dim: int, mult: int) -> nn.Sequential:
    """Plain GELU feed-forward with its own norm in front."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, mult * dim), nn.GELU(), nn.Identity(), nn.Linear(mult * dim, dim)
    )


class PerceiverAttention(nn.Module):
    """Latents attend to the inputs and to the latents themselves.

    Where the widths differ, the latents have their own key-value projection.
    """

    def __init__(self, dim: int, dim_latent: int, dim_head: int) -> None:
        super().__init__()
        inner = max(dim, dim_latent)
        self.heads, self.scale = inner // dim_head, dim_head**-0.5
        self.norm, self.norm_latents = nn.LayerNorm(dim), nn.LayerNorm(dim_latent)
        self.query_norm, self.key_norm = HeadRMSNorm(dim_head), HeadRMSNorm(dim_head)
        self.to_q = nn.Linear(dim_latent, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.latent_to_kv = nn.Linear(dim_latent, 2 * inner, bias=False) if dim_latent != dim else None
        self.to_out = nn.Sequential(nn.Linear(inner, dim_latent))

    def forward(self, x: Tensor, latents: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, dim) with mask (B, T); latents (B, N, dim_latent)."""
        x, latents = self.norm(x), self.norm_latents(latents)
        own = self.to_kv if self.latent_to_kv is None else self.latent_to_kv
        k, v = torch.cat((self.to_kv(x), own(latents)), dim=1).chunk(2, dim=-1)
        q, k, v = (split_heads(t, self.heads) for t in (self.to_q(latents), k, v))
        scores = einsum("bhid,bhjd->bhij", self.query_norm(q) * self.scale, self.key_norm(k))
        if mask is not None:
            real = torch.ones(latents.shape[:2], dtype=torch.bool, device=x.device)
            scores = exclude(scores, pairs(real, torch.cat((mask.bool(), real), dim=1)))
        return self.to_out(merge_heads(einsum("bhij,bhjd->bhid", softmax_in_float32(scores), v)))


class PerceiverResampler(nn.Module):
    """Learned queries read the inputs: (B, T, dim) -> (B, N, dim_latent)."""

    def __init__(
        self,
        dim: int,
        dim_latent: int,
        depth: int,
        dim_head: int,
        num_latents: int,
        max_seq_len: int,
        ff_mult: int,
        l2_normalize_latents: bool = False,
    ) -> None:
        super().__init__()
        self.l2_normalize_latents = l2_normalize_latents
        self.pos_emb = AbsolutePositions(dim, max_seq_len)
        self.latents = nn.Parameter(torch.randn(num_latents, dim_latent) * 0.02)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, dim_latent, dim_head), feed_forward(dim_latent, ff_mult)])
            for _ in range(depth)
        )
        self.final_norm = nn.LayerNorm(dim_latent)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.pos_emb(x)
        latents = self.latents.expand(x.shape[0], -1, -1)
        for attention, ff in self.layers:
            latents = latents + attention(x, latents, mask)
            latents = latents + ff(latents)
        latents = self.final_norm(latents)
        if self.l2_normalize_latents:
            latents = F.normalize(latents, dim=-1) * latents.shape[-1] ** 0.5
        return latents


class SelfAttention(nn.Module):
    """Pre-normed self-attention with RMS-normalised queries and keys and a bias on the output."""

    def __init__(self, dim: int, dim_head: int) -> None:
        super().__init__()
        self.heads, self.scale = dim // dim_head, dim_head**-0.5
        inner = self.heads * dim_head
        self.norm = nn.LayerNorm(dim)
        self.query_norm, self.key_norm = HeadRMSNorm(dim_head), HeadRMSNorm(dim_head)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q, k, v = (split_heads(project(x), self.heads) for project in (self.to_q, self.to_k, self.to_v))
        scores = einsum("bhid,bhjd->bhij", self.query_norm(q) * self.scale, self.key_norm(k))
        return self.to_out(merge_heads(einsum("bhij,bhjd->bhid", softmax_in_float32(scores), v)))


class TransformerDecoder(nn.Module):
    """Latents (B, N, d) to as many states (B, N, W)."""

    def __init__(
        self, dim_latent: int, dim: int, depth: int, dim_head: int, num_latents: int, ff_mult: int
    ) -> None:
        super().__init__()
        self.pos_emb = AbsolutePositions(dim, num_latents)
        self.input_proj = nn.Linear(dim_latent, dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([SelfAttention(dim, dim_head), feed_forward(dim, ff_mult)]) for _ in range(depth)
        )
        self.final_norm = nn.LayerNorm(dim)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.input_proj(latents)
        x = x + self.pos_emb(x)
        for attention, ff in self.layers:
            x = x + attention(x)
            x = x + ff(x)
        return self.final_norm(x)


class PerceiverAutoencoder(nn.Module):
    """Language model states to latents and back; the arguments carry the release's own names.

    ``num_decoder_latents`` counts the output states of the Perceiver decoder; the transformer decoder gives
    as many states as there are latents, whatever it says.
    """

    def __init__(
        self,
        dim_lm: int,
        dim_ae: int,
        depth: int,
        num_encoder_latents: int,
        num_decoder_latents: int,
        max_seq_len: int,
        dim_head: int = 64,
        ff_mult: int = 4,
        encoder_only: bool = False,
        transformer_decoder: bool = True,
        l2_normalize_latents: bool = False,
    ) -> None:
        super().__init__()
        if encoder_only and dim_lm != dim_ae:
            raise ValueError(f"encoder_only needs equal widths, not {dim_lm} and {dim_ae}")
        self.perceiver_encoder = PerceiverResampler(
            dim_lm, dim_ae, depth, dim_head, num_encoder_latents, max_seq_len, ff_mult, l2_normalize_latents
        )
        if transformer_decoder:
            self.perceiver_decoder = TransformerDecoder(
                dim_ae, dim_lm, depth, dim_head, num_encoder_latents, ff_mult
            )
        else:
            self.perceiver_decoder = PerceiverResampler(
                dim_ae, dim_lm, depth, dim_head, num_decoder_latents, num_encoder_latents, ff_mult
            )

    def encode(self, encoder_outputs: Tensor, attention_mask: Tensor | None) -> Tensor:
        """States (B, T, W) with mask (B, T), 1 = keep -> latents (B, N, d)."""
        return self.perceiver_encoder(encoder_outputs, attention_mask)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, N, d) -> states for the language model's decoder."""
        return self.perceiver_decoder(latents)

    def forward(self, encoder_outputs: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self.decode(self.encode(encoder_outputs, attention_mask))
