"""What all parts of a training command share: processes, run directory, clock, interruptions."""

from collections.abc import Callable
from dataclasses import dataclass
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

# Processes wait for one another while shards of the corpus are encoded, however unequal their work.
LONGEST_WAIT = timedelta(hours=6)

T = TypeVar("T")


def on_cpu() -> bool:
    """Whether training runs on the CPU, also with several processes (which Accelerate must then be told)."""
    return not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")


def start_processes() -> PartialState:
    """Joins the processes that a launcher started; alone without one."""
    return PartialState(cpu=on_cpu(), timeout=LONGEST_WAIT)


def on_main(processes: Accelerator | PartialState, work: Callable[[], T]) -> T:
    """Runs ``work`` in the main process alone; all get its result, or are raised its `LD4LGError` or `Interrupted`."""
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
    """Runs ``work`` in every process; where it fails or is interrupted in one, all raise that one's error."""
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
    """One training command. ``seed`` is that of the run."""

    accelerator: Accelerator
    run: RunDirectory
    options: TrainOptions
    seed: int
    clock: RunClock
    interrupts: Interrupts
    metrics_log: MetricsLog

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
        """Whether ``accelerate launch`` was told to use FSDP (which Accelerate itself does on GPUs alone)."""
        return parse_flag_from_env("ACCELERATE_USE_FSDP")

    def mine(self, items: Any) -> Any:
        """This process's part of what all processes together work on."""
        return items[self.rank :: self.world_size]

    def main_first(self, work: Callable[[], T]) -> T:
        """`alone`, first in the main process, then in the others, which find what that one left in a cache."""
        found: list[T] = []

        def run() -> T:
            with self.interrupts.at_once():
                return work()

        on_main(self.accelerator, lambda: found.append(run()))
        return found[0] if found else run()

    def alone(self, work: Callable[[], T]) -> T:
        """Runs long work in every process, without exchange between them; a signal ends it where it is, in all."""

        def run() -> T:
            with self.interrupts.at_once():
                return work()

        return together(self.accelerator, run)

    def summed(self, *values: float) -> list[float]:
        """Each value's sum over the processes; call in all of them."""
        if self.world_size == 1:
            return list(values)
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        return self.accelerator.reduce(mine, "sum").tolist()
