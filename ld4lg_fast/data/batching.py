"""Which examples make up which batch, and the tensors of one batch. Letters: B batch, T tokens.

An epoch is a pure function of (seed, epoch), so a run that is resumed at ``start_batch`` sees exactly the
batches that it would have seen without the interruption, and every rank knows all batches without talking.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.errors import ConfigError, DataError


class ShuffledBatches:
    """Batches of indices for one epoch, in random order; each example occurs exactly once.

    ``batch_size`` counts the examples of all ranks together; rank r gets every ``world_size``-th index of
    each batch. An incomplete batch is left out (``drop_last``) or comes last, where a rank may get nothing;
    which examples fall into it is random. Iterating starts at batch ``start_batch``; ``len()`` is the number
    of batches that it yields, ``num_batches`` that of the whole epoch.
    Raises ``ConfigError`` for sizes that cannot work, ``DataError`` where there is not one complete batch.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
    ):
        if batch_size < 1 or world_size < 1 or batch_size % world_size:
            raise ConfigError(
                f"a batch of {batch_size} examples cannot be dealt to {world_size} processes in equal parts: "
                f"choose a positive multiple of {world_size}"
            )
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is not one of {world_size} processes")
        if min(seed, epoch) < 0:
            raise ConfigError(f"seed {seed} and epoch {epoch} must not be negative")
        if num_examples < (batch_size if drop_last else 1):
            raise DataError(
                f"{num_examples} examples do not fill one batch of {batch_size}: "
                "use a smaller batch size or more texts"
            )
        self.num_examples, self.batch_size, self.drop_last = num_examples, batch_size, drop_last
        self.seed, self.epoch = seed, epoch
        self.rank, self.world_size = rank, world_size
        self.num_batches = num_examples // batch_size
        if not drop_last and num_examples % batch_size:
            self.num_batches += 1
        if not 0 <= start_batch <= self.num_batches:
            raise ConfigError(
                f"start_batch {start_batch} lies outside an epoch of {self.num_batches} batches"
            )
        self.start_batch = start_batch

    def __len__(self) -> int:
        return self.num_batches - self.start_batch

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.num_examples)
        full = self.num_examples - self.num_examples % self.batch_size
        batches = list(self._arrange(order[:full], rng))
        if not self.drop_last and full < self.num_examples:
            batches.append(order[full:])
        for batch in batches[self.start_batch :]:
            yield batch[self.rank :: self.world_size].tolist()

    def _arrange(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Cut a shuffled order of whole batches into rows, one a batch."""
        return order.reshape(-1, self.batch_size)


class LengthBucketedBatches(ShuffledBatches):
    """``ShuffledBatches`` whose batches hold texts of like length, so that little padding is computed.

    The shuffled examples are cut into pools of ``pool_batches`` batches, each pool is sorted by length and
    cut into batches, and the batches are shuffled: a batch is alike in length but otherwise random.
    """

    def __init__(
        self, lengths: Sequence[int] | np.ndarray, batch_size: int, *, pool_batches: int = 50, **kwargs: Any
    ) -> None:
        super().__init__(len(lengths), batch_size, **kwargs)
        if pool_batches < 1:
            raise ConfigError(f"pool_batches {pool_batches} must be positive")
        self.lengths, self.pool_batches = np.asarray(lengths), pool_batches

    def _arrange(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        pool = np.arange(len(order)) // (self.pool_batches * self.batch_size)
        by_length = order[np.lexsort((self.lengths[order], pool))]
        return rng.permutation(by_length.reshape(-1, self.batch_size))


def collate(
    ids: Sequence[Sequence[int]], pad_id: int, multiple_of: int = 8, max_len: int | None = None
) -> tuple[Tensor, Tensor]:
    """Pad token ids on the right: input_ids int64 (B, T) and attention_mask bool (B, T), True = keep.

    T is the longest row, rounded up to ``multiple_of`` (few distinct shapes) but not beyond ``max_len``.
    Raises ``DataError`` for an empty batch or a row longer than ``max_len``.
    """
    if not ids:
        raise DataError("a batch needs at least one text")
    lengths = np.fromiter(map(len, ids), dtype=np.int64)
    longest = max(1, int(lengths.max()))
    width = -(-longest // multiple_of) * multiple_of
    if max_len is not None:
        if longest > max_len:
            raise DataError(f"a text of {longest} tokens exceeds the limit of {max_len}: truncate it first")
        width = min(width, max_len)
    mask = np.arange(width) < lengths[:, None]
    input_ids = np.full(mask.shape, pad_id, dtype=np.int64)
    input_ids[mask] = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=int(lengths.sum()))
    return torch.from_numpy(input_ids), torch.from_numpy(mask)
