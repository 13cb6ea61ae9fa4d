"""Sequences of unlike length without their padding, as FlashAttention's varlen functions take them.

The real positions of a batch stand one after the other, so that no layer computes anything for padding. How many there
are is then part of all shapes: a CUDA graph of a sampler's steps serves one batch (it is captured once a batch anyway),
and a training step that all batches share as one graph (``train.cuda_graph=true``) cannot be packed.

Letters: B sequences, N positions of the padded batch, T real positions, H heads, C columns, G copies of the batch (2
under guidance, else 1).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ld4lg_fast.errors import ConfigError


@dataclass(frozen=True)
class Lengths:
    """Where sequences start, ``cu_seqlens`` (B+1,) int32, and how long the longest is."""

    cu_seqlens: Tensor
    longest: int

    @classmethod
    def equal(cls, batch: int, length: int, device: torch.device) -> "Lengths":
        """B sequences of one length."""
        return cls(torch.arange(batch + 1, dtype=torch.int32, device=device) * length, length)

    def twice(self) -> "Lengths":
        """These sequences and then the same again."""
        cu_seqlens = self.cu_seqlens
        return Lengths(torch.cat([cu_seqlens, cu_seqlens[1:] + cu_seqlens[-1]]), self.longest)


@dataclass(frozen=True)
class PackedSequences:
    """Places of the real positions of a padded batch (B, N), in the form of FlashAttention's varlen functions.

    Attributes:
        index: (T,) int64, places in the flattened batch. sample, position: (T,) int64, row and column of each.
        shape: (B, N).
    """

    index: Tensor
    sample: Tensor
    position: Tensor
    lengths: Lengths
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: Tensor) -> "PackedSequences":
        """From a mask (B, N), True = keep. The host waits for the lengths.

        Raises:
            ConfigError: while a CUDA graph is captured, which other lengths could not use.
        """
        if mask.is_cuda and torch.cuda.is_current_stream_capturing():
            raise ConfigError(
                "attn_implementation=flash_attn packs sequences of unlike length, which a CUDA graph of all batches "
                "cannot hold; set cuda_graph=false or attn_implementation=sdpa."
            )
        counts = mask.sum(dim=1, dtype=torch.int32)
        lengths = Lengths(F.pad(counts.cumsum(0, dtype=torch.int32), (1, 0)), int(counts.max()))
        index, width = mask.flatten().nonzero().squeeze(1), mask.shape[1]
        return cls(index, index // width, index % width, lengths, (mask.shape[0], width))

    def pack(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (1, T, D)."""
        return x.flatten(0, 1).index_select(0, self.index)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """(G, T, D), G batches of these lengths -> (G·B, N, D), zero at padding."""
        padded = x.new_zeros(x.shape[0], self.shape[0] * self.shape[1], x.shape[2])
        return padded.index_copy(1, self.index, x).unflatten(1, self.shape).flatten(0, 1)


@dataclass(frozen=True)
class Varlen:
    """Lengths of packed queries and keys.

    ``bias_columns`` (T, H, C) of the queries and of the keys: added to the scores is their product, see
    `relative_columns`.
    """

    queries: Lengths
    keys: Lengths
    bias_columns: tuple[Tensor, Tensor] | None = None

    def twice(self) -> "Varlen":
        """The same for a batch and its copy, as guidance has them."""
        columns = self.bias_columns
        if columns is not None:
            columns = torch.cat([columns[0]] * 2), torch.cat([columns[1]] * 2)
        return Varlen(self.queries.twice(), self.keys.twice(), columns)


def appended(first: Tensor, lengths: Lengths, count: int) -> tuple[Tensor, Lengths]:
    """Appends ``count`` keys to each packed sequence: the order (T + B·count,) of all the old followed by all the new.

    Args:
        first: (T,) the sequence that each old key belongs to.
    """
    batch = len(lengths.cu_seqlens) - 1
    new = torch.arange(batch, device=first.device).repeat_interleave(count)
    order = torch.cat([first, new]).argsort(stable=True)
    more = count * torch.arange(batch + 1, dtype=torch.int32, device=first.device)
    return order, Lengths(lengths.cu_seqlens + more, lengths.longest + count)


def relative_columns(bias: Tensor, packed: PackedSequences, width: int) -> tuple[Tensor, Tensor]:
    """A bias of positions (H, N, N) as columns (T, H, C) of queries and keys, whose product is added to the scores.

    A query has the bias of its position towards all others, a key has 1 in the column of its own: FlashAttention,
    which adds no bias, then computes ``[q, a]·[k, b]ᵀ = q·kᵀ + bias``. C is N, rounded up to a multiple of 8.
    """
    heads, length, _ = bias.shape
    columns = -(-length // 8) * 8
    rows = F.pad(bias * width**0.5, (0, columns - length)).transpose(0, 1)  # the scores are divided by √width
    own = F.one_hot(packed.position, columns).to(bias.dtype)
    return rows.index_select(0, packed.position), own[:, None].expand(-1, heads, -1)
