"""The systems that whole_job.py compares: published code, its remedies, this library; each picks its fastest settings.

Letters: B batch, N latent positions, d latent width.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from harness import interleaved
from torch import Tensor

from benchmarks.published_pipeline import published_pipeline
from benchmarks.reference.pipeline import TextPipeline
from benchmarks.remedies import REMEDIES, Remedies
from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.pipeline.presets import QUALITIES

TRIAL_STEPS, TRIAL_ROUNDS = 10, 3
PUBLISHED_STEPS, STUDENT_STEPS = 250, 4
OUR_PRECISIONS = ("fp32", "bf16", "int8")
DECODER_REMEDIES = {
    "fp32": Remedies(),
    "bf16 autocast": Remedies(autocast=True),
    "dynamic int8": Remedies(int8=True),
}


@dataclass(frozen=True)
class Turn:
    """``size`` sentences of a seed, from number ``first`` on."""

    seed: int
    first: int
    size: int

    @property
    def sample_ids(self) -> list[int]:
        return list(range(self.first, self.first + self.size))

    @property
    def torch_seed(self) -> int:
        """Of torch's global generator, from which the published code draws."""
        return self.seed * 1_000_003 + self.first

    def batches(self, batch: int) -> list[list[int]]:
        """The sample ids in batches."""
        ids = self.sample_ids
        return [ids[start : start + batch] for start in range(0, self.size, batch)]


Denoise = Callable[[Turn, int, int], Tensor]
"""(turn, batch size, sampling steps) -> latents (B, N, d), un-normalised."""

Decode = Callable[[Tensor, Turn, int], list[str]]
"""(latents, turn, batch size) -> texts."""


@dataclass
class System:
    """One way from noise to text: its possible denoisers and decoders by precision, and those that were chosen."""

    name: str
    ours: bool
    steps: int
    denoisers: Mapping[str, Denoise]
    decoders: Mapping[str, Decode]
    denoiser: tuple[str, int] = ("", 0)
    decoder: tuple[str, int] = ("", 0)
    preparation_s: float = 0.0
    denoise_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    texts: dict[int, list[str]] = field(default_factory=dict)

    def choose(self, turn: Turn, batch_sizes: Sequence[int]) -> None:
        """Takes the fastest precision at the middle batch size, and then its fastest batch size."""
        start = time.perf_counter()
        steps, middle = min(self.steps, TRIAL_STEPS), batch_sizes[len(batch_sizes) // 2]
        latents = next(iter(self.denoisers.values()))(turn, middle, steps)

        def denoise(name: str, batch: int) -> Callable[[], object]:
            return lambda: self.denoisers[name](turn, batch, steps)

        def decode(name: str, batch: int) -> Callable[[], object]:
            return lambda: self.decoders[name](latents, turn, batch)

        def choice(part: Callable, names: Sequence[str]) -> tuple[str, int]:
            name, _ = fastest({(name, middle): part(name, middle) for name in names})
            return fastest({(name, batch): part(name, batch) for batch in batch_sizes})

        self.denoiser = choice(denoise, list(self.denoisers))
        self.decoder = choice(decode, list(self.decoders))
        self.preparation_s = time.perf_counter() - start

    def take(self, turn: Turn) -> None:
        """Samples the turn's sentences, timed."""
        start = time.perf_counter()
        latents = self.denoisers[self.denoiser[0]](turn, self.denoiser[1], self.steps)
        between = time.perf_counter()
        texts = self.decoders[self.decoder[0]](latents, turn, self.decoder[1])
        self.decode_s.append(time.perf_counter() - between)
        self.denoise_s.append(between - start)
        self.texts.setdefault(turn.seed, []).extend(texts)


def fastest(runs: Mapping[tuple[str, int], Callable[[], object]]) -> tuple[str, int]:
    timings = interleaved(runs, rounds=TRIAL_ROUNDS, round_seconds=0)
    return min(timings, key=lambda key: timings[key].median)


def published_denoiser(pipeline: TextPipeline, remedies: Remedies) -> Denoise:
    network, diffusion = remedies.apply(pipeline.diffusion.diffusion_model, padded=False), pipeline.diffusion

    def run(turn: Turn, batch: int, steps: int) -> Tensor:
        torch.manual_seed(turn.torch_seed)
        diffusion.diffusion_model, diffusion.sampling_timesteps = network, steps
        with remedies.precision("cpu"):
            return torch.cat([pipeline.sample_latents(len(rows)).float() for rows in turn.batches(batch)])

    return run


def published_decoder(pipeline: TextPipeline, remedies: Remedies, strategy: str) -> Decode:
    lm = remedies.apply(pipeline.lm, padded=False)
    decoding = TextPipeline(lm, pipeline.tokenizer, pipeline.autoencoder, pipeline.diffusion)

    def run(latents: Tensor, turn: Turn, batch: int) -> list[str]:
        torch.manual_seed(turn.torch_seed)
        with remedies.precision("cpu"):
            return [text for rows in latents.split(batch) for text in decoding.decode(rows, strategy)]

    return run


def our_denoiser(pipe: TextDiffusionPipeline, precision: str, **plan: str) -> Denoise:
    def run(turn: Turn, batch: int, steps: int) -> Tensor:
        return pipe.sample(
            turn.size,
            num_inference_steps=steps,
            precision=precision,
            batch_size=batch,
            seed=turn.seed,
            sample_ids=turn.sample_ids,
            **plan,
        ).latents

    return run


def our_decoder(pipe: TextDiffusionPipeline, decoding: DecodingConfig, precision: str) -> Decode:
    decoding = replace(decoding, precision=precision)

    def run(latents: Tensor, turn: Turn, batch: int) -> list[str]:
        return pipe.decode(latents, decoding, seed=turn.seed, sample_ids=turn.sample_ids, batch_size=batch)

    return run


class Systems:
    """All systems by name, around one model; each is built when it is asked for."""

    def __init__(self, model: str, student: Callable[[], Path]) -> None:
        self.pipe = TextDiffusionPipeline.from_pretrained(model)
        self.student = student
        self.builders: dict[str, Callable[[str], System]] = {
            "published": self.published,
            "published, remedies": lambda name: self.remedied(name, "beam"),
            "published, remedies, nucleus": lambda name: self.remedied(name, "nucleus"),
            "ours, paper, beam": lambda name: self.preset(name, "paper", DecodingConfig("beam")),
            **{
                f"ours, {quality}": lambda name, quality=quality: self.preset(
                    name, quality, self.pipe.decoding
                )
                for quality in ("paper", "balanced", "draft")
            },
            f"ours, student of {STUDENT_STEPS} steps": self.distilled,
        }

    def build(self, name: str) -> System:
        return self.builders[name](name)

    @cached_property
    def remedied_denoisers(self) -> dict[str, Denoise]:
        """One for each remedy, shared by the systems that differ in decoding, so that each is compiled once."""
        pipeline = published_pipeline(self.pipe, PUBLISHED_STEPS)
        found = {name: remedies for kind in REMEDIES.values() for name, remedies in kind.items()}
        return {name: published_denoiser(pipeline, remedies) for name, remedies in found.items()}

    def published(self, name: str) -> System:
        pipeline, plain = published_pipeline(self.pipe, PUBLISHED_STEPS), Remedies()
        denoisers = {"fp32": published_denoiser(pipeline, plain)}
        decoders = {"fp32": published_decoder(pipeline, plain, "beam")}
        return System(name, False, PUBLISHED_STEPS, denoisers, decoders)

    def remedied(self, name: str, strategy: str) -> System:
        pipeline = published_pipeline(self.pipe, PUBLISHED_STEPS)
        decoders = {
            key: published_decoder(pipeline, remedies, strategy) for key, remedies in DECODER_REMEDIES.items()
        }
        return System(name, False, PUBLISHED_STEPS, self.remedied_denoisers, decoders)

    def preset(self, name: str, quality: str, decoding: DecodingConfig) -> System:
        return self.ours(name, self.pipe, QUALITIES[quality].num_steps, decoding, quality=quality)

    def distilled(self, name: str) -> System:
        pipe = TextDiffusionPipeline.from_pretrained(self.student())
        return self.ours(name, pipe, STUDENT_STEPS, self.pipe.decoding, sampler="ddim")

    def ours(
        self, name: str, pipe: TextDiffusionPipeline, steps: int, decoding: DecodingConfig, **plan: str
    ) -> System:
        return System(
            name,
            True,
            steps,
            {precision: our_denoiser(pipe, precision, **plan) for precision in OUR_PRECISIONS},
            {precision: our_decoder(pipe, decoding, precision) for precision in OUR_PRECISIONS},
        )
