"""``samples/stored.json``: texts of a run and what they were sampled with, so that they can be sampled again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.checkpoints.schemas import read
from ld4lg_fast.checkpoints.schemas_records import StoredSamplesFile
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.terminal.machine import machine, versions
from ld4lg_fast.training.validation import deterministic_sampling, document_tokens, validation_classes

SEEDS = 0, 1
COUNT = 4  # texts of each seed
NUM_STEPS = 25
SHARE = 0.75  # of the texts that must come back where the processor or a version is another one


def store_samples(pipe: TextDiffusionPipeline, path: Path, sources: Sequence[str] | None = None) -> None:
    """Samples `COUNT` texts with each of `SEEDS` and the run's own decoding; classes take turns.

    Args:
        sources: of a sequence-to-sequence model, the first `COUNT` of which are used.
    """
    count = COUNT if sources is None else len(sources[:COUNT])
    settings: dict[str, Any] = {"num_samples": count, **deterministic_sampling(pipe.model, NUM_STEPS)}
    if (classes := validation_classes(count, pipe.model.denoiser.config.num_classes)) is not None:
        settings["class_id"] = classes.tolist()
    if sources is not None:
        settings["source"] = list(sources[:count])
    if (most := document_tokens(pipe)) is not None:
        settings["max_new_tokens"] = most
    texts = {str(seed): pipe(seed=seed, **settings).texts for seed in SEEDS}
    here = {"machine": machine(pipe.device), "versions": versions()}
    write_json(path, {"format": 1, "settings": settings, **here, "texts": texts})


@dataclass(frozen=True)
class SamplesComparison:
    """Stored texts and those that were sampled again; ``exact``: whether all must be equal."""

    stored: list[str]
    repeated: list[str]
    exact: bool

    @property
    def equal(self) -> int:
        return sum(map(str.__eq__, self.stored, self.repeated))

    @property
    def passed(self) -> bool:
        return self.equal >= (1 if self.exact else SHARE) * len(self.stored)

    def __str__(self) -> str:
        rule = (
            "all must, as on the same processor with the same versions"
            if self.exact
            else f"at least {SHARE:.0%} must, as the processor or a version is another one"
        )
        verdict = "Repeated" if self.passed else "Different"
        return f"{verdict}: {self.equal} of {len(self.stored)} stored texts came back; {rule}."


def repeat_samples(pipe: TextDiffusionPipeline, path: Path) -> SamplesComparison:
    """Samples the stored texts again.

    Raises:
        CheckpointError: there are none, or the file is damaged.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist, so that there are no texts to compare; python scripts/store_samples.py writes it."
        )
    file = read(StoredSamplesFile, path, "a run directory")
    options: dict[str, Any] = dict(file.settings)  # type: ignore[arg-type]  # of several types
    stored = [text for texts in file.texts.values() for text in texts]
    repeated = [text for seed in file.texts for text in pipe(seed=int(seed), **options).texts]
    if len(stored) != len(repeated):
        raise CheckpointError(f"{path} has {len(stored)} texts, and its settings give {len(repeated)}.")
    exact = pipe.device.type == "cpu" and file.machine | file.versions == machine(pipe.device) | versions()
    return SamplesComparison(stored, repeated, exact)
