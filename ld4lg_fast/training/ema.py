"""The exponential moving average of a model's parameters."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ld4lg_fast.training.sharding import local, sharded_like, whole

Model = TypeVar("Model", bound=nn.Module, covariant=True)


class Ema(Generic[Model]):
    """A second copy of ``model`` (``self.module``, in evaluation mode) that follows it.

    The decay rises with the step as ``1 - (1 + step)^-3/4`` up to ``max_decay`` (as in the official release); after
    step 0 the average is the model.
    Buffers are copied once, when the average is made.
    """

    def __init__(self, model: Model, max_decay: float = 0.9999) -> None:
        self.max_decay = max_decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.follow(model)

    def follow(self, model: nn.Module) -> None:
        """Averages ``model`` from now on, cut into pieces as it is; `gather` then fills ``module``."""
        self._current = list(model.parameters())
        pairs = zip(self.module.parameters(), self._current, strict=True)
        self._average = [sharded_like(own, current) for own, current in pairs]

    def decay(self, step: int) -> float:
        return min(self.max_decay, 1 - (1 + step) ** -0.75)

    @torch.no_grad()
    def update(self, share: float | Tensor) -> None:
        """Moves the average towards the model by ``share``, 1 - `decay`; a tensor () is read on its device."""
        averages, currents = list(map(local, self._average)), list(map(local, self._current))
        if isinstance(share, Tensor):
            for average, current in zip(averages, currents, strict=True):
                average.lerp_(current, share)
        else:
            torch._foreach_lerp_(averages, currents, share)

    @torch.no_grad()
    def gather(self) -> None:
        """Brings ``module`` up to date where the average is in pieces; call in all processes."""
        for own, average in zip(self.module.parameters(), self._average, strict=True):
            if own is not average:
                own.copy_(whole(average))
