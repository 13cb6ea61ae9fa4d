"""`PipelineBackend`: answers the requests of the HTTP server with a pipeline and its `RequestEngine`."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch

from ld4lg_fast.data.tokenization import encoding
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.diffusion.samplers import SAMPLERS
from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.serving.backend import (
    Abilities,
    Full,
    Load,
    OnEvent,
)
from ld4lg_fast.export.runtime.serving.limits import Limits
from ld4lg_fast.export.runtime.serving.schemas import (
    DEFAULT_QUALITY,
    CompletionRequest,
    InfillRequest,
    InterpolationRequest,
)
from ld4lg_fast.pipeline import continuous_batching as batching
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.presets import QUALITIES, sampling_plan

STRENGTH = 0.5  # of variations
NAMES = {"num_inference_steps": "steps", "num_samples": "n", "max_new_tokens": "max_tokens", "num_texts": "n"}
"""What requests call the pipeline's options, for its sentences."""


class PipelineBackend:
    """A pipeline whose requests share the steps of one engine, which runs in a thread of its own.

    Interpolation and infilling are calls of the pipeline beside the engine.

    Args:
        name: of the model, for clients.
        precision: of the denoiser's matmuls, see `TextDiffusionPipeline.sample_batches`.
    """

    def __init__(
        self, pipe: TextDiffusionPipeline, name: str, limits: Limits, precision: str | None = None
    ) -> None:
        self._pipe, self.abilities = pipe, _abilities(pipe, name)
        self._engine = batching.RequestEngine(
            pipe, max_rows=limits.max_running, max_waiting=limits.max_waiting, precision=precision
        )
        self._thread = threading.Thread(target=self._engine.run, name="engine", daemon=True)
        self._thread.start()

    def warm_up(self) -> None:
        """Writes a text, so that what is prepared at first use is there before the first client."""
        ended = threading.Event()
        source = "text" if self._pipe.model.is_seq2seq else None
        request = CompletionRequest.model_validate({"seed": 0, "source": source})
        with suppress(RuntimeInputError):  # of a model that needs more than that
            self.submit(request, lambda event: ended.set())
            ended.wait()

    def submit(self, request: CompletionRequest, on_event: OnEvent) -> Callable[[], None]:
        """See `Backend.submit`."""
        with _as_input_errors():
            asked = batching.SampleRequest(**self._options(request))
            try:
                return self._engine.submit(asked, on_event).cancel
            except batching.EngineFull as error:
                raise Full(self._seconds_to_wait()) from error

    def _options(self, request: CompletionRequest) -> dict[str, Any]:
        """The fields of a `SampleRequest`.

        Raises:
            RuntimeInputError, LD4LGError: options that the model does not have.
        """
        pipe, count = self._pipe, request.num_texts
        plan = sampling_plan(request.preset, request.sampler, request.steps)
        late = [step for step in request.show_steps or () if step > plan.num_steps]
        if late:
            raise RuntimeInputError(
                f"show_steps has {late[0]}, but the request has {plan.num_steps} steps; name steps from 1 to "
                f"{plan.num_steps}."
            )
        options: dict[str, Any] = {
            "num_samples": count,
            "seed": request.seed,
            "quality": request.preset,
            "num_inference_steps": request.steps,
            "sampler": request.sampler,
            "class_name": request.class_name,
            "source": request.source,
            "guidance_scale": request.guidance_scale,
            "guides": request.guides,
            "guide_scales": request.guide_scales,
            "length": request.length,
            "decoding": self._decoding(request),
            "show_steps": tuple(sorted(set(request.show_steps or ()))),
        }
        if any(request.prompts):
            several = [prompt for prompt in request.prompts for _ in range(request.n or 1)]
            options["prompt"] = request.prompt if isinstance(request.prompt, str) else several
        if pipe.model.writes_documents:
            options["max_new_tokens"] = request.max_tokens
        if request.source is not None:
            self.count_tokens([request.source])  # refuses now what the tokenizer cannot read
        if request.start is not None:
            latents, mask = pipe.encode([request.start])
            options["start"] = latents.expand(count, -1, -1)
            options["strength"] = STRENGTH if request.strength is None else request.strength
            if mask is not None:
                options["length"] = int(mask.sum()) - pipe.autoencoder.tokenizer.num_special_tokens_to_add()
        elif request.strength is not None:
            raise RuntimeInputError(
                f"strength is {request.strength}, but there is no start; give both or none."
            )
        return options

    def _decoding(self, request: CompletionRequest) -> DecodingConfig:
        """The pipeline's decoding with what the request says instead."""
        pipe, changes = self._pipe, request.decoding_changes()
        if request.max_tokens is not None and not pipe.model.writes_documents:
            forced = pipe.autoencoder.lm.generation_config.forced_eos_token_id is not None
            most = request.max_length(pipe.autoencoder.tokenizer.num_special_tokens_to_add(), forced)
            changes["max_length"] = min(pipe.decoding.max_length or pipe.autoencoder.max_len, most)
            changes["min_length"] = min(pipe.decoding.min_length, changes["max_length"])
        return replace(pipe.decoding, **changes)

    def _strategy(self, name: str | None) -> DecodingConfig:
        """The pipeline's decoding with another strategy, if one is named."""
        own = self._pipe.decoding
        return own if name is None else replace(own, strategy=name, num_decodes=1)

    def _seconds_to_wait(self) -> float:
        stats = self._engine.stats()
        return stats.waiting_rows * stats.seconds / max(1, stats.texts)

    def interpolate(self, request: InterpolationRequest) -> list[str]:
        """Texts at equal distances between two texts."""
        count = request.n or 5
        with _as_input_errors():
            shares = torch.linspace(0, 1, count)
            latents, mask = self._pipe.between([request.first] * count, [request.second] * count, shares)
            return self._pipe.decode(latents, self._strategy(request.strategy), mask=mask, seed=request.seed)

    def infill(self, request: InfillRequest) -> list[str]:
        """Fillings of the gaps of a text."""
        given = {"num_samples": request.n, "strength": request.strength, "max_tokens": request.max_tokens}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        with _as_input_errors():
            quality = request.quality or DEFAULT_QUALITY
            return self._pipe.infill(request.text, seed=request.seed, quality=quality, **options).texts

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens of texts of any length."""
        if not texts:
            return 0
        tokenizer: Any = self._pipe.autoencoder.tokenizer
        with encoding(texts):
            rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return sum(map(len, rows))

    def load(self) -> Load:
        """How busy the engine is."""
        stats = self._engine.stats()
        return Load(stats.running_rows, stats.waiting_rows, stats.steps)

    def close(self) -> None:
        """Finishes accepted requests."""
        self._engine.close(drain=True)
        self._thread.join()


def _abilities(pipe: TextDiffusionPipeline, name: str) -> Abilities:
    model, classes = pipe.model, pipe.statistics.class_names or ()
    padded, documents = pipe.autoencoder.perceiver is None, model.writes_documents
    takes = {
        "prompt": documents,
        "start": not documents,
        "source": model.is_seq2seq,
        "class_name": bool(classes),
        "guidance_scale": bool(classes) or documents or model.is_seq2seq,
        "length": padded,
    }
    return Abilities(
        name,
        qualities={quality: plan.num_steps for quality, plan in QUALITIES.items()},
        samplers=list(SAMPLERS),
        max_tokens=pipe.autoencoder.max_len,
        takes=frozenset(field for field, is_taken in takes.items() if is_taken),
        can=frozenset(("interpolations",) if padded else ("interpolations", "infills")),
        classes=classes,
        guides={each: classes or () for each, classes in batching.learned_guides(pipe).items()},
    )


@contextmanager
def _as_input_errors() -> Iterator[None]:
    """Raises what the pipeline refuses as the server's error, with the names that requests have for its options."""
    try:
        yield
    except LD4LGError as error:
        sentence = str(error)
        for name, field in NAMES.items():
            sentence = sentence.replace(name, field)
        raise RuntimeInputError(sentence) from error
