"""The arguments of the operator in the order of its schema. Letters: B batch, N queries, M keys, H heads."""

from typing import NamedTuple

import torch
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

    def gradients(self) -> list[Tensor | None]:
        """Uninitialized gradients of q, k, v, the scores (None without a bias), q_gain and k_gain (None without)."""

        def room(argument: Tensor | None, *shape: int) -> Tensor | None:
            return None if argument is None else self.q.new_empty(shape, dtype=torch.float32)

        batch, heads, *_ = pairs = self.pairs()
        gains = [room(gain, batch, heads, 64) for gain in (self.q_gain, self.k_gain)]
        of_inputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in self[:3]]
        return [*of_inputs, room(self.bias, *pairs), *gains]
