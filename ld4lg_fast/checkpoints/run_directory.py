"""Paths of a run directory, and moves and copies that never overwrite a run."""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ld4lg_fast.checkpoints.run_lock import NAME as LOCK
from ld4lg_fast.checkpoints.run_lock import RunLock
from ld4lg_fast.checkpoints.stored_config import is_run_config
from ld4lg_fast.errors import CheckpointError, ConfigError

STAGE_ONE_RESULTS = (
    "autoencoder",
    "statistics.json",
    "reconstruction.json",
    "training_record.json",
    "logs",
    "cache",
)


class RunDirectory:
    """Paths inside a run directory."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.autoencoder = self.path / "autoencoder"
        self.denoiser = self.path / "denoiser"
        self.statistics = self.path / "statistics.json"
        self.reconstruction = self.path / "reconstruction.json"
        self.decoder_tolerance = self.path / "decoder_tolerance.json"
        self.training_record = self.path / "training_record.json"
        self.stored_samples = self.path / "samples" / "stored.json"
        self.log = self.path / "logs" / "train.jsonl"
        self.curves = self.path / "curves.png"
        self.samples = self.path / "samples"
        self.cache = self.path / "cache"
        self.tokenizer = self.cache / "tokenizer"

    def checkpoints(self, stage: str) -> Path:
        return self.path / "checkpoints" / stage

    @property
    def has_autoencoder(self) -> bool:
        return (self.autoencoder / "autoencoder.json").exists()

    @property
    def has_denoiser(self) -> bool:
        return (self.denoiser / "config.json").exists()

    @property
    def has_diffusion_stage(self) -> bool:
        """Whether the second stage has started."""
        return self.has_denoiser or any(self.checkpoints("diffusion").glob("step_*"))

    def is_empty(self) -> bool:
        """Whether the directory is missing or holds nothing but a lock.

        Raises:
            ConfigError: the path is a file, or is not valid UTF-8, which weights need.
        """
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"hydra.run.dir={self.path} is not UTF-8 text, as weights need it; choose another directory, or a "
                "UTF-8 locale."
            ) from error
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"hydra.run.dir={self.path} is a file; choose a directory.")
        return not self.path.exists() or all(path.name == LOCK for path in self.path.iterdir())

    def check_ours(self) -> None:
        """Checks that the directory is empty or a run.

        Raises:
            ConfigError: it has other content and no config.yaml of a run.
        """
        if not self.is_empty() and not is_run_config(self.config):
            raise ConfigError(
                f"{self.path} is not empty and holds no run of ld4lg-fast, so nothing was touched; "
                "choose another directory with hydra.run.dir=..."
            )

    def move_aside(self, lock: RunLock, kept: Sequence[str] = ()) -> Path:
        """Renames the directory to the next free ``<path>.<n>`` and creates and locks a new one in its place.

        ``kept`` is copied into the new one.

        Raises:
            CheckpointError: the disk is full or cannot be written to; the move is then undone.
            ConfigError: another process locked the new directory first.
        """
        path = self.path.resolve()
        number = 1
        while os.path.lexists(aside := path.with_name(f"{path.name}.{number}")):
            number += 1
        try:
            os.rename(path, aside)
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be renamed {aside} ({error.strerror}); choose another directory with "
                "hydra.run.dir=..."
            ) from error
        try:
            lock.follow(aside)
            self.copy(aside, kept)
        except CheckpointError:
            shutil.rmtree(path, ignore_errors=True)
            os.rename(aside, path)
            raise
        return self.path.with_name(aside.name)

    def copy(self, other: Path, names: Sequence[str]) -> None:
        """Copies the files and folders ``names`` that exist in another run directory.

        Files of caches are written once and replaced as a whole, so they are linked where the file system can.

        Raises:
            CheckpointError: the disk is full or cannot be written to; partial copies are removed.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in names:
                if (other / name).is_dir():
                    copied: Callable = _linked if name == self.cache.name else shutil.copy2
                    shutil.copytree(other / name, self.path / name, copy_function=copied)
                elif (other / name).exists():
                    shutil.copy2(other / name, self.path / name)
        except (OSError, shutil.Error) as error:
            for name in names:
                shutil.rmtree(self.path / name, ignore_errors=True)
                with suppress(OSError):
                    (self.path / name).unlink()
            raise CheckpointError(
                f"{other} cannot be copied to {self.path} ({error}); free some space there or choose another directory."
            ) from error


def _linked(old: str, new: str) -> None:
    """A hard link, or where there are none a copy."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)
