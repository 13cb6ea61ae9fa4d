"""Latents of documents' blocks, each with those of the blocks before it, for the denoiser of recipe ``blocks``.

Letters: B blocks, C distinct ones before them, K context blocks, N latents, d latent width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.models.context_encoder import BlockContext
from ld4lg_fast.training.conditioned_latents import to_device
from ld4lg_fast.training.shards import Rows
from ld4lg_fast.training.train_step import Part

WHOLE = Part()


@dataclass(frozen=True)
class CutBlocks:
    """Blocks that are cut in two, as prompts end anywhere: the head is context, the tail is what is to be written.

    Args:
        blocks: (C,) their numbers, ascending. heads, tails: latents of their parts, (C, N, d) each.
    """

    blocks: np.ndarray
    heads: Rows
    tails: Rows


NONE_CUT = CutBlocks(np.zeros(0, dtype=np.int64), Rows([torch.zeros(0, 1, 1)]), Rows([torch.zeros(0, 1, 1)]))


@dataclass(frozen=True)
class BlockLatents:
    """Latents of blocks, (B, N, d).

    Args:
        firsts: (B,) of each block the number of its document's first block. num_context: K.
        cut: those whose parts take their place in training.
        most_noise: largest share of noise in the context in training, as a sampled context is never clean.
        labels: (B,) long, or None.
    """

    latents: Rows
    firsts: np.ndarray
    num_context: int
    cut: CutBlocks = NONE_CUT
    most_noise: float = 0.0
    labels: Tensor | None = None
    lengths: None = None
    sources: None = None

    def __len__(self) -> int:
        return len(self.latents)

    def mask(self, rows: Sequence[int] | np.ndarray) -> None:
        """Every latent is real."""

    def batch(
        self,
        rows: Sequence[int] | np.ndarray,
        device: torch.device,
        generator: torch.Generator | None = None,
        part: Part = WHOLE,
    ) -> tuple[Tensor, dict[str, object]]:
        """Latents (B, N, d) of ``part`` of the blocks ``rows`` and the conditions of `LatentDiffusion.loss`.

        ``generator``: in training, of the context's noise; it is drawn for the whole batch, so that results do not
        depend on the number of its parts. None: no block is cut and no context is noised.
        """
        cut = generator is not None
        blocks = part.of(np.asarray(rows))
        latents = self.latents.take(blocks)
        if (mine := self._are_cut(blocks, cut)).any():
            latents[torch.from_numpy(mine)] = self.cut.tails.take(self._parts(blocks[mine]))
        return to_device(latents, device), self.conditions(rows, device, cut, generator, part)

    def conditions(
        self,
        rows: Sequence[int] | np.ndarray,
        device: torch.device,
        cut: bool,
        generator: torch.Generator | None = None,
        part: Part = WHOLE,
    ) -> dict[str, object]:
        """Those of `batch` alone; ``cut``: blocks are cut."""
        whole = np.asarray(rows)
        are_cut = self._are_cut(whole, cut)
        blocks, mine = part.of(whole), part.of(are_cut)
        seen, counts = self._seen(whole, are_cut)
        known = np.unique(seen)
        seen, counts = part.of(seen), part.of(counts)
        used, index = np.unique(seen[:, seen.shape[1] - max(1, counts.max()) :], return_inverse=True)
        share, noise = None, None
        if generator is not None:
            share = torch.rand(len(known), generator=generator) * self.most_noise
            noise = torch.randn(len(known), *self.latents.row_shape, generator=generator)
            places = torch.from_numpy(np.searchsorted(known, used))
            share, noise = share[places], noise[places]
        context = BlockContext(
            self._latents_of(used),
            torch.from_numpy(index.reshape(len(blocks), -1)),
            torch.from_numpy(counts),
            torch.from_numpy(blocks + mine - self.firsts[blocks] <= self.num_context),
            torch.from_numpy(mine),
            share,
            noise,
        )
        return {
            "blocks": context.map(lambda tensor: to_device(tensor, device)),
            "class_id": None if self.labels is None else to_device(self.labels[blocks], device),
        }

    def _are_cut(self, blocks: np.ndarray, cut: bool) -> np.ndarray:
        """Which blocks are cut in two, (B,) bool: none without ``cut``."""
        return np.isin(blocks, self.cut.blocks) & cut

    def _seen(self, blocks: np.ndarray, cut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The blocks before each (B, K), the last one last, and how many of them are real (B,).

        The head of block i has the number i + the number of blocks. Where there is none, stands the block itself.
        """
        places = blocks[:, None] + np.arange(-self.num_context, 0) + cut[:, None]
        real = places >= self.firsts[blocks][:, None]
        seen = np.where(real, places, blocks[:, None])
        seen[cut, -1] += len(self)
        return seen, real.sum(1)

    def _latents_of(self, seen: np.ndarray) -> Tensor:
        """Latents (C, N, d) of blocks and heads by ascending numbers of `_seen`."""
        whole = seen[seen < len(self)]
        heads = self._parts(seen[len(whole) :] - len(self))
        found = self.latents.take(whole)
        return torch.cat([found, self.cut.heads.take(heads)]) if len(heads) else found

    def _parts(self, blocks: np.ndarray) -> np.ndarray:
        """The places of blocks among those that are cut."""
        return np.searchsorted(self.cut.blocks, blocks)
