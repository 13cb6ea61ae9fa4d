"""A run directory: where everything of a run lies, and how nothing in it is ever overwritten."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.training.stored_config import is_run_config

STAGE_ONE_RESULTS = ("autoencoder", "statistics.json", "reconstruction.json", "logs", "cache")


class RunDirectory:
    """Paths inside a run directory."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.autoencoder = self.path / "autoencoder"
        self.denoiser = self.path / "denoiser"
        self.statistics = self.path / "statistics.json"
        self.reconstruction = self.path / "reconstruction.json"
        self.log = self.path / "logs" / "train.jsonl"
        self.curves = self.path / "curves.png"
        self.samples = self.path / "samples"
        self.cache = self.path / "cache"

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
        """Whether the second stage has begun here."""
        return self.has_denoiser or any(self.checkpoints("diffusion").glob("step_*"))

    def is_empty(self) -> bool:
        """Whether there is nothing at all; a missing directory is empty.

        Raises:
            ConfigError: the path is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"hydra.run.dir={self.path} is a file; choose a directory.")
        return not self.path.exists() or not any(self.path.iterdir())

    def check_ours(self) -> None:
        """Refuses a directory that holds something else than a run.

        Raises:
            ConfigError: it is not empty and has no config.yaml that a run wrote.
        """
        if not self.is_empty() and not is_run_config(self.config):
            raise ConfigError(
                f"{self.path} is not empty and holds no run of ld4lg-fast, so nothing was touched; "
                "choose another directory with hydra.run.dir=..."
            )

    def move_aside(self, keep_stage_one: bool = False) -> Path:
        """Renames the directory to the next free ``<path>.<n>`` and makes a new one in its place.

        ``keep_stage_one`` copies what the second stage needs into the new one.
        """
        path = self.path.resolve()
        number = 1
        while (aside := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        os.rename(path, aside)
        path.mkdir()
        if keep_stage_one:
            self.copy_stage_one(aside)
        return self.path.with_name(aside.name)

    def copy_stage_one(self, other: Path) -> None:
        """Copies what the second stage needs from another run directory into this one."""
        self.copy(other, STAGE_ONE_RESULTS)

    def copy(self, other: Path, names: Sequence[str]) -> None:
        """Copies files and folders of those names from another run directory, as far as they are there."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in names:
            source = other / name
            if source.is_dir():
                shutil.copytree(source, self.path / name)
            elif source.exists():
                shutil.copy2(source, self.path / name)
