"""Latents of texts together with everything that the denoiser is told about them.

Letters: B texts, N latents, d latent width, M context length, W language model width, T tokens of all
sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WIDTH_STEP = 8  # context lengths are rounded up to it, so that there are few distinct shapes


@dataclass(frozen=True)
class SourceStates:
    """Encoder states of source texts without padding, one text after the other, perhaps memory-mapped.

    ``states`` (T, W), any float dtype; text i has the rows ``offsets[i] : offsets[i + 1]``.
    """

    states: np.ndarray
    offsets: np.ndarray

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Context (B, M, W) float32, zero where padded, and its mask (B, M) of the texts in ``rows``."""
        parts = [self.states[self.offsets[i] : self.offsets[i + 1]] for i in rows]
        lengths = np.array([len(part) for part in parts])
        width = -(-int(lengths.max()) // WIDTH_STEP) * WIDTH_STEP
        mask = np.arange(width) < lengths[:, None]
        context = np.zeros((*mask.shape, self.states.shape[1]), np.float32)
        context[mask] = np.concatenate(parts)
        return torch.from_numpy(context), torch.from_numpy(mask)


@dataclass(frozen=True)
class ConditionedLatents:
    """Latents (B, N, d), any float dtype, perhaps memory-mapped, and the texts' conditions.

    ``lengths`` (B,): real positions of each text in recipe v1; None: all N. ``labels`` (B,) long or None.
    """

    latents: np.ndarray
    lengths: np.ndarray | None = None
    labels: Tensor | None = None
    sources: SourceStates | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def mask(self, rows: Sequence[int] | slice) -> Tensor | None:
        """(rows, N), True = keep, or None where all positions are real."""
        if self.lengths is None:
            return None
        return torch.from_numpy(np.arange(self.latents.shape[1]) < self.lengths[rows][:, None])

    def batch(self, rows: Sequence[int], device: torch.device) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Latents (len(rows), N, d) float32 and the conditions of `LatentDiffusion.loss`, on ``device``."""
        latents = torch.from_numpy(self.latents[rows]).float()
        context, context_mask = (None, None) if self.sources is None else self.sources.batch(rows)
        conditions = {
            "mask": self.mask(rows),
            "class_id": None if self.labels is None else self.labels[rows],
            "context": context,
            "context_mask": context_mask,
        }
        moved = {
            name: None if tensor is None else tensor.to(device, non_blocking=True)
            for name, tensor in conditions.items()
        }
        return latents.to(device, non_blocking=True), moved
