"""A sampler's steps as CUDA graphs: captured once a batch, then replayed without Python or launches between."""

from collections.abc import Callable

import torch
from torch import Tensor

Advance = Callable[..., tuple[Tensor, ...]]
"""(guided, step (), *state) -> the next state, tensors of the same shapes from the second step on."""


def capture(run: Callable[[], None]) -> Callable[[], None]:
    """Captures what ``run`` launches, and gives what launches it again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


class CapturedSteps:
    """Calls of ``advance``, whose state lives in buffers of its own once the first step is done.

    The first step of either kind, guided or not, runs as it is, which compiles its kernels; it is captured then.
    """

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.replays: dict[bool, Callable[[], None]] = {}
        self.state: tuple[Tensor, ...] = ()
        self.step: Tensor | None = None

    def __call__(self, guided: bool, step: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The state after ``step``. What is returned is overwritten by the next call."""
        if self.step is None:
            # A row of a table lies at any address, and kernels are compiled anew for odd ones.
            self.step = step.clone()
        else:
            self.step.copy_(step)
        if guided in self.replays:
            self.replays[guided]()
            return self.state
        after = self.advance(guided, self.step, *state)
        if self.state:
            self._store(after)
        else:
            self.state = tuple(tensor.clone() for tensor in after)
        self.replays[guided] = capture(lambda: self._store(self.advance(guided, self.step, *self.state)))
        return self.state

    def _store(self, after: tuple[Tensor, ...]) -> None:
        # In order: a tensor that is a later one's buffer is read before that is overwritten.
        for buffer, tensor in zip(self.state, after, strict=True):
            buffer.copy_(tensor)
