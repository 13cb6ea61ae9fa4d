"""``training_record.json``: what `ld4lg verify` needs to train the first steps of each stage again."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.checkpoints.schemas import read
from ld4lg_fast.checkpoints.schemas_records import TrainingRecordFile
from ld4lg_fast.data import TextDataset
from ld4lg_fast.data.corpus import SPLITS
from ld4lg_fast.data.texts import Column
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.terminal.machine import machine, versions

STEPS = 100  # of each stage
SAMPLED = 64  # entries of a column on disk that a fingerprint reads, or up to twice as many


def data_fingerprint(dataset: TextDataset) -> str:
    """SHA-256 of the texts, labels and sources of all splits, in their order; of columns that are not in memory, of
    their lengths and of `SAMPLED` evenly spaced entries, so that a start need not read the corpus."""
    digest = hashlib.sha256()
    for name in SPLITS:
        split = getattr(dataset, name)
        columns: tuple[Sequence[Any] | None, ...] = (split.texts, split.labels, split.sources)
        for column in columns:
            every = max(1, len(column) // SAMPLED) if isinstance(column, Column) else 1
            digest.update(b"%d|" % (0 if column is None else len(column)))
            for entry in () if column is None else column[::every]:
                content = str(entry).encode(errors="surrogatepass")
                digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


class TrainingRecord:
    """Writes the losses and learning rates of the first `STEPS` steps of each stage.

    Args:
        path: the file; None writes none, as in processes that are not the main one.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.stages: dict[str, dict] = {}

    def begin(self, stage: str, step: int) -> None:
        """A stage starts, or goes on after ``step``; what was recorded of later steps is forgotten."""
        if self.path is not None and os.path.lexists(self.path):
            try:
                written = read(TrainingRecordFile, self.path, "a run directory").stages
            except CheckpointError:  # of no use; the run does not depend on it
                written = {}
            self.stages = {name: own.model_dump() for name, own in written.items()}
        earlier = self.stages.pop(stage, None) if step else None
        if earlier is not None and len(earlier["losses"]) >= min(step, STEPS):
            values = {name: earlier[name][:step] for name in ("learning_rates", "losses")}
            self.stages[stage] = earlier | values
        elif not step:
            self.stages[stage] = dict(self.facts) | {"learning_rates": [], "losses": []}

    def rate(self, stage: str, step: int, rate: float) -> float:
        """The learning rate of a step, by default ``rate``."""
        return rate

    def add(self, stage: str, step: int, rates: Sequence[float], losses: Sequence[float]) -> None:
        """Records the steps from ``step`` on, counted from 0."""
        if self.path is None or step >= STEPS or stage not in self.stages:
            return
        for name, values in (("learning_rates", rates), ("losses", losses)):
            self.stages[stage][name] += list(values)[: STEPS - step]
        write_json(self.path, {"format": 1, "stages": self.stages})


def facts_of(
    config: Mapping, dataset: TextDataset, device: torch.device, processes: int, precision: str
) -> dict[str, Any]:
    """What a `TrainingRecord` says of every stage."""
    return {
        "config": dict(config),
        "seed": config["seed"],
        "data": data_fingerprint(dataset),
        "machine": machine(device),
        "versions": versions(),
        "processes": processes,
        "precision": precision,
    }
