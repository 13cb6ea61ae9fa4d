"""Stands in for `ld4lg_fast.pipeline.continuous_batching` until it is there: one call of the pipeline at a time."""

import queue
import sys
from dataclasses import dataclass
from importlib.util import find_spec

import ld4lg_fast.pipeline
from ld4lg_fast.pipeline.presets import sampling_plan


class EngineFull(Exception):
    pass


@dataclass(frozen=True)
class SampleRequest:
    num_samples: int = 1
    seed: int = 0
    sample_ids: object = None
    quality: str = "draft"
    num_inference_steps: int | None = None
    sampler: str | None = None
    class_name: str | None = None
    source: str | None = None
    prompt: str | None = None
    max_new_tokens: int | None = None
    guidance_scale: float | None = None
    length: int | None = None
    decoding: object = None
    show_steps: tuple = ()
    start: object = None
    strength: float = 1.0


@dataclass(frozen=True)
class Partial:
    sample: int
    step: int
    text: str


@dataclass(frozen=True)
class Finished:
    sample: int
    text: str
    finish_reason: str


@dataclass(frozen=True)
class Failed:
    sentence: str


Event = Partial | Finished | Failed


@dataclass(frozen=True)
class EngineStats:
    running_rows: int
    waiting_rows: int
    steps: int
    texts: int
    seconds: float


class Cancelled(Exception):
    pass


@dataclass
class Ticket:
    request: SampleRequest
    send: object
    gone: bool = False

    def cancel(self):
        self.gone = True


class RequestEngine:
    def __init__(self, pipe, *, max_rows=64, max_waiting=1024, precision=None):
        self.pipe, self.max_waiting, self.precision = pipe, max_waiting, precision
        self.waiting, self.texts = queue.Queue(), 0

    def submit(self, request, callback):
        if self.waiting.qsize() >= self.max_waiting:
            raise EngineFull
        options = self.options(request)
        self.pipe.sample_batches(request.num_samples, sample_ids=request.sample_ids, **options)
        self.pipe.check_prompt(request.prompt, request.max_new_tokens, options)
        ticket = Ticket(request, callback)
        self.waiting.put(ticket)
        return ticket

    def options(self, request):
        lengths = None if request.length is None else [request.length] * request.num_samples
        names = (
            "seed",
            "quality",
            "num_inference_steps",
            "sampler",
            "class_name",
            "source",
            "guidance_scale",
        )
        return {name: getattr(request, name) for name in names} | {
            "lengths": lengths,
            "start": request.start,
            "strength": request.strength,
            "precision": self.precision,
        }

    def run(self):
        while (ticket := self.waiting.get()) is not None:
            request, pipe = ticket.request, self.pipe
            plan = sampling_plan(request.quality, request.sampler, request.num_inference_steps)

            def callback(step, rows, x_start, ticket=ticket, request=request, plan=plan, pipe=pipe):
                if ticket.gone:
                    raise Cancelled
                if step + 1 in request.show_steps and step + 1 < plan.num_steps:
                    texts = pipe.decode(pipe.model.unnormalize(x_start), request.decoding, seed=request.seed)
                    for row, text in zip(rows.tolist(), texts, strict=True):
                        ticket.send(Partial(row, step + 1, text))

            options = self.options(request)
            if request.prompt is not None or request.max_new_tokens is not None:
                options |= {"prompt": request.prompt, "max_new_tokens": request.max_new_tokens}
            try:
                output = pipe(
                    request.num_samples,
                    sample_ids=request.sample_ids,
                    decoding=request.decoding,
                    callback=callback,
                    **options,
                )
                self.texts += len(output.texts)
                for row, text in enumerate(output.texts):
                    ticket.send(Finished(row, text, "stop"))
            except Cancelled:
                pass
            except Exception as error:
                ticket.send(Failed(str(error)))

    def close(self, drain=True):
        self.waiting.put(None)

    def stats(self):
        return EngineStats(0, self.waiting.qsize(), 0, self.texts, 1.0)


if find_spec("ld4lg_fast.pipeline.continuous_batching") is None:
    ld4lg_fast.pipeline.continuous_batching = sys.modules[__name__]
    sys.modules["ld4lg_fast.pipeline.continuous_batching"] = sys.modules[__name__]
