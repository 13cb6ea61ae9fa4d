"""Exponential moving average (EMA) of a model's parameters."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ld4lg_fast.training.sharding import local, sharded_like, whole

Model = TypeVar("Model", bound=nn.Module, covariant=True)


class Ema(Generic[Model]):
    """EMA of ``model``'s parameters in ``self.module``, a copy in evaluation mode.

    The decay rises with the step as ``1 - (1 + step)^-3/4`` up to ``max_decay`` (as in the official release); after
    step 0 the EMA equals the model. Buffers are copied once, at construction.
    """

    def __init__(self, model: Model, max_decay: float = 0.9999) -> None:
        self.max_decay = max_decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.follow(model)

    def follow(self, model: nn.Module) -> None:
        """Tracks ``model`` from now on, sharded as it is; `gather` then fills ``module``."""
        self._current = list(model.parameters())
        pairs = zip(self.module.parameters(), self._current, strict=True)
        self._ema = [sharded_like(own, current) for own, current in pairs]

    def decay(self, step: int) -> float:
        return min(self.max_decay, 1 - (1 + step) ** -0.75)

    @torch.no_grad()
    def update(self, share: float | Tensor) -> None:
        """Moves the EMA towards the model by ``share`` = 1 - `decay`; a tensor () is read on its device."""
        emas, currents = list(map(local, self._ema)), list(map(local, self._current))
        if isinstance(share, Tensor):
            for ema, current in zip(emas, currents, strict=True):
                ema.lerp_(current, share)
        else:
            torch._foreach_lerp_(emas, currents, share)

    @torch.no_grad()
    def gather(self) -> None:
        """Copies a sharded EMA into ``module``; call in all processes."""
        for own, ema in zip(self.module.parameters(), self._ema, strict=True):
            if own is not ema:
                own.copy_(whole(ema))
