"""The loop over a batch's tokens: when to stop, which sentences to drop, and on a GPU the captured steps.

Letters: S sentences, T = max_length tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ld4lg_fast.decoding.rules import Rules
from ld4lg_fast.decoding.search import Search, read_prefix
from ld4lg_fast.engine.cuda_graphs import Capture

GRAPH_SPAN = 32  # tokens: a graph attends to the cache in steps of so many
CHECK_EVERY = 8  # steps between two questions to a GPU whether it is done
# Sentences are dropped once this share of what is computed is finished: moving the others, and on a GPU
# capturing their steps, costs too.
DROP_SHARE = {"cpu": 1 / 8, "cuda": 1 / 2}
# Beams: of fewer a step moves mostly the weights, and takes about as long for half of them.
FEW_BEAMS = {"cpu": 1, "cuda": 512}


class CapturedSteps:
    """A search's steps on a GPU. Of each span the first step runs as it is, which prepares whatever its kernels
    need; the second is captured as a graph, and from then on replayed."""

    def __init__(self, search: Search, max_length: int) -> None:
        self.search, self.max_length, self.capture = search, max_length, Capture(often=True)
        self.forget()

    def forget(self) -> None:
        """After the search has got new tensors."""
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


def run(search: Search, rules: Rules, sentences: int, fill: int, prefix: Tensor | None = None) -> Tensor:
    """Decodes to the end: ids (S, length), as long as the longest text and filled up behind the others' ends."""
    device = rules.eos.device
    rows = torch.arange(sentences, device=device)
    ids = torch.full((sentences, rules.max_length), fill, device=device)
    steps = CapturedSteps(search, rules.max_length) if device.type == "cuda" else None
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
    ids[rows] = search.result()
    ends = rules.ends(ids[:, first:])
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + first + 1, rules.max_length)
    return ids[:, : lengths.max()]
