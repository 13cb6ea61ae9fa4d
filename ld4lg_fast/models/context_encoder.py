"""Encodes the latents of the blocks before a block, to which the denoiser of recipe ``blocks`` attends.

It runs once for each block that is written; the denoiser's cross-attention keys and values of it are shared by all
sampling steps.
Letters: B batch, C distinct blocks, K context blocks, N latents, d latent width, D width, M = 1 + K·N positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.models.layers import (
    DIM_HEAD,
    GEGLUFeedForward,
    SelfAttention,
    add_and_norm,
)


@dataclass(frozen=True)
class ContextEncoderConfig:
    """Sizes of a `ContextEncoder`.

    Args:
        num_blocks: K, the most blocks that are seen. num_latents: N. dim_latent: d.
        dim: D, a multiple of 64. depth: transformer layers.

    Raises:
        ConfigError: a width that is no multiple of 64.
    """

    num_blocks: int
    num_latents: int
    dim_latent: int
    dim: int
    depth: int = 2

    def __post_init__(self) -> None:
        if self.dim < DIM_HEAD or self.dim % DIM_HEAD:
            raise ConfigError(f"The context encoder's width {self.dim} must be a multiple of {DIM_HEAD}.")


@dataclass(frozen=True)
class BlockContext:
    """The blocks before those that are written; a block that stands before several of them is held once.

    Args:
        latents: (C, N, d) of the distinct blocks.
        index: (B, K) int64, the places among them of the blocks before each row, the last one last; a row without so
            many begins with any others, which are not seen.
        num_blocks: (B,) int64, how many of the K blocks are real.
        begins: (B,) bool, the document begins within the K blocks.
        continues: (B,) bool, the last block breaks off within a sentence, and the written one continues it.
        noise_share, noise: (C,) and (C, N, d), mixed into the normalised latents in training; or None.
    """

    latents: Tensor
    index: Tensor
    num_blocks: Tensor
    begins: Tensor
    continues: Tensor
    noise_share: Tensor | None = None
    noise: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "BlockContext":
        """The same with ``change`` applied to every tensor."""
        tensors: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if value is not None
        }
        return replace(self, **tensors)

    def rows(self, rows: Tensor) -> "BlockContext":
        """That of some rows (R,) of a context without noise, with no block that stands before none of them."""
        used, places = self.index[rows].unique(return_inverse=True)
        flags = (tensor[rows] for tensor in (self.num_blocks, self.begins, self.continues))
        return BlockContext(self.latents[used], places, *flags)


@dataclass(frozen=True)
class BlockStates:
    """States of the blocks before each row, a block that stands before several rows held once.

    What a row sees is linear in them, so `linear` runs once for each block and not once for each row that sees it.

    Args:
        blocks: (C, N, D). index: (B, K), see `BlockContext`. distance: (K, D), added to the states of a row's k-th
            block. firsts: (4, D), of which ``state`` (B,) chooses each row's first position.
    """

    blocks: Tensor
    index: Tensor
    distance: Tensor
    firsts: Tensor
    state: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of `rows`: (B, M, D)."""
        return self.index.shape[0], 1 + self.index.shape[1] * self.blocks.shape[1], self.blocks.shape[2]

    def linear(self, layer: nn.Module) -> "BlockStates":
        """The states after an affine ``layer``."""
        count, most = self.blocks.shape[0] * self.blocks.shape[1], self.distance.shape[0]
        zero = torch.zeros_like(self.distance[:1])
        out = layer(torch.cat([self.blocks.flatten(0, 1), self.distance, zero, self.firsts]))
        blocks, distance, bias, firsts = out.split([count, most, 1, self.firsts.shape[0]])
        blocks = blocks.view(*self.blocks.shape[:2], -1)
        return BlockStates(blocks, self.index, distance - bias, firsts, self.state)

    def rows(self) -> Tensor:
        """What each row sees, (B, M, D)."""
        seen = self.blocks.index_select(0, self.index.flatten()).view(
            *self.index.shape, *self.blocks.shape[1:]
        )
        seen = (seen + self.distance[:, None]).flatten(1, 2)
        return torch.cat([self.firsts.index_select(0, self.state)[:, None], seen], dim=1)


class ContextLayer(nn.Module):
    """Pre-normed self-attention and feed-forward."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn_norm, self.attn = nn.LayerNorm(dim), SelfAttention(dim, qk_norm=True)
        self.ff_norm, self.ff = nn.LayerNorm(dim), GEGLUFeedForward(dim)


class ContextEncoder(nn.Module):
    """Latents of the K blocks before a block -> states of 1 + K·N positions, D wide.

    Each block is encoded by itself, and so once for all rows that it stands before. Added to its states is how many
    blocks before the written one it stands: a text's beginning may be left out without a change of the rest. The first
    state is always there: it says whether the document begins within the K blocks, and whether the last of them breaks
    off within a sentence, which the written block then continues.
    """

    def __init__(self, config: ContextEncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.input_proj = nn.Linear(c.dim_latent, c.dim)
        self.latent_emb = nn.Parameter(torch.randn(c.num_latents, c.dim) * c.dim**-0.5)
        self.distance_emb = nn.Parameter(torch.randn(c.num_blocks, c.dim) * 0.3)
        self.state_emb = nn.Embedding(4, c.dim)  # 2·begins + continues
        layers = (ContextLayer(c.dim) for _ in range(c.depth))
        self.layers: Sequence[ContextLayer] = nn.ModuleList(layers)  # type: ignore[assignment]  # of any modules
        self.norm = nn.LayerNorm(c.dim)

    def forward(
        self, latents: Tensor, context: BlockContext, one_by_one: bool = False
    ) -> tuple[BlockStates, Tensor]:
        """States and their mask (B, M), True = keep; ``latents`` are the context's, normalised and noised.

        ``one_by_one``: encodes each block by itself, so that its states do not depend on the other blocks.

        ``context.index`` may have fewer columns than K, if no row has more blocks before.

        Raises:
            ConfigError: latents of another shape than the model's, or more blocks.
        """
        c, most = self.config, context.index.shape[1]
        if latents.shape[1:] != (c.num_latents, c.dim_latent) or most > c.num_blocks:
            raise ConfigError(
                f"The context has up to {most} blocks of the shape {tuple(latents.shape[1:])}; this model takes up to "
                f"{c.num_blocks} of {(c.num_latents, c.dim_latent)}."
            )
        state = 2 * context.begins.long() + context.continues.long()
        distance = self.distance_emb[:most].flip(0)
        parts = latents.split(1) if one_by_one else [latents]
        blocks = torch.cat([self.encode(part) for part in parts])
        states = BlockStates(blocks, context.index, distance, self.state_emb.weight, state)
        real = torch.arange(most, device=latents.device) >= most - context.num_blocks[:, None]
        kept = [real.new_ones(real.shape[0], 1), real.repeat_interleave(c.num_latents, dim=1)]
        return states, torch.cat(kept, dim=1)

    def encode(self, latents: Tensor) -> Tensor:
        """Latents (C, N, d) of blocks -> their states (C, N, D), whatever block they stand before."""
        x = self.input_proj(latents.to(self.input_proj.weight.dtype)) + self.latent_emb
        normed = self.layers[0].attn_norm(x)
        for layer, following in zip(self.layers, [*self.layers[1:], None], strict=True):
            x, normed = add_and_norm(layer.attn(normed, None), x, layer.ff_norm)
            x, normed = add_and_norm(layer.ff(normed), x, following.attn_norm if following else self.norm)
        return normed
