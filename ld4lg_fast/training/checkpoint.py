"""Checkpoints: one directory per step, written atomically."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from ld4lg_fast.checkpoints.files import read_json, write_atomically, write_json
from ld4lg_fast.checkpoints.tensors import (
    OtherModelError,
    check_weights,
    load_tensors,
    load_weights,
    read_header,
    save_weights,
)
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.ema import Ema

KEPT = 2
_UNFINISHED, _DAMAGED = ".unfinished-", "damaged-"
MODEL, EMA, OPTIMIZER = "model.safetensors", "ema.safetensors", "optimizer.safetensors"


@dataclass
class TrainingState:
    """Progress of a stage: steps done, seconds of the run so far, and the run's second at which the stage started."""

    step: int = 0
    run_seconds: float = 0.0
    stage_start: float = 0.0


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class CheckpointStore:
    """The checkpoints ``step_<n>`` of one stage; the last two are kept.

    Each has ``model.safetensors``, ``ema.safetensors`` if the stage keeps an EMA, ``optimizer.safetensors`` and
    ``state.json``. Tensors are stored unsharded, whatever the number of processes.

    Args:
        has_ema: whether the stage keeps an EMA.
    """

    def __init__(self, directory: Path, has_ema: bool = False) -> None:
        self.directory, self.has_ema = directory, has_ema

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        found = (path.parent.name.removeprefix("step_") for path in self.directory.glob("step_*/state.json"))
        return sorted(int(name) for name in found if name.isdigit())

    def path(self, step: int) -> Path:
        return self.directory / f"step_{step}"

    def sweep(self) -> None:
        """Deletes the remains of interrupted writes, and all but the last checkpoints."""
        whole = {self.path(step) for step in self.steps()[-KEPT:]}
        for path in self.directory.glob("*"):
            if path.is_dir() and path not in whole and path.name.startswith((_UNFINISHED, "step_")):
                shutil.rmtree(path)

    def save(
        self, state: TrainingState, model: nn.Module, ema: Ema | None, optimizer: dict[str, Tensor]
    ) -> Path:
        """Writes a checkpoint under a temporary name, flushes it to disk, then renames it.

        Raises:
            CheckpointError: the disk is full or cannot be written to; earlier checkpoints stay.
        """
        final, temporary = self.path(state.step), self.directory / f"{_UNFINISHED}step_{state.step}"
        if final in map(self.path, self.steps()):
            return final
        self.sweep()
        try:
            temporary.mkdir(parents=True)
            save_weights(model, temporary / MODEL)
            if ema is not None:
                save_weights(ema.module, temporary / EMA)
            write_atomically(temporary / OPTIMIZER, safetensors.torch.save(optimizer))
            write_json(temporary / "state.json", asdict(state))
        except (CheckpointError, OSError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            kept = self.steps()
            good = f"the last good one is {self.path(kept[-1])}" if kept else "there is none before it"
            raise CheckpointError(
                f"The checkpoint of step {state.step} could not be written, {good}; mend this and go on with "
                f"resume=true: {error}"
            ) from error
        _sync(temporary)
        os.replace(temporary, final)
        _sync(self.directory)
        self.sweep()
        return final

    def read_state(self) -> TrainingState | None:
        """The state of the last intact checkpoint; None if there are no checkpoints.

        Raises:
            CheckpointError: all checkpoints are damaged.
        """
        faults = {}
        for step in reversed(self.steps()):
            if (fault := self._fault(step)) is None:
                return self._state(step)
            faults[step] = fault
        if not faults:
            return None
        raise CheckpointError(
            f"{next(iter(faults.values()))} There is no whole checkpoint before it: delete {self.directory}, and the "
            "stage begins anew unless it is finished."
        )

    def set_damaged_aside(self) -> None:
        """Renames damaged checkpoints after the last intact one and prints a message; main process only."""
        state = self.read_state()
        for step in self.steps():
            if state is not None and step > state.step:
                aside = self.directory / f"{_DAMAGED}step_{step}"
                fault = self._fault(step)
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(self.path(step), aside)
                console.print(
                    f"{fault} It is now {aside}, and training goes on from the checkpoint of step {state.step}."
                )

    def _files(self) -> Sequence[str]:
        return (MODEL, EMA, OPTIMIZER) if self.has_ema else (MODEL, OPTIMIZER)

    def _fault(self, step: int) -> str | None:
        """A sentence about damage that is visible in a checkpoint's state and tensor headers, or None."""
        try:
            self._state(step)
            for name in self._files():
                read_header(self.path(step) / name)
        except CheckpointError as error:
            return str(error)
        return None

    def _state(self, step: int) -> TrainingState:
        path = self.path(step) / "state.json"
        content = read_json(path, "a checkpoint")
        try:
            state = TrainingState(**content)
        except TypeError as error:
            raise CheckpointError(f"{path} is damaged or of another version.") from error
        whole = type(state.step) is int and state.step == step
        if not whole or not all(isinstance(s, int | float) for s in (state.run_seconds, state.stage_start)):
            raise CheckpointError(f"{path} is damaged: it is not the state of step {step}.")
        return state

    def restore(
        self, model: nn.Module, ema: Ema | None
    ) -> tuple[TrainingState | None, dict[str, Tensor] | None]:
        """Loads the last intact checkpoint into ``model`` and ``ema``; returns its state and the optimiser's tensors.

        Both are None if there is no checkpoint.

        Raises:
            CheckpointError: it is damaged, or its tensors' names or shapes differ.
        """
        state = self.read_state()
        if state is None:
            return None, None
        path = self.path(state.step)
        try:
            load_weights(model, path / MODEL)
            if ema is not None:
                load_weights(ema.module, path / EMA)
            return state, load_tensors(path / OPTIMIZER)
        except OtherModelError:
            raise
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} Delete {path} to go on from the checkpoint before it, where there is one."
            ) from error

    def check_fits(self, skeleton: nn.Module) -> None:
        """Checks that the last checkpoint fits a model, which may be on the meta device.

        Raises:
            CheckpointError: the tensors' names or shapes differ, or all checkpoints are damaged.
        """
        state = self.read_state()
        if state is not None:
            check_weights(skeleton, self.path(state.step) / MODEL)
