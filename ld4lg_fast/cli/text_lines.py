"""Texts as JSON lines, appended batch by batch: any number of texts in the memory of one batch.

An interrupted command goes on where it stopped, and its file is byte for byte that of an uninterrupted one: only whole
batches of it stay, and the texts of a batch depend on the settings and on their ids alone. Beside ``texts.jsonl`` lies
``texts.settings.json``, so that nothing goes on with other settings.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ld4lg_fast._version import __version__
from ld4lg_fast.checkpoints.files import MAX_JSON_BYTES, parse_json, read_json, size_of, write_json
from ld4lg_fast.checkpoints.fingerprint import FILE as FINGERPRINT
from ld4lg_fast.checkpoints.shipped import run_directory
from ld4lg_fast.cli.sampling_output import list_texts, prefix_of, sampling_bars
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.evaluation.cache import fingerprint
from ld4lg_fast.export.runtime.option_checks import WholeNumber
from ld4lg_fast.options.checks import check
from ld4lg_fast.pipeline.outputs import Progress
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.session import on_main

SUFFIX = ".jsonl"
SHOWN = 8  # texts that are printed


@dataclass
class TextLines:
    """File of ``num_texts`` lines ``{"id": 0, "text": ...}``, of which it has the first ``done``, in ``size`` bytes."""

    path: Path
    num_texts: int
    batch_size: int
    settings: Mapping[str, Any]
    done: int = 0
    size: int = 0
    has_appended: bool = False

    @classmethod
    def open(cls, path: Path, num_texts: int, batch_size: int, settings: Mapping[str, Any]) -> "TextLines":
        """A file to begin or to go on with; nothing on disk is changed.

        Args:
            batch_size: texts that are appended at once; a file that was begun keeps its own.
            settings: all that the texts depend on, as JSON.

        Raises:
            ConfigError: the file was begun with other settings, or by something else.
            CheckpointError: the file, or that of its settings, is damaged.
        """
        lines = cls(path, num_texts, batch_size, json.loads(json.dumps(settings)))
        if not lines._settings_path.exists():
            if path.exists() and size_of(path):
                raise ConfigError(
                    f"{path} exists, and {lines._settings_path.name}, which says what it was begun with, is not beside "
                    "it; name another file."
                )
            return lines
        begun = read_json(lines._settings_path, "a folder of sampled texts")
        lines.batch_size = begun.get("batch_size", 0)
        check(f"batch_size of {lines._settings_path}", lines.batch_size, WholeNumber())
        if differing := _first_difference(begun, lines._content()):
            name, old, new = differing
            raise ConfigError(
                f"{path} was begun with {name}={old}, and this command has {name}={new}; repeat the first command to "
                "go on with it, or name another file."
            )
        if path.exists():
            lines._find_whole_batches()
        return lines

    def batches(self) -> Iterator[tuple[int, int]]:
        """First id, and id after the last one, of each batch that is left."""
        for first in range(self.done, self.num_texts, self.batch_size):
            yield first, min(first + self.batch_size, self.num_texts)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the next batch; what else stands after the batches before is overwritten.

        Raises:
            CheckpointError: the disk is full, or another process writes to the file.
        """
        numbered = ({"id": self.done + place} | dict(row) for place, row in enumerate(rows))
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in numbered)
        content = text.encode(errors="backslashreplace")
        if not self.done:
            write_json(self._settings_path, self._content())
        try:
            with open(self.path, "r+b" if self.done else "wb") as file:
                found = file.seek(0, os.SEEK_END)
                if found < self.size or (found > self.size and self.has_appended):
                    raise CheckpointError(
                        f"{self.path} was changed while this command wrote to it; end the other one, and repeat this."
                    )
                file.truncate(self.size)
                file.seek(self.size)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be written ({error.strerror}); free some space there and repeat the command, "
                f"which goes on after {self.done} texts."
            ) from error
        self.has_appended = True
        self.done += len(rows)
        self.size += len(content)

    @property
    def _settings_path(self) -> Path:
        return self.path.with_suffix(".settings.json")

    def _content(self) -> dict[str, Any]:
        return {
            "num_texts": self.num_texts,
            "batch_size": self.batch_size,
            "settings": self.settings,
            "versions": {"ld4lg_fast": __version__, "torch": torch.__version__},
        }

    def _find_whole_batches(self) -> None:
        """Sets ``done`` and ``size`` to the whole batches in the file."""
        count = size = 0
        last = b""
        with open(self.path, "rb") as file:
            # A line that the process was killed in has no end.
            while (line := file.readline(MAX_JSON_BYTES)).endswith(b"\n"):
                count, size = count + 1, size + len(line)
                if count == self.num_texts or count % self.batch_size == 0:
                    self.done, self.size, last = count, size, line
        row = parse_json(last.decode(errors="replace"), self.path) if self.done else {"id": -1}
        if count > self.num_texts or not isinstance(row, dict) or row.get("id") != self.done - 1:
            raise CheckpointError(
                f"{self.path} is damaged: its first {count} lines are not texts 0 to {count - 1} of {self.num_texts}; "
                f"delete it and {self._settings_path.name} to begin again."
            )


def model_identity(run_dir: Path | None, pipe: TextDiffusionPipeline) -> dict[str, Any]:
    """What tells a model from another one of the same name, and where it runs."""
    path = run_directory(run_dir) / FINGERPRINT
    content = digest([path.read_text(encoding="utf-8")]) if path.is_file() else None
    return {"run": str(run_dir), "fingerprint": content, "device": pipe.device.type}


def digest(texts: Sequence[str] | None) -> str | None:
    """A short hash of texts."""
    return None if texts is None else fingerprint(texts)


def write_lines(
    path: Path,
    num_texts: int,
    batch_size: int,
    settings: Mapping[str, Any],
    sample: Callable[[int, int, Progress], list[dict[str, Any]] | None],
    processes: PartialState,
) -> Path | None:
    """Writes the texts that a file of JSON lines does not have yet, and prints the first of them.

    Args:
        sample: called in all processes as ``sample(first, last, progress)``; returns the texts ``first`` to
            ``last - 1``, and None in all but the main process.

    Returns:
        the path; None in all but the main process.

    Raises:
        ConfigError, CheckpointError: as `TextLines`.
    """
    lines = on_main(processes, lambda: TextLines.open(path, num_texts, batch_size, settings))
    before, start = lines.done, time.perf_counter()
    shown: list[dict[str, Any]] = []
    with sampling_bars() as progress:
        for first, last in lines.batches():
            rows = sample(first, last, progress) or []
            on_main(processes, partial(lines.append, rows))
            shown += rows[: SHOWN - len(shown)]
            progress("texts", last, num_texts)
    if not processes.is_main_process:
        return None
    if before == num_texts:
        console.print(f"{path} already has all {num_texts} texts.")
        return path
    list_texts([row["text"] for row in shown], list(map(prefix_of, shown)))
    went_on = f", after the {before} that it had" if before else ""
    seconds = time.perf_counter() - start
    console.print(f"{num_texts - before} texts in {seconds:.1f} s. Written to {path}{went_on}.")
    return path


def _first_difference(old: Any, new: Any, name: str = "") -> tuple[str, str, str] | None:
    """Name and JSON of the first value that two JSON objects do not share, without the names of objects around it."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = (_first_difference(old.get(key), new.get(key), key) for key in {**new, **old})
        return next(filter(None, found), None)
    return None if old == new else (name, json.dumps(old), json.dumps(new))
