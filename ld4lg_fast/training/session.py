"""State shared by all parts of a training command: processes, run directory, clock, interrupts."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.training.interrupts import Interrupted, Interrupts
from ld4lg_fast.training.metrics_log import MetricsLog
from ld4lg_fast.training.time_budget import RunClock
from ld4lg_fast.training.train_section import TrainOptions
from ld4lg_fast.training.training_record import TrainingRecord

# Processes wait for each other while they encode shards of the corpus, which may differ in length.
LONGEST_WAIT = timedelta(hours=6)

T = TypeVar("T")


def on_cpu() -> bool:
    """Whether training runs on the CPU; with several processes Accelerate needs it as an argument."""
    return not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")


def start_processes() -> PartialState:
    """Initialises the processes of a launcher, or a single one without launcher."""
    return PartialState(cpu=on_cpu(), timeout=LONGEST_WAIT)


def on_main(processes: Accelerator | PartialState, work: Callable[[], T]) -> T:
    """Runs ``work`` in the main process; all processes return its result or raise its `LD4LGError` or `Interrupted`."""
    box: list = [None, None]
    if processes.is_main_process:
        try:
            box[0] = work()
        except (LD4LGError, Interrupted) as error:
            box[1] = error
    if processes.num_processes > 1:
        broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]


def together(processes: Accelerator | PartialState, work: Callable[[], T]) -> T:
    """Runs ``work`` in every process; if one raises `LD4LGError` or `Interrupted`, all raise it."""
    result: Any = None
    error = None
    try:
        result = work()
    except (LD4LGError, Interrupted) as raised:
        error = raised
    errors = gather_object([error]) if processes.num_processes > 1 else [error]
    for error in filter(None, errors):
        raise error
    return result


@dataclass
class Session:
    """One training command; ``seed`` is the run's."""

    accelerator: Accelerator
    run: RunDirectory
    options: TrainOptions
    seed: int
    clock: RunClock
    interrupts: Interrupts
    metrics_log: MetricsLog
    record: TrainingRecord = field(default_factory=lambda: TrainingRecord(None, {}))

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world_size(self) -> int:
        return self.accelerator.num_processes

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def shards_models(self) -> bool:
        """Whether ``accelerate launch`` was given FSDP; Accelerate's own implementation needs GPUs."""
        return parse_flag_from_env("ACCELERATE_USE_FSDP")

    def mine(self, items: Any) -> Any:
        """This process's part of ``items``."""
        return items[self.rank :: self.world_size]

    def mine_here(self, items: Any) -> Any:
        """This process's part of ``items`` among the processes of its machine."""
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        return items[self.accelerator.local_process_index :: here]

    def in_main(self, work: Callable[[], T]) -> T:
        """Runs long work in the main process; a signal stops it, and all processes return its result."""
        return on_main(self.accelerator, lambda: self._interruptible(work))

    def interruptible(self, work: Callable[[], T]) -> T:
        """Runs long work without communication in every process; a signal stops it in all of them."""
        return together(self.accelerator, lambda: self._interruptible(work))

    def _interruptible(self, work: Callable[[], T]) -> T:
        with self.interrupts.immediately():
            return work()

    def summed(self, *values: float) -> list[float]:
        """Sums each value over the processes; call in all of them."""
        if self.world_size == 1:
            return list(values)
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        return self.accelerator.reduce(mine, "sum").tolist()
