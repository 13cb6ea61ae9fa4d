"""Runs of the training command in this process, with models that train in seconds; shared by the tests."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ld4lg_fast.terminal.console import console
from ld4lg_fast.training import main
from ld4lg_fast.training.shards import open_rows

STEPS, LAST_CHECKPOINT = 6, 4
MODEL = [
    "model=tiny",
    "model.language_model.vocab_size=300",
    "model.perceiver.num_latents=4",
    "model.perceiver.dim_latent=8",
    "model.denoiser.dim=64",
    "model.denoiser.depth=2",
]
BATCHES = ["train.autoencoder.batch_size=16", "train.diffusion.batch_size=16"]
SMALL = [*MODEL, *BATCHES, "train.mixed_precision=no", "train.log_every=1"]
SMALLEST = [
    *SMALL,
    "dataset=demo",
    "dataset.num_examples=60",
    "model.language_model.dropout=0.1",
    "model.denoiser.dropout=0.1",
    f"train.autoencoder.steps={STEPS}",
    f"train.diffusion.steps={STEPS}",
    f"train.checkpoint_every={LAST_CHECKPOINT}",
    "train.validate_every=3",
    "train.validation_texts=8",
    "train.validation_samples=2",
    "train.validation_num_inference_steps=3",
]


def command(run_dir: Path, *overrides: str) -> None:
    main([*SMALLEST, f"hydra.run.dir={run_dir}", *overrides])


def printed(work: Callable[..., None], *arguments) -> str:
    """Runs a command as a script of the checkout; returns what it printed."""
    with pytest.MonkeyPatch.context() as patch, console.capture() as output:
        patch.setattr("sys.argv", ["scripts/train.py"])
        work(*arguments)
    return output.get()


def records(run_dir: Path) -> list[dict]:
    """The lines of ``logs/train.jsonl``."""
    return [json.loads(line) for line in (run_dir / "logs" / "train.jsonl").read_text().splitlines()]


def losses(run_dir: Path, stage: str, kind: str = "loss") -> dict[int, float]:
    """Losses of a stage, by step."""
    return {r["step"]: r[kind] for r in records(run_dir) if r["stage"] == stage and kind in r}


def cached(run_dir: Path) -> torch.Tensor:
    """The latents of all training texts, as the second stage read them."""
    rows = open_rows(run_dir / "cache" / "latents")
    return rows.take(range(len(rows)))


def refused(capsys, work: Callable[..., object], *arguments) -> str:
    """Runs a command that must exit with code 2; returns the sentence that it says."""
    with pytest.raises(SystemExit) as stop:
        work(*arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error
