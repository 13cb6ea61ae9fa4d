"""The decoding loop over a batch: when to stop, which sentences to drop, and CUDA graphs of its steps.

Letters: S sentences, T = max_length tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ld4lg_fast.decoding.rules import Rules
from ld4lg_fast.decoding.search import Search, read_prefix
from ld4lg_fast.engine.cuda_graphs import Capture

GRAPH_SPAN = 32  # tokens; a graph attends to a multiple of it
CHECK_EVERY = 8  # steps between two checks, which synchronize with the GPU
# Share of finished sentences from which they are dropped: moving the others, and capturing their steps, costs time.
DROP_SHARE = {"cpu": 1 / 8, "cuda": 1 / 2}
# Beams, below which none are dropped: reading the weights dominates then, so fewer beams are not faster.
FEW_BEAMS = {"cpu": 1, "cuda": 512}


class GraphedSearch:
    """A search's steps as CUDA graphs: of each span the first step runs eagerly, which compiles its kernels, the second
    is captured, and it and later ones are replayed."""

    def __init__(self, search: Search, max_length: int) -> None:
        self.search, self.max_length, self.capture = search, max_length, Capture(often=True)
        self.forget()

    def forget(self) -> None:
        """Drops the graph, as the search has new tensors."""
        self.span = 0
        self.replay: Callable[[], object] | None = None

    def advance(self, length: int) -> None:
        span = min(-(-length // GRAPH_SPAN) * GRAPH_SPAN, self.max_length)
        if span != self.span:
            self.span, self.replay = span, None
            self.search.advance(span)
            return
        if self.replay is None:
            self.replay = self.capture(lambda: self.search.advance(span))
        self.replay()


def run(
    search: Search,
    rules: Rules,
    sentences: int,
    fill: int,
    prefix: Tensor | None = None,
    pause: Callable[[], object] | None = None,
) -> Tensor:
    """Decodes to the end: ids (S, length of the longest text), padded with ``fill``; calls ``pause`` after every
    `CHECK_EVERY` tokens."""
    device = rules.eos.device
    rows = torch.arange(sentences, device=device)
    ids = torch.full((sentences, rules.max_length), fill, device=device)
    steps = GraphedSearch(search, rules.max_length) if device.type == "cuda" else None
    first = 1
    if prefix is not None:
        read_prefix(search, prefix)
        first += prefix.shape[1]
    for length in range(first, rules.max_length):
        if steps is None:
            search.advance(length)
        else:
            steps.advance(length)
            if length % CHECK_EVERY:
                continue
        done = search.done()
        finished = int(done.sum())
        if finished == len(rows):
            break
        many = len(rows) * rules.num_beams >= FEW_BEAMS.get(device.type, 1)
        if many and finished >= DROP_SHARE.get(device.type, 1 / 2) * len(rows):
            ids[rows] = search.result()
            left = (~done).nonzero().squeeze(1)
            rows = rows[left]
            search.keep(left)
            if steps is not None:
                steps.forget()
        if pause is not None and length % CHECK_EVERY == 0:
            pause()
    ids[rows] = search.result()
    ends = rules.ends(ids[:, first:])
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + first + 1, rules.max_length)
    return ids[:, : lengths.max()]
