"""Requests of an engine that takes them at any time: what is asked for, how its events are received, and its checks.

Letters: N latent positions, d latent width.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.engine.engine import check_start, checked_plan, sample_id_tensor
from ld4lg_fast.engine.step_table import Plan
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.documents import MAX_NEW_TOKENS, Document, block_seed
from ld4lg_fast.export.runtime.events import Event, Failed, Finished
from ld4lg_fast.export.runtime.guide_options import check_guides
from ld4lg_fast.export.runtime.option_checks import WholeNumber, elements, shown
from ld4lg_fast.export.runtime.text_display import get_logger
from ld4lg_fast.options.checks import as_config_errors, check, check_options
from ld4lg_fast.pipeline.conditions import chosen_classes, real_lengths, source_texts
from ld4lg_fast.pipeline.decode import checked_decoding
from ld4lg_fast.pipeline.documents import BlockCoder, prompt_list
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.presets import sampling_plan

logger = get_logger("ld4lg_fast")


@dataclass(frozen=True)
class SampleRequest:
    """Options of a call of `TextDiffusionPipeline` that a request may have; the call with them gives the same texts.

    Args:
        length: of a model of recipe v1, the tokens of each text, special tokens not counted.
        show_steps: the steps (1 … number of steps) after which the predicted x_start is decoded, too; of documents
            those of every block.
        start: latents (num_samples, N, d) to start from, noised to time ``strength``.
        guides: as in a call; ``length`` where it has been learned before.
    """

    num_samples: int = 1
    seed: int = 0
    sample_ids: Sequence[int] | None = None
    quality: str = "draft"
    num_inference_steps: int | None = None
    sampler: str | None = None
    class_name: str | None = None
    source: Sequence[str] | str | None = None
    prompt: Sequence[str] | str | None = None
    max_new_tokens: int | None = None
    guidance_scale: float | None = None
    length: int | None = None
    decoding: DecodingConfig | str | None = None
    show_steps: Sequence[int] = ()
    start: Tensor | None = None
    strength: float = 1.0
    guides: Mapping[str, Any] | None = None
    guide_scales: Mapping[str, Any] | None = None


class Ticket:
    """An accepted request: its events, and the way to give it up.

    Events come by iterating over `events`, or where a ``callback`` was given, by calls of it from the engine's thread,
    which must return at once.
    """

    def __init__(self, num_samples: int, callback: Callable[[Event], None] | None) -> None:
        self.num_samples, self._callback = num_samples, callback
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._missing = num_samples
        self.closed = False

    def events(self) -> Iterator[Event]:
        """All events in their order: ends after the last `Finished`, after `Failed`, and after `cancel`."""
        while (event := self._events.get()) is not None:
            yield event
        self._events.put(None)  # for another iteration

    def cancel(self) -> None:
        """Gives the request up: its samples leave the engine before its next step, and no more events come."""
        with self._lock:
            self._close()

    def send(self, event: Event) -> None:
        """Called by the engine. A callback that raises gives the request up."""
        with self._lock:
            if self.closed:
                return
            self._missing -= isinstance(event, Finished)
            if self._callback is None:
                self._events.put(event)
            if isinstance(event, Failed) or not self._missing:
                self._close()
        if self._callback is not None:
            try:
                self._callback(event)
            except Exception:
                logger.exception("an event could not be delivered; its request is given up")
                self.cancel()

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            self._events.put(None)


@dataclass(eq=False)
class Sample:
    """A sample of an accepted request; ``number`` is its place in it.

    ``steps``: done of the present block; texts that are no documents have one block. ``document``, ``coder``: of a
    model that writes documents. ``guides``: a target and a weight of those that lead it. ``express``: see
    `RequestEngine`.
    """

    ticket: Ticket
    number: int
    plan: Plan
    seed: int
    sample_id: int
    decoding: DecodingConfig
    show_steps: frozenset[int]
    max_new_tokens: int
    class_id: int | None = None
    length: int | None = None
    source: str | None = None
    start: Tensor | None = None
    document: Document | None = None
    coder: BlockCoder | None = None
    guides: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    block: int = 0
    steps: int = 0
    express: bool = False

    @property
    def block_seed(self) -> int:
        """The seed of the present block."""
        return block_seed(self.seed, self.block)

    def begin_next_block(self) -> None:
        """The present block has been written."""
        self.block, self.steps = self.block + 1, 0

    @property
    def steps_in_all(self) -> int:
        """Steps done of all blocks."""
        return self.block * self.plan.num_steps + self.steps


@dataclass
class Accepted:
    """The samples of a request that have not entered the engine yet."""

    ticket: Ticket
    samples: list[Sample] = field(default_factory=list)


def accepted(
    pipe: TextDiffusionPipeline, request: SampleRequest, callback: Callable[[Event], None] | None
) -> Accepted:
    """The samples of a request, whose options are checked as those of a call are.

    Raises:
        ConfigError: an option out of range, or a condition that the model was not trained for or misses.
    """
    model = pipe.model
    given: dict[str, Any] = {"source": request.source, "start": request.start, "lengths": request.length}
    pipe.check_prompt(request.prompt, request.max_new_tokens, given)
    prompts, count = prompt_list(request.prompt, request.num_samples)
    (seed,) = check_options(seed=request.seed)
    preset = sampling_plan(request.quality, request.sampler, request.num_inference_steps)
    decoding = checked_decoding(request.decoding, pipe.decoding, pipe.autoencoder)
    sample_ids = sample_id_tensor(request.sample_ids, count, pipe.device)
    sources = source_texts(model, request.source, count)
    classes = chosen_classes(model, pipe.statistics, None, request.class_name, seed, sample_ids)
    padded = pipe.autoencoder.perceiver is None
    given_lengths = None
    if request.length is not None:
        if not padded:
            raise ConfigError(
                f"length is {shown(request.length)}, but this model's texts have no length of their own (recipe v2); "
                "leave it out."
            )
        given_lengths = torch.full((count,), request.length + pipe.check_length(request.length))
    lengths, _ = real_lengths(model, pipe.statistics, given_lengths, seed, sample_ids, padded)
    plan = checked_plan(
        model,
        preset.sampler or model.default_sampler,
        preset.num_steps,
        spacing=preset.spacing,
        guidance_scale=pipe.default_guidance() if request.guidance_scale is None else request.guidance_scale,
        strength=request.strength,
        has_context=sources is not None,
    )
    if request.start is None:
        plan = replace(plan, strength=1.0)
    else:
        check_start(request.start, (count, model.denoiser.config.max_len, model.denoiser.config.dim_latent))
    coder, documents = None, None
    if model.writes_documents:
        decoding = replace(decoding, min_length=0)  # an empty block ends a document
        coder = BlockCoder(pipe.autoencoder, model.recipe["prefix_tokens"])
        documents = coder.begin(prompts, count, model.recipe["context_blocks"])
    with as_config_errors():
        chosen = check_guides(learned_guides(pipe), request.guides, request.guide_scales, count)
    ticket, show_steps = Ticket(count, callback), checked_steps(request.show_steps, plan.num_steps)
    columns = zip(sample_ids.tolist(), _column(classes, count), _column(lengths, count), strict=True)
    samples = [
        Sample(
            ticket,
            number,
            plan,
            seed,
            sample_id,
            decoding,
            show_steps,
            request.max_new_tokens or MAX_NEW_TOKENS,
            class_id,
            length,
            None if sources is None else sources[number],
            None if request.start is None else request.start[number],
            None if documents is None else documents[number],
            coder,
            {name: (each.targets[number], each.scales[number]) for name, each in chosen.items()},
        )
        for number, (sample_id, class_id, length) in enumerate(columns)
    ]
    return Accepted(ticket, samples)


def learned_guides(pipe: TextDiffusionPipeline) -> dict[str, tuple[str, ...] | None]:
    """Those of `TextDiffusionPipeline.guides` that need not be learned first, in the order in which they lead."""
    return {name: guide.classes for name, guide in sorted(pipe.text_guides.items())}


def _column(values: Tensor | None, count: int) -> list[Any]:
    return [None] * count if values is None else values.tolist()


def checked_steps(show_steps: object, num_steps: int) -> frozenset[int]:
    """The steps after which texts are shown.

    Raises:
        ConfigError: no list of whole numbers from 1 to ``num_steps``.
    """
    steps = elements(show_steps)
    if steps is None:
        raise ConfigError(f"show_steps is {shown(show_steps)}; give a list of steps from 1 to {num_steps}.")
    for step in steps:
        check("show_steps", step, WholeNumber(1, num_steps))
    return frozenset(steps)
