"""The arguments of the operator in the order of its schema. Letters: B batch, N queries, M keys, H heads."""

from typing import NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """Arguments of ``ld4lg::short_attention``; the backward operator takes the gradient of the output first."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None = None
    q_gain: Tensor | None = None
    k_gain: Tensor | None = None

    def pairs(self) -> tuple[int, int, int, int]:
        """(B, H, N, M)."""
        batch, queries, width = self.q.shape
        return batch, width // 64, queries, self.k.shape[1]
