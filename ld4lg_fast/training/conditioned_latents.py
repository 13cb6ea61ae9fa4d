"""Latents of texts together with the conditioning of the denoiser.

Letters: B texts, N latents, d latent width, M context length, W language model width, T tokens of all
sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.training.shards import Rows

WIDTH_STEP = 8  # context lengths are rounded up to a multiple of it, for few distinct shapes


@dataclass(frozen=True)
class SourceStates:
    """Encoder states of source texts, concatenated without padding.

    ``states`` (T, W); text i has the rows ``offsets[i] : offsets[i + 1]``.
    """

    states: Rows
    offsets: np.ndarray

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Context (B, M, W) float32, zero-padded, and its mask (B, M) for the texts ``rows``."""
        parts = [self.states.span(self.offsets[i], self.offsets[i + 1]) for i in rows]
        lengths = torch.tensor([len(part) for part in parts])
        width = -(-int(lengths.max()) // WIDTH_STEP) * WIDTH_STEP
        mask = torch.arange(width) < lengths[:, None]
        context = torch.zeros(*mask.shape, *self.states.row_shape)
        context[mask] = torch.cat(parts).float()
        return context, mask


@dataclass(frozen=True)
class ConditionedLatents:
    """Latents (B, N, d) and the texts' conditioning.

    ``lengths`` (B,): number of unpadded positions of each text in recipe v1; None: all N. ``labels`` (B,) long or None.
    """

    latents: Rows
    lengths: np.ndarray | None = None
    labels: Tensor | None = None
    sources: SourceStates | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def mask(self, rows: Sequence[int] | np.ndarray) -> Tensor | None:
        """(rows, N), True = keep; None without padding."""
        if self.lengths is None:
            return None
        return torch.from_numpy(np.arange(self.latents.row_shape[0]) < self.lengths[rows][:, None])

    def batch(self, rows: Sequence[int], device: torch.device) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Latents (len(rows), N, d) float32 and the conditions of `LatentDiffusion.loss`, on ``device``."""
        latents = self.latents.take(rows)
        context, context_mask = (None, None) if self.sources is None else self.sources.batch(rows)
        conditions = {
            "mask": self.mask(rows),
            "class_id": None if self.labels is None else self.labels[rows],
            "context": context,
            "context_mask": context_mask,
        }
        return to_device(latents, device), {name: to_device(t, device) for name, t in conditions.items()}


Given = TypeVar("Given", Tensor, Tensor | None)


def to_device(tensor: Given, device: torch.device) -> Given:
    """Copies to the device without waiting for it, through pinned memory."""
    if tensor is None or device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def classes_of(labels: Sequence[int] | None, count: int, model: LatentDiffusion) -> Tensor | None:
    """The classes (count,) long of the first texts; None for a model without classes."""
    if labels is None or not model.denoiser.config.num_classes:
        return None
    return torch.from_numpy(np.asarray(labels[:count], dtype=np.int64))
