"""Checkpoints: one directory a step, which appears whole or not at all."""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.training.ema import Ema
from ld4lg_fast.weights import load_weights, read_json, save_weights, write_atomically, write_json

KEPT = 2
_UNFINISHED = ".unfinished-"


@dataclass
class TrainingState:
    """Where a stage is: ``step`` steps done; the run's seconds then, and when the stage began."""

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
    """The checkpoints ``step_<n>`` of one stage: ``model.safetensors``, ``ema.safetensors`` where the stage
    averages, ``optimizer.safetensors`` and ``state.json``; all tensors whole, however many processes there
    are. The last two are kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        found = (path.parent.name.removeprefix("step_") for path in self.directory.glob("step_*/state.json"))
        return sorted(int(name) for name in found if name.isdigit())

    def path(self, step: int) -> Path:
        return self.directory / f"step_{step}"

    def sweep(self) -> None:
        """Deletes what interrupted writes left behind, and all but the last checkpoints."""
        whole = {self.path(step) for step in self.steps()[-KEPT:]}
        for path in self.directory.glob("*"):
            if path.is_dir() and path not in whole and path.name.startswith((_UNFINISHED, "step_")):
                shutil.rmtree(path)

    def save(
        self, state: TrainingState, model: nn.Module, ema: Ema | None, optimizer: dict[str, Tensor]
    ) -> Path:
        """Writes a checkpoint beside the others, flushes it to disk, then gives it its name.

        Raises:
            CheckpointError: the disk is full or cannot be written to; the checkpoints before stay.
        """
        final, temporary = self.path(state.step), self.directory / f"{_UNFINISHED}step_{state.step}"
        if final in map(self.path, self.steps()):
            return final
        self.sweep()
        try:
            temporary.mkdir(parents=True)
            save_weights(model, temporary / "model.safetensors")
            if ema is not None:
                save_weights(ema.module, temporary / "ema.safetensors")
            write_atomically(temporary / "optimizer.safetensors", safetensors.torch.save(optimizer))
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
        """The state of the last complete checkpoint, or None where there is none.

        Raises:
            CheckpointError: it is damaged.
        """
        steps = self.steps()
        if not steps:
            return None
        path = self.path(steps[-1])
        try:
            return TrainingState(**read_json(path / "state.json", "a checkpoint"))
        except TypeError as error:
            raise CheckpointError(
                f"{path}/state.json is not of this version; delete {path} to go on."
            ) from error

    def restore(
        self, model: nn.Module, ema: Ema | None
    ) -> tuple[TrainingState | None, dict[str, Tensor] | None]:
        """Loads the last complete checkpoint into the two; its state and the optimiser's tensors.

        Nones where there is none.

        Raises:
            CheckpointError: it is damaged, or its tensors have other names or shapes.
        """
        state = self.read_state()
        if state is None:
            return None, None
        path = self.path(state.step)
        load_weights(model, path / "model.safetensors")
        if ema is not None:
            load_weights(ema.module, path / "ema.safetensors")
        tensors = path / "optimizer.safetensors"
        try:
            return state, safetensors.torch.load_file(tensors)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{tensors} cannot be loaded ({error}); delete {path} to go on from the checkpoint before it."
            ) from error
