"""The real texts of a run's corpus that its samples are measured against."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ld4lg_fast.checkpoints.run_config import read_run_config, resolved
from ld4lg_fast.data import TextDataset, TextSplit, load_from_config
from ld4lg_fast.data.corpus import SPLITS
from ld4lg_fast.errors import CheckpointError, ConfigError, DataError
from ld4lg_fast.export.runtime.conditions import describe_classes
from ld4lg_fast.options.checks import RULES, check
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline

HELD_OUT = ("test", "validation")


def load_dataset(run_dir: Path, overrides: Mapping) -> TextDataset:
    """The corpus of the run, by its ``config.yaml`` with those ``overrides`` on top that are not null.

    Raises:
        CheckpointError: the run has no readable config and the overrides do not name a corpus.
        LD4LGError: the corpus cannot be read.
    """
    path = run_dir / "config.yaml"
    given = {key: value for key, value in overrides.items() if value is not None}
    stored = resolved(read_run_config(path), path, "dataset") if os.path.lexists(path) else {}
    if "name" in given and given["name"] != stored.get("name"):
        stored = {}
    if not (config := (stored or {}) | given).get("name"):
        raise CheckpointError(
            f"{run_dir} does not say which corpus it was trained on; name it with dataset.name=... and, for "
            "local files, dataset.root=FOLDER."
        )
    return load_from_config(config)


def shuffled(dataset: TextDataset, seed: int | None) -> TextDataset:
    """The corpus with every split in random order, or as it is for None.

    Some corpora list the texts of one meaning in a row (E2E), so that their first texts are alike.

    Raises:
        ConfigError: a seed that is none.
    """
    if seed is None:
        return dataset
    check("evaluation.reference_seed", seed, RULES["seed"])
    orders = {
        split: np.random.default_rng(seed).permutation(len(getattr(dataset, split))) for split in SPLITS
    }
    return replace(
        dataset, **{split: getattr(dataset, split).select(order) for split, order in orders.items()}
    )


@dataclass(frozen=True)
class References:
    """A real text for each sample, from a ``split``; its label and source where the model needs them."""

    split: str
    texts: list[str]
    labels: list[int] | None
    sources: list[str] | None


def choose_references(
    dataset: TextDataset, split: str, num_samples: int, class_id: int | None, num_classes: int, sources: bool
) -> References:
    """The first ``num_samples`` texts of a held-out split, of one class where ``class_id`` says so.

    Args:
        num_classes: of the model; 0 if it knows no classes.
        sources: whether the model writes from sources.

    Raises:
        ConfigError: an unknown split, or fewer than 1 sample.
        DataError: fewer texts than samples, or no labels or sources where the model needs them.
    """
    if split not in HELD_OUT:
        raise ConfigError(f"evaluation.split={split} is unknown; choose one of {', '.join(HELD_OUT)}.")
    check("generation.num_samples", num_samples)
    if num_classes:
        dataset.require_labels()
    if sources:
        dataset.require_sources()
    part = of_class(getattr(dataset, split), class_id)
    if len(part) < num_samples:
        kind = f"{split} texts" if class_id is None else f"{split} texts of class {class_id}"
        raise DataError(
            f"dataset={dataset.name} has {len(part)} {kind}, too few to measure {num_samples} samples "
            f"against; ask for at most generation.num_samples={len(part)}."
        )
    part = part.select(range(num_samples))
    return References(
        split, part.texts, part.labels if num_classes else None, part.sources if sources else None
    )


def of_class(part: TextSplit, class_id: int | None) -> TextSplit:
    """The texts of one class, or all."""
    if class_id is None or part.labels is None:
        return part
    return part.select(i for i, label in enumerate(part.labels) if label == class_id)


def choose_class(pipe: TextDiffusionPipeline, class_id: int | None, class_name: str | None) -> int | None:
    """The class that was asked for by number or by name, or None.

    Raises:
        ConfigError: the model has no such class, or no classes at all.
    """
    if class_name is not None:
        if class_id is not None:
            raise ConfigError(f"class_id {class_id} and class_name {class_name!r} were given; give one.")
        return pipe.statistics.class_index(class_name)
    if class_id is None:
        return None
    names = pipe.statistics.class_names
    if names is None:
        raise ConfigError(
            f"class_id {class_id} was given, but this model was trained without classes; leave it out."
        )
    if not 0 <= class_id < len(names):
        known = describe_classes(names)
        raise ConfigError(f"class_id {class_id} is out of range; this model has {known}.")
    return class_id
