"""Latents of documents' blocks, each with those of the blocks before it, for the denoiser of recipe ``blocks``.

Letters: B blocks, K context blocks, N latents, d latent width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.models.context_encoder import BlockContext
from ld4lg_fast.training.conditioned_latents import to_device
from ld4lg_fast.training.shards import Rows


@dataclass(frozen=True)
class ContextDraws:
    """The randomness of a batch's contexts.

    ``cut`` (B,) bool: the block is cut in two, its head is context and its tail is the target. ``share`` (B,) and
    ``noise`` (B, K, N, d): noise that is added to the context, as a sampled context is never clean.
    """

    cut: Tensor
    share: Tensor
    noise: Tensor


@dataclass(frozen=True)
class BlockLatents:
    """Latents of whole blocks, of their heads and of their tails, each (B, N, d).

    Args:
        firsts: (B,) of each block the number of its document's first block. num_context: K.
        labels: (B,) long, or None.
    """

    latents: Rows
    heads: Rows
    tails: Rows
    firsts: np.ndarray
    num_context: int
    labels: Tensor | None = None
    lengths: None = None
    sources: None = None

    def __len__(self) -> int:
        return len(self.latents)

    def mask(self, rows: Sequence[int] | np.ndarray) -> None:
        """Every latent is real."""

    def draw(
        self, count: int, generator: torch.Generator, cut_share: float, most_noise: float
    ) -> ContextDraws:
        """`ContextDraws` of a batch of ``count`` blocks."""
        shape = (count, self.num_context, *self.latents.row_shape)
        return ContextDraws(
            torch.rand(count, generator=generator) < cut_share,
            torch.rand(count, generator=generator) * most_noise,
            torch.randn(shape, generator=generator),
        )

    def batch(
        self, rows: Sequence[int] | np.ndarray, device: torch.device, draws: ContextDraws | None = None
    ) -> tuple[Tensor, dict[str, object]]:
        """Latents (B, N, d) of the blocks ``rows`` and the conditions of `LatentDiffusion.loss`, on ``device``.

        ``draws`` None: no block is cut and no context is noised.
        """
        blocks, context = np.asarray(rows), self.num_context
        firsts = self.firsts[blocks]
        latents = self.latents.take(blocks)
        # An empty block, which ends the document, cannot be cut, and says nothing as a context.
        cut = np.zeros(len(blocks), dtype=bool)
        if draws is not None:
            cut = draws.cut.numpy() & self._are_cut(blocks)
        places = blocks[:, None] + np.arange(-context, 0) + cut[:, None]
        real = places >= firsts[:, None]
        around = self.latents.take(np.where(real, places, blocks[:, None]).ravel())
        around = around.view(len(blocks), context, *self.latents.row_shape)
        if cut.any():
            which = torch.from_numpy(cut)
            latents[which] = self.tails.take(blocks[cut])
            around[which, -1] = self.heads.take(blocks[cut])
        counts = torch.from_numpy(real.sum(1))
        begins = torch.from_numpy(blocks + cut - firsts <= context)
        seen = BlockContext(
            around,
            counts,
            begins,
            torch.from_numpy(cut),
            None if draws is None else draws.share,
            None if draws is None else draws.noise,
        )
        conditions: dict[str, object] = {
            "blocks": seen.map(lambda tensor: to_device(tensor, device)),
            "class_id": None if self.labels is None else to_device(self.labels[blocks], device),
        }
        return to_device(latents, device), conditions

    def _are_cut(self, blocks: np.ndarray) -> np.ndarray:
        """Whether a block is followed by another of its document, and so is not its empty end."""
        following = np.append(self.firsts, -1)[blocks + 1]
        return following == self.firsts[blocks]
