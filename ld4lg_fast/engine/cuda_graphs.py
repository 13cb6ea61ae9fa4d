"""CUDA graphs: `Capture` captures what a function launches, `GraphedSteps` runs a sampler's steps as graphs."""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import torch
from torch import Tensor

Advance = Callable[..., tuple[Tensor, ...]]
"""(guided, step (), *state) -> the next state; its shapes are constant from the second step on."""

_capturing = threading.Lock()


@cache
def _stream(device: int) -> torch.cuda.Stream:
    """One stream for all captures of a GPU, as cuBLAS allocates a workspace for each stream."""
    return torch.cuda.Stream(device)


class Capture:
    """Captures the kernels that a function launches as a CUDA graph and returns a function that replays it.

    All graphs of one `Capture` share a memory pool, so a replay overwrites what another graph left there. One thread
    captures at a time; work of other threads is not captured.

    Args:
        often: empties the allocator's cache only before the first capture, as that is slow; a graph cannot use cached
            memory.
    """

    def __init__(self, often: bool = False) -> None:
        self.often = often
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        # Not torch.cuda.graph, which has one stream for all GPUs and empties the cache for every capture.
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
                    with suppress(RuntimeError):  # the first error is the one to report
                        graph.capture_end()
                    raise
                graph.capture_end()
        self.graph = graph
        return graph.replay


class GraphedSteps:
    """A sampler's steps as CUDA graphs; their state is kept in static buffers after the first step.

    The first guided and the first unguided step run eagerly, which compiles their kernels, and are then captured.
    """

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.capture = Capture()
        self.replays: dict[bool, Callable[[], None]] = {}
        self.state: tuple[Tensor, ...] = ()
        self.step: Tensor | None = None

    def __call__(self, guided: bool, step: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The state after ``step``; the next call overwrites it."""
        if self.step is None:
            # A copy, as kernels are recompiled for addresses that are not aligned.
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
                # Kernels for these shapes must be compiled before a capture, too.
                self.advance(guided, self.step, *self.state)
        self.replays[guided] = self.capture(lambda: self._store(self.advance(guided, self.step, *self.state)))
        return self.state

    def _store(self, after: tuple[Tensor, ...]) -> None:
        # In order: a tensor may be the buffer of a later one, which is read before it is overwritten.
        for buffer, tensor in zip(self.state, after, strict=True):
            buffer.copy_(tensor)
