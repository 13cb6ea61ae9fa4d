"""`BucketGraphs`: a step of a batch of any size as CUDA graphs, one for each of a few sizes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.engine.batch_rows import Rows
from ld4lg_fast.engine.cuda_graphs import Capture


def buckets(capacity: int) -> list[int]:
    """The powers of two below ``capacity``, and ``capacity``."""
    return [2**n for n in range((capacity - 1).bit_length())] + [capacity]


class BucketGraphs:
    """Replays the graph of the smallest bucket that holds a batch; the rows that are left over are idle.

    All graphs read and write the first rows of the same buffers and share one memory pool. The largest is captured
    first, so that the others fit into the memory that it left in the pool.

    Args:
        evaluate: (rows, conditions) -> the rows after a step. conditions: rows -> what all their steps share.
        capacity: the most rows.
    """

    def __init__(
        self, evaluate: Callable[[Rows, Any], Rows], conditions: Callable[[Rows], Any], capacity: int
    ) -> None:
        self.evaluate, self.conditions, self.sizes = evaluate, conditions, buckets(capacity)
        self.buffers: Rows | None = None
        self.loaded: Rows | None = None
        self.captured: dict[int, tuple[Callable[[], None], Any]] = {}

    def capture(self, like: Rows) -> bool:
        """Captures all graphs for rows of the shapes of ``like``; False if the shapes of their conditions vary."""
        size = self.sizes[-1]
        self.buffers = like.map(lambda tensor: tensor.new_zeros(size, *tensor.shape[1:]))
        self._make_idle(0, size)
        capture, captured = Capture(), dict[int, tuple[Callable[[], None], Any]]()
        for size in reversed(self.sizes):
            rows = self._first(size)
            conditions = self.conditions(rows)
            if not conditions.has_fixed_shapes:
                return False
            self.evaluate(rows, conditions)  # compiles the kernels

            def step(rows: Rows = rows, conditions: Any = conditions) -> None:
                _overwrite(rows, self.evaluate(rows, conditions))

            captured[size] = capture(step), conditions
        self.captured = captured
        return True

    def __call__(self, rows: Rows) -> Rows:
        """The rows after a step; the next call overwrites them, unless it gets others."""
        size = next(size for size in self.sizes if size >= len(rows))
        replay, conditions = self.captured[size]
        if rows is not self.loaded:
            self.loaded = self._first(len(rows))
            _overwrite(self.loaded, rows)
            self._make_idle(len(rows), size)
            _overwrite(conditions, self.conditions(self._first(size)))
        replay()
        return self.loaded

    def _first(self, count: int) -> Rows:
        assert self.buffers is not None, "graphs have been captured"
        return self.buffers.map(lambda tensor: tensor[:count])

    def _make_idle(self, first: int, end: int) -> None:
        """Gives rows that no sample has values with which they stay at step 0 and stay finite in attention."""
        assert self.buffers is not None, "graphs have been captured"
        for name, tensor in self.buffers.tensors().items():
            tensor[first:end] = {"lengths": self.buffers.z.shape[1], "context_mask": True}.get(name, 0)


def _overwrite(old: Any, new: Any) -> None:
    """Copies the tensors of a dataclass, and those in its tuples, into those of another one in place."""
    for name, tensors in vars(old).items():
        for target, source in zip(_tensors(tensors), _tensors(getattr(new, name)), strict=True):
            if target is not source:
                target.copy_(source)


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, tuple):
        return list(value)
    return [value] if isinstance(value, torch.Tensor) else []
