"""Key-value cache of the texts that are being decoded, written in place and never reordered.

Every position has one slot for each beam, and an index says in which slots the past of a beam is: choosing beams
changes the index and moves no key. The beams of a sentence share the keys and values of the encoder's states.

Letters: S sentences, W beams, T positions, N encoder states, H heads, K head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class KeyValueCache:
    """Keys and values of a batch.

    Attributes:
        keys, values: of each layer (S, H, T, W, K).
        chosen: (S, W, T) int64, the slot of each position that belongs to a beam's past, or -1; None for a single beam
            on a CPU, to whose past the whole cache belongs.
        cross_keys, cross_values: of each layer (S, H, N, 1, K); none of a decoder-only model.
        cross_bias: (S, 1, N), added to the cross-attention's scores, or None.
    """

    keys: list[Tensor]
    values: list[Tensor]
    chosen: Tensor | None
    cross_keys: list[Tensor]
    cross_values: list[Tensor]
    cross_bias: Tensor | None

    def choose_beams(self, parents: Tensor) -> None:
        """Beam w of each sentence goes on from beam ``parents[:, w]`` (S, W)."""
        if self.chosen is not None:
            self.chosen.copy_(self.chosen.gather(1, parents[:, :, None].expand_as(self.chosen)))

    def keep(self, sentences: Tensor) -> None:
        """Drops all sentences but those."""
        for tensors in (self.keys, self.values, self.cross_keys, self.cross_values):
            tensors[:] = [tensor.index_select(0, sentences) for tensor in tensors]
        if self.cross_bias is not None:
            self.cross_bias = self.cross_bias.index_select(0, sentences)
        if self.chosen is not None:
            self.chosen = self.chosen.index_select(0, sentences)

    def write(self, layer: int, position: Tensor, key: Tensor, value: Tensor) -> None:
        """Stores a layer's key and value (S, W, H, K) of a position (1,)."""
        self.keys[layer].index_copy_(2, position, key.transpose(1, 2).unsqueeze(2))
        self.values[layer].index_copy_(2, position, value.transpose(1, 2).unsqueeze(2))

    def enter(self, position: Tensor) -> None:
        """Adds each beam's own slot of ``position`` (1,) to its past."""
        if self.chosen is not None:
            own = torch.arange(self.chosen.shape[1], device=self.chosen.device)
            self.chosen.index_copy_(2, position, own[None, :, None].expand_as(self.chosen[:, :, :1]))

    def past_bias(self, span: int) -> Tensor | None:
        """(S, 1, W, span, W): 0 for each position's slot that belongs to a beam's past, -inf for others; or None."""
        if self.chosen is None:
            return None
        slots = torch.arange(self.chosen.shape[1], device=self.chosen.device)
        own = self.chosen[:, None, :, :span, None] == slots
        past = torch.zeros(own.shape, device=own.device, dtype=self.keys[0].dtype)
        return past.masked_fill_(~own, float("-inf"))


def empty_past(like: Tensor, num_beams: int, max_length: int) -> Tensor | None:
    """`KeyValueCache.chosen` of texts of ``max_length`` positions, none of which is written, for ``like`` (S, …)."""
    if num_beams == 1 and not like.is_cuda:
        return None
    return torch.full((len(like), num_beams, max_length), -1, device=like.device)


def bias_of_mask(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """`KeyValueCache.cross_bias` of a mask (S, N), True = keep, in the dtype of ``like``."""
    if mask is None:
        return None
    bias = like.new_zeros(mask.shape).masked_fill(~mask.bool(), torch.finfo(like.dtype).min)
    return bias[:, None]
