"""Every step's randomness and batch as a function of (seed, stage, step) alone, so that resuming needs no state."""

import hashlib
from collections.abc import Callable

import torch

from ld4lg_fast.data import ShuffledBatches


def step_seed(seed: int, stage: str, step: int | str) -> int:
    """A 63-bit seed of its own for each (seed, stage, step)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()[:8], "little") >> 1


def step_generator(seed: int, stage: str, step: int | str) -> torch.Generator:
    """A CPU generator, so that draws are the same on every device."""
    return torch.Generator().manual_seed(step_seed(seed, stage, step))


class StepBatches:
    """``batches[step]``: the indices of the batch that all processes together train on in ``step``.

    Args:
        epoch: epoch number -> its batches.
    """

    def __init__(self, epoch: Callable[[int], ShuffledBatches]) -> None:
        self._epoch = epoch
        self._number, self._batches = 0, list(epoch(0))

    def __getitem__(self, step: int) -> list[int]:
        number, index = divmod(step, len(self._batches))
        if number != self._number:
            self._number, self._batches = number, list(self._epoch(number))
        return self._batches[index]
