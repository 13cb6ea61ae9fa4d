"""The official release's denoiser.

Letters: B batch, N latent positions, M context length, D model width, d latent width, L blocks.
"""

import torch
from torch import Tensor, nn

from benchmarks.reference.layers import GEGLU, AbsolutePositions, Attention, SinusoidalTime, pairs


class FeedForward(nn.Module):
    """Gated feed-forward of inner width 4D, dropout after the gate."""

    def __init__(self, dim: int, dropout: float, mult: int = 4) -> None:
        super().__init__()
        self.ff = nn.Sequential(
            GEGLU(dim, mult * dim), nn.Identity(), nn.Dropout(dropout), nn.Linear(mult * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class TimeScaleShift(nn.Module):
    """Scale and shift (B, 1, D) of a feed-forward branch from the time embedding (B, 1, 4D)."""

    def __init__(self, dim_time: int, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.GELU(), nn.Linear(dim_time, 2 * dim))
        nn.init.zeros_(self.time_mlp[-1].weight)
        nn.init.zeros_(self.time_mlp[-1].bias)

    def forward(self, time_embedding: Tensor) -> tuple[Tensor, Tensor]:
        return self.time_mlp(time_embedding).chunk(2, dim=-1)


class ModulatedResidual(nn.Module):
    """``residual + (scale + 1)·h + shift``."""

    def __init__(self, dim_time: int, dim: int) -> None:
        super().__init__()
        self.scale_shift = TimeScaleShift(dim_time, dim)

    def forward(self, h: Tensor, residual: Tensor, time_embedding: Tensor) -> Tensor:
        scale, shift = self.scale_shift(time_embedding)
        return h * (scale + 1) + shift + residual


class Encoder(nn.Module):
    """L times self-attention, (cross-attention), feed-forward, each pre-normed with a residual.

    Layer k is ``[norms, function]`` or ``[norms, function, modulated residual]``; norms are before and, with
    time modulation, after the feed-forward.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        dropout: float,
        cross_attend: bool,
        dim_time: int | None,
        num_dense_connections: int,
    ) -> None:
        super().__init__()
        if num_dense_connections > 0 and depth <= num_dense_connections:
            raise ValueError(f"{num_dense_connections} dense connections need more than {depth} blocks")
        self.num_dense_connections = num_dense_connections
        self.dense_projections = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(num_dense_connections))
        self.kinds = ("self", "cross", "ff") * depth if cross_attend else ("self", "ff") * depth
        self.layers = nn.ModuleList()
        for kind in self.kinds:
            if kind != "ff":
                layer = [nn.ModuleList([nn.LayerNorm(dim)]), Attention(dim, heads, dropout)]
            elif dim_time is None:
                layer = [nn.ModuleList([nn.LayerNorm(dim)]), FeedForward(dim, dropout)]
            else:
                norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
                layer = [norms, FeedForward(dim, dropout), ModulatedResidual(dim_time, dim)]
            self.layers.append(nn.ModuleList(layer))

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        context: Tensor | None,
        context_mask: Tensor | None,
        time_embedding: Tensor,
    ) -> Tensor:
        """x (B, N, D), mask (B, N), context (B, M, D) with its mask (B, M), time_embedding (B, 1, 4D)."""
        within = pairs(mask, mask)
        across = None if context is None else pairs(mask, context_mask)
        num_blocks = self.kinds.count("self")
        kept: list[Tensor] = []
        block = -1
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            norms, function = layer[0], layer[1]
            if kind == "self":
                block += 1
                connection = block - (num_blocks - self.num_dense_connections)
                if connection >= 0:
                    x = self.dense_projections[connection](torch.cat((x, kept.pop()), dim=-1))
                x = x + function(norms[0](x), None, within)
            elif kind == "cross":
                x = x + function(norms[0](x), context, across)
            else:
                h = function(norms[0](x))
                x = x + h if len(norms) == 1 else layer[2](norms[1](h), x, time_embedding)
                # Every later output refills the stack, so that only the first connection is a long skip.
                if len(kept) < self.num_dense_connections:
                    kept.append(x)
        return x


class DiffusionTransformer(nn.Module):
    """Noised latents to a prediction; the arguments carry the release's own names.

    Args:
        tx_dim: D. tx_depth: L. heads: any number, each 64 wide. latent_dim: d. max_seq_len: largest N.
        num_classes: the id ``num_classes`` is the null class.
        class_unconditional_prob: chance of a dropped class in training.
    """

    def __init__(
        self,
        tx_dim: int,
        tx_depth: int,
        heads: int,
        latent_dim: int,
        max_seq_len: int,
        self_condition: bool = True,
        dropout: float = 0.1,
        scale_shift: bool = True,
        class_conditional: bool = False,
        num_classes: int = 0,
        class_unconditional_prob: float = 0.0,
        seq2seq: bool = False,
        seq2seq_context_dim: int = 0,
        num_dense_connections: int = 0,
    ) -> None:
        super().__init__()
        self.latent_dim, self.max_seq_len = latent_dim, max_seq_len
        self.self_condition, self.seq2seq = self_condition, seq2seq
        self.class_conditional, self.num_classes = class_conditional, num_classes
        self.class_unconditional_prob = class_unconditional_prob
        dim_time = 4 * tx_dim
        self.time_mlp = nn.Sequential(
            SinusoidalTime(tx_dim), nn.Linear(tx_dim, dim_time), nn.GELU(), nn.Linear(dim_time, dim_time)
        )
        self.time_pos_embed_mlp = nn.Sequential(nn.GELU(), nn.Linear(dim_time, tx_dim))
        self.pos_emb = AbsolutePositions(tx_dim, max_seq_len)
        if class_conditional:
            self.class_embedding = nn.Sequential(
                nn.Embedding(num_classes + 1, tx_dim), nn.Linear(tx_dim, dim_time)
            )
        if seq2seq:
            self.null_embedding_seq2seq = nn.Embedding(1, tx_dim)
            self.seq2seq_proj = nn.Linear(seq2seq_context_dim, tx_dim)
        if self_condition:
            self.init_self_cond = nn.Parameter(torch.randn(1, latent_dim))
        self.input_proj = nn.Linear(latent_dim * (2 if self_condition else 1), tx_dim)
        self.encoder = Encoder(
            tx_dim,
            tx_depth,
            heads,
            dropout,
            cross_attend=seq2seq,
            dim_time=dim_time if scale_shift else None,
            num_dense_connections=num_dense_connections,
        )
        self.norm = nn.LayerNorm(tx_dim)
        self.output_proj = nn.Linear(tx_dim, latent_dim)
        nn.init.zeros_(self.output_proj.weight)
        nn.init.zeros_(self.output_proj.bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        time: Tensor,
        x_self_cond: Tensor | None = None,
        class_id: Tensor | None = None,
        seq2seq_cond: Tensor | None = None,
        seq2seq_mask: Tensor | None = None,
    ) -> Tensor:
        """x (B, N, d), mask (B, N), time (B,) = squared signal level in (0, 1) -> (B, N, d)."""
        batch, length, _ = x.shape
        tau = self.time_mlp(time * 1000)[:, None]
        if self.class_conditional:
            tau = tau + self.class_embedding(class_id)[:, None]
        if self.self_condition:
            if x_self_cond is None:
                x_self_cond = self.init_self_cond.expand(batch, length, -1)
            x = torch.cat((x, x_self_cond), dim=-1)
        h = self.input_proj(x) + self.pos_emb(x) + self.time_pos_embed_mlp(tau)

        context = context_mask = None
        if self.seq2seq and seq2seq_cond is None:
            context = self.null_embedding_seq2seq.weight.expand(batch, 1, -1)
            context_mask = torch.ones((batch, 1), dtype=torch.bool, device=x.device)
        elif self.seq2seq:
            context, context_mask = self.seq2seq_proj(seq2seq_cond), seq2seq_mask
        h = self.encoder(h, mask, context, context_mask, tau)
        return self.output_proj(self.norm(h))
