"""`OnnxBackend`: an exported model behind the HTTP server; requests that are sampled alike share a batch.

Letters: B batch, N latent positions, d latent width.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..conditions import check_classes, check_sources, classes_of
from ..continuation import check_no_documents
from ..decoding import DecodingRules
from ..documents import MAX_NEW_TOKENS, check_prompts
from ..errors import RuntimeInputError
from ..events import Event, Failed, Finished, Partial
from ..guide_options import Chosen, check_guides
from ..levels import more_than_timesteps
from ..option_checks import shown
from ..pipeline import OnnxTextDiffusion
from ..sampling import SAMPLERS
from ..text_display import get_logger
from .backend import Abilities, Full, Load, OnEvent
from .limits import Limits
from .schemas import CompletionRequest, InfillRequest, InterpolationRequest

logger = get_logger(__name__)


class _Cancelled(Exception):
    """Nobody wants a batch any more."""


@dataclass(eq=False)
class Waiting:
    """An accepted request. Those with equal ``how``, options of `OnnxTextDiffusion.sample`, ``rules`` and guides
    are sampled together; a document is written alone."""

    request: CompletionRequest
    on_event: OnEvent
    how: dict[str, Any]
    rules: DecodingRules
    class_id: int | None
    guides: Mapping[str, Chosen]
    cancelled: bool = False

    def send(self, event: Event) -> None:
        if not self.cancelled:
            self.on_event(event)

    @property
    def led_by(self) -> list[str]:
        """Names of its guides."""
        return list(self.guides)

    @property
    def count(self) -> int:
        return self.request.num_texts

    def ids(self) -> np.ndarray:
        return np.arange(self.count)

    def seeds(self) -> np.ndarray:
        return np.full(self.count, self.request.seed, np.uint64)


class OnnxBackend:
    """Answers requests batch by batch: the oldest request and all that fit beside it; ``name`` is for clients."""

    def __init__(self, model: OnnxTextDiffusion, name: str, limits: Limits) -> None:
        self._model, self._limits, config = model, limits, model.config
        takes = {
            "prompt": config.documents is not None,
            "source": config.source is not None,
            "class_name": bool(config.statistics.class_names),
            "guidance_scale": bool(config.diffusion.num_classes or config.source or config.documents),
        }
        self.abilities = Abilities(
            name,
            qualities={quality: preset.num_steps for quality, preset in config.qualities.items()},
            samplers=list(SAMPLERS),
            max_tokens=config.max_len,
            takes=frozenset(name for name, is_taken in takes.items() if is_taken),
            classes=config.statistics.class_names or (),
            guides={name: classes or () for name, classes in model.guides().items()},
        )
        self._num_special = len(model.tokenizer.encode([""])[0])
        self._waiting: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._running, self._steps, self._closing = 0, 0, False
        self._seconds_a_text = 0.0
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def submit(self, request: CompletionRequest, on_event: OnEvent) -> Callable[[], None]:
        """See `Backend.submit`."""
        new = self._checked(request, on_event)
        with self._changed:
            waiting = sum(each.count for each in self._waiting)
            if waiting + new.count > self._limits.max_waiting:
                raise Full(waiting * self._seconds_a_text)
            self._waiting.append(new)
            self._changed.notify()

        def cancel() -> None:
            new.cancelled = True

        return cancel

    def _checked(self, request: CompletionRequest, on_event: OnEvent) -> Waiting:
        model, config = self._model, self._model.config
        for name in ("start", "strength", "length"):
            if (value := getattr(request, name)) is not None:
                raise RuntimeInputError(
                    f"{name} is {shown(value)}, which an exported model does not take; leave it out."
                )
        given = request.prompt if any(request.prompts) else None
        check_no_documents(config.documents, prompt=given)
        check_prompts(request.prompts, None)
        steps, sampler, spacing = model.plan(request.preset, request.steps, request.sampler, None)
        timesteps = len(config.diffusion.schedule.alphas_cumprod or ())
        if timesteps and (sentence := more_than_timesteps(steps, timesteps)):
            raise RuntimeInputError(sentence)
        late = [step for step in request.show_steps or () if step > steps]
        if late:
            raise RuntimeInputError(
                f"show_steps has {late[0]}, but the request has {steps} steps; name steps from 1 to {steps}."
            )
        scale = request.guidance_scale
        if scale not in (None, 1.0) and "guidance_scale" not in self.abilities.takes:
            raise RuntimeInputError(
                f"guidance_scale {scale} needs a model with classes, source texts or documents; use 1."
            )
        check_sources(config.source is not None, request.source, request.num_texts, "source")
        class_id = check_classes(self.abilities.classes, None, request.class_name, request.num_texts)
        how = {"num_inference_steps": steps, "sampler": sampler, "spacing": spacing, "guidance_scale": scale}
        assert not isinstance(class_id, list)
        guides = check_guides(model.guides(), request.guides, request.guide_scales, request.num_texts)
        return Waiting(request, on_event, how, self._rules(request), class_id, guides)

    def _rules(self, request: CompletionRequest) -> DecodingRules:
        """The model's rules with what the request says instead."""
        changes, own = request.decoding_changes(), self._model.rules()
        if request.max_tokens is not None and self._model.config.documents is None:
            most = request.max_length(self._num_special, own.forced_eos_token is not None)
            changes["max_length"] = min(own.max_length, most)
            changes["min_length"] = min(own.min_length, changes["max_length"])
        return self._model.rules(**changes)

    def _run(self) -> None:
        while batch := self._next():
            begun = time.perf_counter()
            self._running = sum(each.count for each in batch)
            try:
                self._answer(batch)
            except _Cancelled:
                pass
            except Exception as error:
                logger.exception("a batch failed")
                sentence = (
                    str(error)
                    if isinstance(error, RuntimeInputError)
                    else "The model failed; its log says why."
                )
                for each in batch:
                    each.send(Failed(sentence))
            self._seconds_a_text = (time.perf_counter() - begun) / self._running
            self._running = 0

    def _next(self) -> list[Waiting]:
        """The requests of the next batch; none when the server ends."""
        with self._changed:
            while True:
                self._waiting = deque(each for each in self._waiting if not each.cancelled)
                if self._waiting or self._closing:
                    break
                self._changed.wait()
            if not self._waiting:
                return []
            batch = [self._waiting.popleft()]
            count = batch[0].count
            for each in list(self._waiting):
                alike = all(
                    getattr(each, name) == getattr(batch[0], name) for name in ("how", "rules", "led_by")
                )
                if (
                    alike
                    and self._model.config.documents is None
                    and count + each.count <= self._limits.max_running
                ):
                    self._waiting.remove(each)
                    batch.append(each)
                    count += each.count
            return batch

    def _answer(self, batch: Sequence[Waiting]) -> None:
        model, first = self._model, batch[0]
        if model.config.documents is not None:
            self._write(first)
            return
        ids, seeds = (np.concatenate([getattr(each, name)() for each in batch]) for name in ("ids", "seeds"))
        owners = [each for each in batch for _ in range(each.count)]
        found = [classes_of(model.config, each.class_id, each.seeds(), each.ids()) for each in batch]
        classes = [each for each in found if each is not None]
        sources = [each.request.source or "" for each in owners]

        def on_step(step: int, latents: np.ndarray, mask: np.ndarray | None) -> None:
            self._steps += 1
            if all(each.cancelled for each in batch):
                raise _Cancelled
            rows = [row for row, each in enumerate(owners) if step in (each.request.show_steps or ())]
            if rows and step < first.how["num_inference_steps"]:
                kept = None if mask is None else mask[rows]
                texts = model.decode(latents[rows], kept, first.rules, seeds[rows], ids[rows])
                for row, text in zip(rows, texts, strict=True):
                    owners[row].send(Partial(int(ids[row]), step, text))

        latents, mask = model.sample(
            ids,
            class_ids=np.concatenate(classes) if classes else None,
            sources=sources if model.config.source is not None else None,
            guides={
                name: Chosen(
                    [target for each in batch for target in each.guides[name].targets],
                    [scale for each in batch for scale in each.guides[name].scales],
                )
                for name in first.guides
            },
            seed=seeds,
            on_step=on_step,
            **first.how,
        )
        tokens = model.decode_tokens(latents, mask, first.rules, seeds, ids)
        most = first.rules.max_length - 1 - self._num_special
        for owner, sample, row, text in zip(
            owners, ids.tolist(), tokens, model.tokenizer.decode(tokens), strict=True
        ):
            owner.send(Finished(sample, text, "length" if len(row) >= most else "stop"))

    def _write(self, waiting: Waiting) -> None:
        """Texts of a model that writes documents."""
        request, how = waiting.request, dict(waiting.how)
        texts = self._model(
            waiting.count,
            prompt=[prompt for prompt in request.prompts for _ in range(request.n or 1)],
            max_new_tokens=request.max_tokens,
            class_id=waiting.class_id,
            guides=request.guides,
            guide_scales=request.guide_scales,
            seed=request.seed,
            **how,
            **request.decoding_changes(),
        )
        most = request.max_tokens or MAX_NEW_TOKENS
        for sample, text in enumerate(texts):
            cut = self.count_tokens([text]) >= most
            waiting.send(Finished(sample, text, "length" if cut else "stop"))

    def interpolate(self, request: InterpolationRequest) -> list[str]:
        """Refuses it."""
        raise RuntimeInputError("An exported model reads no texts; serve its run directory to interpolate.")

    def infill(self, request: InfillRequest) -> list[str]:
        """Refuses it."""
        raise RuntimeInputError("An exported model reads no texts; serve its run directory to fill gaps.")

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens of texts of any length."""
        return sum(map(len, self._model.tokenizer.encode_plain(texts))) if texts else 0

    def load(self) -> Load:
        """Texts of the present batch and those that wait; steps of documents are not counted."""
        return Load(self._running, sum(each.count for each in list(self._waiting)), self._steps)

    def close(self) -> None:
        """Finishes accepted requests."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
