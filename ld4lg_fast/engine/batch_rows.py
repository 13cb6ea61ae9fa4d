"""`Rows`: state and conditions of samples that are denoised together, as tensors with a row for each.

Letters: B samples, N latent positions, d latent width, M context length, G guides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

LATENTS = ("z", "x_prev", "x_start", "inputs")


@dataclass(frozen=True)
class Rows:
    """B samples.

    Args:
        z: (B, N, d) the state. x_start, x_prev: of the previous step and of that before it. inputs: of the network.
        step, last: (B,) int64, the next step and the last one, beyond which a sample does not go.
        first: (B,) int64, the place of its plan in the `PlanTable`. seed, sample_ids: (B,) int64.
        class_id, lengths: (B,) int64, or None. context, context_mask: (B, M, dim_context) and (B, M), or None.
        targets, weights: (B, G) float32 of G guides, or None.
    """

    z: Tensor
    x_prev: Tensor
    x_start: Tensor
    inputs: Tensor
    step: Tensor
    last: Tensor
    first: Tensor
    seed: Tensor
    sample_ids: Tensor
    class_id: Tensor | None = None
    lengths: Tensor | None = None
    context: Tensor | None = None
    context_mask: Tensor | None = None
    targets: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.step)

    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        return {field.name: t for field in fields(self) if (t := getattr(self, field.name)) is not None}

    def map(self, change: Callable[[Tensor], Tensor]) -> "Rows":
        """The same with ``change`` applied to every tensor."""
        return replace(self, **{name: change(tensor) for name, tensor in self.tensors().items()})

    def take(self, places: Tensor) -> "Rows":
        """The samples at ``places`` (B',)."""
        return self.map(lambda tensor: tensor.index_select(0, places))

    def trimmed(self) -> "Rows":
        """Without the positions and the columns of the context that no sample has."""
        changed: dict[str, Tensor] = {}
        if self.lengths is not None and (longest := int(self.lengths.max())) < self.z.shape[1]:
            changed |= {name: getattr(self, name)[:, :longest] for name in LATENTS}
        if self.context is not None and self.context_mask is not None:
            seen = self.context_mask.any(dim=0)
            if not seen.all():
                changed |= {"context": self.context[:, seen], "context_mask": self.context_mask[:, seen]}
        return replace(self, **changed)

    def padded(self, positions: int, columns: int) -> "Rows":
        """With ``positions`` latent positions and, if there is a context, ``columns`` columns of it."""
        changed = {name: _padded(getattr(self, name), positions) for name in LATENTS}
        if self.context is not None and self.context_mask is not None:
            changed["context"] = _padded(self.context, columns)
            changed["context_mask"] = F.pad(self.context_mask, (0, columns - self.columns))
        return replace(self, **changed)

    @property
    def columns(self) -> int:
        """M, 0 without a context."""
        return 0 if self.context is None else self.context.shape[1]


def _padded(x: Tensor, length: int) -> Tensor:
    return F.pad(x, (0, 0, 0, length - x.shape[1]))


def joined(parts: Sequence[Rows]) -> Rows:
    """All samples in one, padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    sizes = max(part.z.shape[1] for part in parts), max(part.columns for part in parts)
    padded = [part.padded(*sizes).tensors() for part in parts]
    return Rows(**{name: torch.cat([part[name] for part in padded]) for name in padded[0]})
