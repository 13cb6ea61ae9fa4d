"""What a run writes down: a JSON line for every logged step, and the trackers' copy of it."""

import json
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.weights import write_atomically


class Journal:
    """``logs/train.jsonl`` and, where asked for, W&B and TensorBoard. Only the main process writes.

    ``autoencoder_steps``: trackers want steps that only rise, so the second stage's come after these.
    """

    def __init__(self, path: Path, accelerator: Accelerator, autoencoder_steps: int) -> None:
        self.path, self.accelerator = path, accelerator
        self._first_step = {"autoencoder": 0, "diffusion": autoencoder_steps, "decoder": 0}
        if accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)

    def forget_after(self, stage: str, step: int) -> None:
        """Drops the lines of steps that an interruption lost and that are now done again."""
        if not self.accelerator.is_main_process or not self.path.exists():
            return
        lines = self.path.read_text().splitlines()
        kept = [line for line in lines if _is_kept(line, stage, step)]
        if kept != lines:
            write_atomically(self.path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, stage: str, step: int, **values: float) -> None:
        """One line: ``stage``, ``step`` and the values.

        Raises:
            CheckpointError: the disk is full.
        """
        if self.accelerator.is_main_process:
            try:
                with open(self.path, "a") as file:
                    file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
            except OSError as error:
                raise CheckpointError(
                    f"{self.path} cannot be written ({error.strerror}); free some space and go on with resume=true."
                ) from error
        tracked = {f"{stage}/{name}": value for name, value in values.items()}
        self.accelerator.log(tracked, step=self._first_step[stage] + step)

    def start_trackers(self, project: str, config: Mapping) -> None:
        """Opens the trackers that the accelerator was made with."""
        flat = {
            f"{section}.{key}": value
            for section, values in config.items()
            if isinstance(values, Mapping)
            for key, value in values.items()
            if isinstance(value, int | float | str | bool)
        }
        places = {"wandb": {"dir": str(self.path.parent)}}  # TensorBoard's is the accelerator's own
        self.accelerator.init_trackers(project, config=flat, init_kwargs=places)


def _is_kept(line: str, stage: str, step: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:  # the last line of a process that was killed
        return False
    return record.get("stage") != stage or record.get("step", 0) <= step
