"""Trains the first steps of a run again, and compares their losses with those that the run recorded."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.checkpoints.schemas import read
from ld4lg_fast.checkpoints.schemas_records import StageRecord, TrainingRecordFile
from ld4lg_fast.checkpoints.stored_config import CONSENTS
from ld4lg_fast.engine.gpu_settings import gpu_settings
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.terminal.machine import machine, versions
from ld4lg_fast.training.command import end_processes, stage_work
from ld4lg_fast.training.interrupts import Interrupts
from ld4lg_fast.training.metrics_log import MetricsLog
from ld4lg_fast.training.preparation import prepare
from ld4lg_fast.training.run_setup import check_config
from ld4lg_fast.training.session import Session, on_cpu, start_processes
from ld4lg_fast.training.time_budget import RunClock, StageClock
from ld4lg_fast.training.train_section import read_options
from ld4lg_fast.training.training_record import TrainingRecord, data_fingerprint

BOUND = (
    0.05  # relative difference of a loss that other processors, packages or GPUs may make in the first steps
)
NEVER = 10**9  # steps
MOST_THREADS = 1024


class _Repeated(Exception):
    """All recorded steps of a stage were made again."""


class _Replay(TrainingRecord):
    """Gives a stage the recorded learning rates and collects its losses until there are as many."""

    def __init__(self, record: StageRecord) -> None:
        super().__init__(None, {})
        self.rates, self.losses = record.learning_rates, list[float]()

    def begin(self, stage: str, step: int) -> None:
        pass

    def rate(self, stage: str, step: int, rate: float) -> float:
        return self.rates[step]

    def add(self, stage: str, step: int, rates: Sequence[float], losses: Sequence[float]) -> None:
        self.losses += losses
        if len(self.losses) == len(self.rates):
            raise _Repeated


@dataclass(frozen=True)
class Comparison:
    """Losses of a stage's first steps, recorded and made again.

    ``exact``: whether they must be bit-equal, as processor, threads and versions are those of the record; else they may
    differ by `BOUND`, because of ``other``.
    """

    stage: str
    recorded: list[float]
    repeated: list[float]
    exact: bool
    other: str

    @property
    def largest(self) -> float:
        """Largest relative difference of a step's losses."""
        pairs = zip(self.recorded, self.repeated, strict=True)
        return max(abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in pairs)

    @property
    def passed(self) -> bool:
        return self.largest <= (0 if self.exact else BOUND)

    def __str__(self) -> str:
        steps = f"the {self.stage} stage's first {len(self.recorded)} losses"
        rule = (
            "bit-equal, as on the same processor with the same versions"
            if self.exact
            else f"equal up to {BOUND:.0%}, as {self.other}"
        )
        if self.passed:
            return f"Repeated: {steps} are {rule}."
        pairs = enumerate(zip(self.recorded, self.repeated, strict=True), start=1)
        limit = 0 if self.exact else BOUND
        step, (old, new) = next(
            (step, pair) for step, pair in pairs if abs(pair[0] - pair[1]) > limit * max(map(abs, pair))
        )
        return (
            f"Different: {steps} ought to be {rule}, but that of step {step} was {old:.9g} and is {new:.9g}."
        )


def verify_training(run_dir: Path) -> list[Comparison]:
    """Trains the recorded steps of each stage again, in temporary folders; the run is not changed.

    Raises:
        CheckpointError: the run has no record, or a damaged one.
        ConfigError: it was trained by several processes, or on another corpus.
    """
    run = RunDirectory(run_dir)
    if not run.training_record.exists():
        raise CheckpointError(
            f"{run_dir} has no {run.training_record.name}, as runs of earlier versions and models that ship, so that "
            "its training cannot be repeated; its texts may be, with --samples."
        )
    stages = read(TrainingRecordFile, run.training_record, "a run directory").stages
    found = [_repeat(run, stage, record) for stage, record in stages.items() if record.losses]
    if not found:
        raise CheckpointError(
            f"{run.training_record} has no losses of any stage; train it with this version."
        )
    return found


def _repeat(run: RunDirectory, stage: str, record: StageRecord) -> Comparison:
    if record.processes > 1:
        raise ConfigError(
            f"The {stage} stage of {run.path} was trained by {record.processes} processes, and this command is one; "
            "runs of one process can be verified."
        )
    check_config(record.config)
    config = _config(record)
    threads = torch.get_num_threads()
    recorded = record.machine.get("threads", "")
    if recorded.isdecimal() and 1 <= int(recorded) <= MOST_THREADS:
        torch.set_num_threads(int(recorded))
    processes = start_processes()
    try:
        with tempfile.TemporaryDirectory(prefix="ld4lg_verify_") as folder, Interrupts() as interrupts:
            there = RunDirectory(folder)
            there.copy(run.path, _needed(stage))
            options = read_options(config["train"])
            accelerator = Accelerator(cpu=on_cpu(), mixed_precision=options.precision)
            clock, replay = RunClock(None), _Replay(record)
            log = MetricsLog(there.log, accelerator, options.autoencoder.steps)
            session = Session(accelerator, there, options, record.seed, clock, interrupts, log, replay)
            prepared = prepare(config, session, [stage])
            if data_fingerprint(prepared.dataset) != record.data:
                raise ConfigError(
                    f"dataset={prepared.dataset.name} is not the corpus that the {stage} stage of {run.path} was "
                    f"trained on: it was read from {prepared.dataset.origin}; put the original one there."
                )
            work = stage_work(prepared.pretrained)[stage]
            try:
                with gpu_settings(accelerator.device):
                    work(config, prepared.dataset, session, StageClock(clock, 0.0, None))
            except _Repeated:
                pass
            here = machine(accelerator.device) | versions()
        then = record.machine | record.versions
        other = sorted(name for name in here.keys() | then.keys() if here.get(name) != then.get(name))
        exact = not other and accelerator.device.type == "cpu"
        return Comparison(stage, record.losses, replay.losses, exact, _difference(other, here, then))
    finally:
        torch.set_num_threads(threads)
        end_processes(processes)


def _needed(stage: str) -> Sequence[str]:
    """Parts of the run that a stage starts from."""
    return {"autoencoder": (), "diffusion": ("autoencoder",), "decoder": ("denoiser",)}[stage]


def _config(record: StageRecord) -> dict[str, Any]:
    """The recorded config, without limits of time and without anything that is made between the steps."""
    rarely = dict.fromkeys(("checkpoint_every", "validate_every"), NEVER)
    plain = {"max_minutes": None, "profile": False, "wandb": False, "tensorboard": False, "log_every": 1}
    own = {"mixed_precision": record.precision, "share_latents": False}
    train = dict(record.config["train"]) | rarely | plain | own
    # Nobody has given this command consent to run code of a model.
    autoencoder = {
        name: False if f"autoencoder.{name}" in CONSENTS else value
        for name, value in record.config["autoencoder"].items()
    }
    return dict(record.config) | {"train": train, "autoencoder": autoencoder, "resume": False}


def _difference(names: Sequence[str], here: dict[str, str], then: dict[str, str]) -> str:
    """What is not as recorded, as a clause."""
    if not names:
        return "GPUs add in no fixed order"
    name = names[0]
    more = f" (and {len(names) - 1} more)" if names[1:] else ""
    return f"{name} was {then.get(name, 'none')} and is {here.get(name, 'none')}{more}"
