"""The metrics log of a run: one JSON line per logged step, and a copy for W&B and TensorBoard."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from accelerate import Accelerator

from ld4lg_fast.checkpoints.files import write_atomically
from ld4lg_fast.errors import CheckpointError, ConfigError


class MetricsLog:
    """Writes ``logs/train.jsonl`` and, if enabled, W&B and TensorBoard; in the main process only.

    ``autoencoder_steps`` is added to the second stage's steps, as trackers need increasing steps.
    """

    def __init__(self, path: Path, accelerator: Accelerator, autoencoder_steps: int) -> None:
        self.path, self.accelerator = path, accelerator
        self._first_step = {"autoencoder": 0, "diffusion": autoencoder_steps, "decoder": 0}

    def forget_after(self, stage: str, step: int) -> None:
        """Removes the lines of steps after ``step``, which are repeated, and the line that the stage finished."""
        if not self.accelerator.is_main_process or not self.path.exists():
            return
        lines = read_log(self.path)
        kept = [r for r in lines if r["stage"] != stage or (r["step"] <= step and "finished" not in r)]
        content = "".join(f"{json.dumps(record)}\n" for record in kept).encode()
        if content != self.path.read_bytes():
            write_atomically(self.path, content)

    def has(self, stage: str, step: int, name: str) -> bool:
        """Whether ``name`` was logged for that step."""
        lines = read_log(self.path)
        return any((line["stage"], line["step"]) == (stage, step) and name in line for line in lines)

    def warnings(self) -> list[str]:
        """Warnings of the finished stages."""
        ends = {line["stage"]: line for line in read_log(self.path) if "finished" in line}
        return [line["warning"] for line in ends.values() if line.get("warning")]

    def write(self, stage: str, step: int, **values: float | str | bool | None) -> None:
        """Appends a line with ``stage``, ``step`` and the values.

        Raises:
            CheckpointError: the disk is full.
        """
        if self.accelerator.is_main_process:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
            except OSError as error:
                raise CheckpointError(
                    f"{self.path} cannot be written ({error.strerror}); free some space and go on with resume=true."
                ) from error
        tracked = {f"{stage}/{name}": v for name, v in values.items() if isinstance(v, int | float)}
        self.accelerator.log(tracked, step=self._first_step[stage] + step)

    def start_trackers(self, project: str, config: Mapping) -> None:
        """Starts the accelerator's trackers.

        Raises:
            ConfigError: one of them cannot be started.
        """
        flat = {
            f"{section}.{key}": value
            for section, values in config.items()
            if isinstance(values, Mapping)
            for key, value in values.items()
            if isinstance(value, int | float | str | bool)
        }
        places = {"wandb": {"dir": str(self.path.parent)}}  # TensorBoard's is the accelerator's own
        try:
            self.accelerator.init_trackers(project, config=flat, init_kwargs=places)
        except Exception as error:  # trackers raise many kinds without login or network
            raise ConfigError(
                f"A tracker cannot be started ({error}); mend that, or set train.wandb=false and "
                "train.tensorboard=false."
            ) from error


def read_log(path: Path) -> list[dict]:
    """The complete lines of ``train.jsonl``; a killed process or a full disk may leave a partial one."""
    found: list[dict] = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            with suppress(ValueError):
                found.append(json.loads(line))
    kinds = {"stage": str, "step": int}
    return [r for r in found if isinstance(r, dict) and all(type(r.get(k)) is kinds[k] for k in kinds)]
