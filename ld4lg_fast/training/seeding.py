"""Random numbers and batches of a step as functions of (seed, stage, step), so that resuming needs no state."""

import hashlib
from functools import partial
from typing import Any

import torch

from ld4lg_fast.data import shuffled_batches


def step_seed(seed: int, stage: str, step: int | str) -> int:
    """A 63-bit seed for each (seed, stage, step)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()[:8], "little") >> 1


def step_generator(seed: int, stage: str, step: int | str) -> torch.Generator:
    """A CPU generator, so that samples are the same on every device."""
    return torch.Generator().manual_seed(step_seed(seed, stage, step))


class StepBatches:
    """``batches[step]``: indices of the global batch of ``step``.

    Args:
        grouping: ``lengths`` or ``firsts`` of the examples; see `shuffled_batches`.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int, **grouping: Any) -> None:
        self._epoch = partial(shuffled_batches, num_examples, batch_size, seed=seed, **grouping)
        self._number, self._batches = 0, self._epoch(epoch=0)

    def __getitem__(self, step: int) -> list[int]:
        number, index = divmod(step, len(self._batches))
        if number != self._number:
            self._number, self._batches = number, self._epoch(epoch=number)
        return self._batches[index]
