"""`RequestEngine`: requests that arrive at any time share the batches of one model.

A sample enters the running batch between two steps, leaves it after its last one, and its latents are decoded together
with those of others. Its text is that of a `TextDiffusionPipeline` called with the same options, whatever else runs.

>>> engine = RequestEngine(pipe)
>>> threading.Thread(target=engine.run).start()
>>> for event in engine.submit(SampleRequest(num_samples=2, seed=7)).events():
...     print(event)
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.engine.engine import CUDA_BATCH, halved
from ld4lg_fast.engine.running_batch import RunningSamples
from ld4lg_fast.errors import ConfigError, LD4LGError
from ld4lg_fast.export.runtime.events import Event, Failed, Finished, Partial
from ld4lg_fast.export.runtime.option_checks import WholeNumber
from ld4lg_fast.options.checks import check, check_options
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.requests import (
    Accepted,
    Sample,
    SampleRequest,
    Ticket,
    accepted,
    learned_guides,
)
from ld4lg_fast.pipeline.sources import encode_sources
from ld4lg_fast.pipeline.text_decoding import DecodeQueue, sentence_of

__all__ = [
    "EngineClosed",
    "EngineFull",
    "EngineStats",
    "Event",
    "Failed",
    "Finished",
    "Partial",
    "RequestEngine",
    "SampleRequest",
    "Ticket",
]


# Samples that may be express, by those that are not, and the steps of theirs for each step of all. Only on a CPU, where
# a step of a few samples takes a fraction of the time of a step of many; a GPU is not filled by either.
EXPRESS_SHARE, EXPRESS_STEPS = 1 / 8, 3


class EngineFull(LD4LGError):
    """As many samples wait as may; the request can be made again later."""


class EngineClosed(LD4LGError):
    """The engine takes no more requests."""


@dataclass(frozen=True)
class EngineStats:
    """Samples that are denoised and that wait to be; steps (those of express samples alone are not counted), finished
    texts and seconds of work since the beginning."""

    running_rows: int
    waiting_rows: int
    steps: int
    texts: int
    seconds: float


class RequestEngine:
    """Answers requests in a loop, `run`, in a thread of its own; the other methods may be called from any thread.

    On a CPU a few samples whose request shows texts as they form are *express*, if many others run when they enter: for
    each step of all they make `EXPRESS_STEPS` more, and their texts wait for no others'.

    Args:
        pipe: with the guides that requests may ask for; one that it learns later is not known to the engine.
        max_rows: the most samples that are denoised together. max_waiting: the most that wait to be.
        precision: of the denoiser's matmuls, one of `precision.PRECISIONS`; None is that of its weights.

    Raises:
        ConfigError: an option out of range, or a precision that this device does not support.
    """

    def __init__(
        self,
        pipe: TextDiffusionPipeline,
        *,
        max_rows: int = 64,
        max_waiting: int = 1024,
        precision: str | None = None,
    ) -> None:
        check("max_rows", max_rows, WholeNumber(1, CUDA_BATCH))
        check("max_waiting", max_waiting, WholeNumber())
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self.pipe, model = pipe, pipe.model
        has_context = model.is_seq2seq or model.writes_documents
        self.running: RunningSamples[Sample] = RunningSamples(
            model,
            capacity=max_rows,
            precision=precision,
            project=has_context
            and model.diffusion.l2_normalized,  # as `TextDiffusionPipeline.sample_batches`
            guides=[pipe.text_guides[name].guide for name in learned_guides(pipe)],
        )
        self._guides = tuple(learned_guides(pipe))
        self.decoder = DecodeQueue(pipe)
        self._changed = threading.Condition()
        self._requests: deque[Accepted] = deque()
        self._next: deque[Sample] = deque()  # enter before those of requests
        self._closing, self._drain = False, True
        self._steps, self._express_steps, self._seconds = 0, 0, 0.0

    def submit(self, request: SampleRequest, callback: Callable[[Event], None] | None = None) -> Ticket:
        """Checks a request and queues its samples; ``callback``: see `Ticket`.

        Raises:
            ConfigError: options that `TextDiffusionPipeline` refuses, too, or more samples than may wait.
            EngineFull: too many samples wait. EngineClosed: after `close`.
        """
        self._check_open(1)
        (count,) = check_options(num_samples=request.num_samples)
        if count > self.max_waiting:
            raise ConfigError(f"num_samples is {count}; a request may have at most {self.max_waiting} here.")
        new = accepted(self.pipe, request, callback)
        first = new.samples[0]
        self.running.of(first.plan, bool(first.guides)).table.check(first.plan)
        with self._changed:
            self._check_open(count)
            self._requests.append(new)
            self._changed.notify()
        return new.ticket

    def _check_open(self, count: int) -> None:
        if self._closing:
            raise EngineClosed("The engine is being closed and takes no more requests; ask another one.")
        if (waiting := self._waiting()) + count > self.max_waiting:
            raise EngineFull(
                f"{waiting} samples wait already, of at most {self.max_waiting}; ask again in a moment."
            )

    def _waiting(self) -> int:
        with self._changed:
            return len(self._next) + sum(len(request.samples) for request in self._requests)

    def stats(self) -> EngineStats:
        """Present load and totals."""
        texts = self.decoder.num_finished
        return EngineStats(len(self.running), self._waiting(), self._steps, texts, self._seconds)

    def close(self, drain: bool = True) -> None:
        """Takes no more requests and lets `run` return: after all that were accepted have their texts, or without
        ``drain``, at once, and they get a `Failed`."""
        with self._changed:
            self._closing, self._drain = True, drain
            self._changed.notify()

    def run(self) -> None:
        """Works until `close`."""
        while self._has_work():
            begun = time.perf_counter()
            self._work(self._pause)
            self._seconds += time.perf_counter() - begun
        if not self._drain:
            closed = EngineClosed("The engine was closed before the request was finished; make it again.")
            queued = [sample for request in self._requests for sample in request.samples]
            self._fail([*self.running.keys, *self._next, *self.decoder.samples(), *queued], closed)
            self._requests.clear()

    def _work(self, pause: Callable[[], None] | None) -> int:
        """A step, and the texts that are due; ``pause``: see `DecodeQueue.decode`. Returns how many samples made it."""
        advanced = 0
        try:
            self._drop_closed()
            self._enter()
            advanced = self._advance()
            while self.decoder.is_due(self._steps, self.running.ending):
                going_on = self.decoder.decode(pause)
                self._next.extendleft(reversed(going_on))
        except Exception as error:
            # Whatever it was may be in the state of every sample, and the requests that wait have none yet.
            self._fail([*self.running.keys, *self._next, *self.decoder.samples()], error)
        return advanced

    def _pause(self) -> None:
        """Between the tokens of a large batch of texts: steps of as many samples in all as it has texts, and at least
        one step, so that neither waits for the other."""
        texts = len(self.decoder.interrupted)
        while self._drain or not self._closing:
            texts -= self._work(None)
            if not 0 < len(self.running) <= texts:
                break

    def _has_work(self) -> bool:
        """Waits for a request; False if the loop has to end."""
        with self._changed:
            while not (self._requests or self._next or len(self.running) or len(self.decoder)):
                if self._closing:
                    return False
                self._changed.wait()
            return self._drain or not self._closing

    def _drop_closed(self) -> None:
        """Removes the samples of requests that were given up or have failed."""
        self.running.leave({sample for sample in self.running.keys if sample.ticket.closed})
        self._next = deque(sample for sample in self._next if not sample.ticket.closed)
        with self._changed:
            self._requests = deque(each for each in self._requests if not each.ticket.closed)

    def _enter(self) -> None:
        """Fills the running batch."""
        groups: dict[Any, list[Sample]] = {}
        for sample in self._chosen(self.max_rows - len(self.running)):
            groups.setdefault((sample.ticket, sample.block, sample.class_id), []).append(sample)
        left = deque(groups.values())
        while left and self._enter_together(left[0]):
            left.popleft()
        # Those whose plan has no room, and all behind them, else plans that are in use would keep it out.
        self._next.extendleft(reversed([sample for group in left for sample in group]))

    def _chosen(self, room: int) -> list[Sample]:
        """The next samples to enter: a document's next block, else one of each request in turn."""
        chosen = [self._next.popleft() for _ in range(min(room, len(self._next)))]
        with self._changed:
            while self._requests and len(chosen) < room:
                request = self._requests.popleft()
                chosen.append(request.samples.pop(0))
                if request.samples:
                    self._requests.append(request)
        return chosen

    @torch.no_grad()
    def _enter_together(self, samples: list[Sample]) -> bool:
        """Adds samples of one request, block and class to the running batch; False if it has no room for their plan."""
        first, model, device = samples[0], self.pipe.model, self.pipe.device
        express = self._are_express(samples)
        batch, given = self.running.of(first.plan, bool(first.guides), express), dict[str, Any]()
        try:
            if not batch.make_room(first.plan, first.class_id):
                return False
            if first.length is not None:
                given["lengths"] = torch.tensor([sample.length for sample in samples], device=device)
            if first.start is not None:
                start = torch.stack([sample.start for sample in samples if sample.start is not None])
                given["start"] = model.normalize(start.to(device, torch.float32))
            if first.guides:
                rows = [[sample.guides.get(name, (0.0, 0.0)) for name in self._guides] for sample in samples]
                given["targets"], given["weights"] = torch.tensor(rows, device=device).unbind(2)
            given["context"], given["context_mask"] = self._context(samples)
            batch.enter(
                samples,
                first.plan,
                seed=first.block_seed,
                sample_ids=torch.tensor([sample.sample_id for sample in samples], device=device),
                class_id=first.class_id,
                **given,
            )
            for sample in samples:
                sample.express = express
        except Exception as error:
            self._fail(samples, error)
        return True

    def _are_express(self, samples: list[Sample]) -> bool:
        """Whether they are few beside those that run, and shown as they form."""
        if self.pipe.device.type != "cpu" or not samples[0].show_steps:
            return False
        express = self.running.num_express
        return express + len(samples) <= EXPRESS_SHARE * (len(self.running) - express)

    def _context(self, samples: list[Sample]) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """What the denoiser attends to: source texts, or the blocks before of documents; and its mask."""
        pipe, model = self.pipe, self.pipe.model
        texts = [sample.source for sample in samples if sample.source is not None]
        if texts:
            return encode_sources(pipe.autoencoder, texts, model.source_max_len, pipe.device)
        documents = [sample.document for sample in samples if sample.document is not None]
        if documents and (coder := samples[0].coder) is not None:
            return model.encode_blocks(coder.context(documents, model.recipe["context_blocks"]))
        return None, None

    def _advance(self) -> int:
        """One step of all samples, or only of the express ones; returns how many made it. The finished ones go to the
        decoder, and those whose texts are to be shown."""
        if not (running := self.running.keys):
            return 0
        express_only = 0 < self.running.num_express < len(running) and self._express_steps < EXPRESS_STEPS
        try:
            samples = self.running.advance(express_only)
        except RuntimeError as error:
            self.max_rows = halved(len(running), self.pipe.device, error)
            self._start_anew(running)
            return 0
        self._express_steps = self._express_steps + 1 if express_only else 0
        self._steps += not express_only
        for sample in samples:
            sample.steps += 1
        shown = {
            sample
            for sample in samples
            if sample.steps in sample.show_steps and sample.steps < sample.plan.num_steps
        }
        self.decoder.add(self.running.predicted(shown), shown=True, steps=self._steps)
        self.decoder.add(self.running.take_finished(), shown=False, steps=self._steps)
        return len(samples)

    def _start_anew(self, samples: list[Sample]) -> None:
        """Lets samples that do not fit the memory enter again; as their noise is their own, they become the same."""
        self.running.leave(samples)
        for sample in samples:
            sample.steps = 0
        self._next.extendleft(reversed(samples))

    def _fail(self, samples: Collection[Sample], error: Exception) -> None:
        """Ends the requests of these samples, which `_drop_closed` removes."""
        sentence = sentence_of(error, self.pipe.device)
        for ticket in {sample.ticket for sample in samples}:
            ticket.send(Failed(sentence))
