"""The reference texts of a run's corpus, against which its samples are measured."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ld4lg_fast.checkpoints.run_config import read_run_config, resolved
from ld4lg_fast.data import TextDataset, TextSplit, load_from_config
from ld4lg_fast.data.corpus import SPLITS
from ld4lg_fast.errors import CheckpointError, ConfigError, DataError
from ld4lg_fast.options.checks import RULES, check

HELD_OUT = ("test", "validation")


def load_dataset(run_dir: Path, overrides: Mapping) -> TextDataset:
    """The run's corpus according to its ``config.yaml`` and ``overrides`` that are not null.

    Raises:
        CheckpointError: neither config nor overrides name a corpus.
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
    """The corpus with every split shuffled; unchanged for None.

    In some corpora (E2E) consecutive texts have the same meaning, so that the first texts are not representative.

    Raises:
        ConfigError: an invalid seed.
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
    """A reference text of ``split`` for each sample, with label and source if the model needs them."""

    split: str
    texts: list[str]
    labels: Sequence[int] | None
    sources: list[str] | None


def choose_references(
    dataset: TextDataset, split: str, num_samples: int, class_id: int | None, num_classes: int, sources: bool
) -> References:
    """The first ``num_samples`` texts of a held-out split, of class ``class_id`` if that is given.

    Args:
        num_classes: the model's number of classes, 0 for none.
        sources: whether the model needs sources.

    Raises:
        ConfigError: an unknown split, or an invalid number of samples.
        DataError: fewer texts than samples, or missing labels or sources.
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
        split,
        list(part.texts),
        part.labels if num_classes else None,
        None if part.sources is None or not sources else list(part.sources),
    )


def other_real_texts(dataset: TextDataset, references: References) -> TextSplit:
    """Real texts that are no references: the rest of their split, or all of the other one where that has more."""
    used = set(references.texts)
    part = getattr(dataset, references.split)
    rest = part.select(i for i, text in enumerate(part.texts) if text not in used)
    (name,) = set(HELD_OUT) - {references.split}
    other = getattr(dataset, name)
    return rest if len(rest) >= min(len(other), len(references.texts)) else other


def of_class(part: TextSplit, class_id: int | None) -> TextSplit:
    """The texts of one class, or all texts."""
    if class_id is None or part.labels is None:
        return part
    return part.select(i for i, label in enumerate(part.labels) if label == class_id)
