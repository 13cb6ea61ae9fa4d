"""The exponential moving average of a model's parameters."""

import copy

import torch
from torch import nn


class Ema:
    """A second copy of ``model`` (``self.module``, in evaluation mode) that follows it.

    The decay rises with the step as ``1 - (1 + step)^-3/4`` up to ``max_decay`` (as in the official release).
    Buffers are copied once, when the average is made.
    """

    def __init__(self, model: nn.Module, max_decay: float = 0.9999) -> None:
        self.max_decay = max_decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self._average = list(self.module.parameters())
        self._current = list(model.parameters())

    def decay(self, step: int) -> float:
        return min(self.max_decay, 1 - (1 + step) ** -0.75)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the model after ``step`` (0, 1, …); after step 0 it is the model."""
        torch._foreach_lerp_(self._average, self._current, 1 - self.decay(step))
