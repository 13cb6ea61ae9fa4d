"""Batches of text indices, and the tensors of one batch. Letters: B batch, T tokens.

An epoch is a pure function of (seed, epoch): a resumed run sees the same batches, and every process knows all of them.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.errors import ConfigError, DataError

POOL_BATCHES = 50


class Batches(Sequence[list[int]]):
    """Batches of indices, cut from the order of all of them when they are asked for.

    Args:
        order: indices, a whole number of batches. shuffled: the batches' numbers in ``order``; None: one by one.
    """

    def __init__(self, order: np.ndarray, batch_size: int, shuffled: np.ndarray | None = None) -> None:
        self._batches, self._shuffled = order.reshape(-1, batch_size), shuffled

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: Any) -> Any:
        return self._batches[number if self._shuffled is None else self._shuffled[number]].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def shuffled_batches(
    num_examples: int,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    lengths: np.ndarray | None = None,
    firsts: np.ndarray | None = None,
) -> Batches:
    """Indices of one epoch in batches of random order; the examples of an incomplete last batch are left out.

    With ``lengths`` (num_examples,), batches hold texts of similar length, for little padding: the shuffled examples
    are cut into pools of 50 batches, each pool is sorted by length and cut into batches, and the batches are shuffled.

    With ``firsts`` (num_examples,), for each example the number of the first one of its document, documents are
    shuffled, and their examples stay side by side.

    Raises:
        ConfigError: a batch size below 1, or a negative seed or epoch.
        DataError: fewer examples than one batch.
    """
    if batch_size < 1:
        raise ConfigError(f"a batch of {batch_size} examples is none: choose a positive batch size")
    if min(seed, epoch) < 0:
        raise ConfigError(f"seed {seed} and epoch {epoch} must not be negative")
    if num_examples < batch_size:
        raise DataError(
            f"{num_examples} examples do not fill one batch of {batch_size}: use a smaller batch size or more texts"
        )
    rng = np.random.default_rng((seed, epoch))
    if firsts is None:
        # int32 takes half of the memory, and is shuffled by the same random numbers; in place, as ``permutation`` does.
        order = np.arange(num_examples, dtype=np.int32 if num_examples < 2**31 else np.int64)
        rng.shuffle(order)
    else:
        order = _by_document(firsts, rng)
    order = order[: num_examples - num_examples % batch_size]
    if lengths is None:
        return Batches(order, batch_size)
    pool = POOL_BATCHES * batch_size
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part[:] = part[np.argsort(lengths[part], kind="stable")]
    return Batches(order, batch_size, rng.permutation(len(order) // batch_size))


def _by_document(firsts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    starts, sizes = np.unique(firsts, return_counts=True)
    shuffled = rng.permutation(len(starts))
    starts, sizes = starts[shuffled], sizes[shuffled]
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(len(firsts))


def collate(
    ids: Sequence[Sequence[int]], pad_id: int, multiple_of: int = 8, max_len: int | None = None
) -> tuple[Tensor, Tensor]:
    """Pads token ids on the right: input_ids int64 (B, T) and attention_mask bool (B, T), True = keep.

    T is the longest row, rounded up to ``multiple_of`` (for few distinct shapes), but at most ``max_len``.

    Raises:
        DataError: an empty batch, or a row longer than ``max_len``.
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
