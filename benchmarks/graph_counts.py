"""Counts captures and replays of CUDA graphs, and says where a call did not use its graph as it should."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class GraphCounts:
    """Graphs captured and replays started."""

    captures: int = 0
    replays: int = 0


@contextmanager
def counted_graphs() -> Iterator[GraphCounts]:
    """Counts every ``torch.cuda.CUDAGraph`` that is made within; its replays are counted for as long as it lives."""
    counts, plain = GraphCounts(), torch.cuda.CUDAGraph

    class Counted(plain):  # type: ignore[misc, valid-type]
        def capture_end(self) -> None:
            super().capture_end()
            counts.captures += 1

        def replay(self) -> None:
            counts.replays += 1
            super().replay()

    torch.cuda.CUDAGraph = Counted
    try:
        yield counts
    finally:
        torch.cuda.CUDAGraph = plain


class CountedCall:
    """A function of no arguments; ``last`` has the captures and replays of its latest call."""

    def __init__(self, function: Callable[[], Any], counts: GraphCounts) -> None:
        self.function, self.counts = function, counts
        self.last = GraphCounts()

    def __call__(self) -> Any:
        captures, replays = self.counts.captures, self.counts.replays
        result = self.function()
        self.last = GraphCounts(self.counts.captures - captures, self.counts.replays - replays)
        return result


def graph_fault(name: str, last: GraphCounts, most_captures: int, fewest_replays: int) -> str | None:
    """What is wrong with the graphs of a warm call, as a sentence; None where nothing is.

    Args:
        most_captures: a sampler captures one graph for each kind of step (guided, unguided) of a batch, a training step
            none once it is warm.
        fewest_replays: of all steps but those that are captured.
    """
    if last.replays < fewest_replays:
        return f"{name}: its graph was replayed {last.replays} times, not {fewest_replays}; it ran eagerly."
    if last.captures > most_captures:
        return f"{name}: {last.captures} graphs were captured in a warm call, where {most_captures} may be."
    return None
