"""Work on a GPU as CUDA graphs: captured once, then replayed without Python or launches between.

`Capture` captures; `CapturedSteps` are a sampler's steps.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import torch
from torch import Tensor

Advance = Callable[..., tuple[Tensor, ...]]
"""(guided, step (), *state) -> the next state, tensors of the same shapes from the second step on."""


_capturing = threading.Lock()


@cache
def _stream(device: int) -> torch.cuda.Stream:
    """One for all captures of a GPU: cuBLAS keeps memory for each."""
    return torch.cuda.Stream(device)


class Capture:
    """Captures what a function launches, and gives what launches it again.

    All graphs of one `Capture` share their memory: what one leaves there, the replay of another overwrites. One thread
    captures at a time; what others do on the GPU meanwhile is no part of it.

    Args:
        often: freed memory, which a graph cannot have, is given back before the first capture alone: that takes long.
    """

    def __init__(self, often: bool = False) -> None:
        self.often = often
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        # As torch.cuda.graph does it, which has one stream for all GPUs, and no ``often``.
        with _capturing:
            graph, stream = torch.cuda.CUDAGraph(), _stream(torch.cuda.current_device())
            pool = None if self.graph is None else self.graph.pool()
            if not (self.often and pool):
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                graph.capture_begin(pool, capture_error_mode="thread_local")
                try:
                    run()
                except BaseException:
                    with suppress(RuntimeError):  # what went wrong is what has to be known
                        graph.capture_end()
                    raise
                graph.capture_end()
        self.graph = graph
        return graph.replay


class CapturedSteps:
    """Calls of ``advance``, whose state lives in buffers of its own once the first step is done.

    The first step of either kind, guided or not, runs as it is, which compiles its kernels; it is captured then.
    """

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.capture = Capture()
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
            if any(old.shape != new.shape for old, new in zip(state, after, strict=True)):
                # Kernels of these shapes have to be compiled and planned, too, before a capture.
                self.advance(guided, self.step, *self.state)
        self.replays[guided] = self.capture(lambda: self._store(self.advance(guided, self.step, *self.state)))
        return self.state

    def _store(self, after: tuple[Tensor, ...]) -> None:
        # In order: a tensor that is a later one's buffer is read before that is overwritten.
        for buffer, tensor in zip(self.state, after, strict=True):
            buffer.copy_(tensor)
