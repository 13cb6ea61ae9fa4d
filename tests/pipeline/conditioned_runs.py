"""Trainings with conditions and their inference, in this process; shared by tests."""

import json
import shutil
from pathlib import Path

import pytest

from ld4lg_fast.cli import infer as inference
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training import main
from tests.training.small_runs import SMALL, printed

STEPS = 4
SMALLEST = [
    *SMALL,
    "model.denoiser.dropout=0.1",
    "dataset.max_len=32",
    f"train.autoencoder.steps={STEPS}",
    f"train.diffusion.steps={STEPS}",
    "train.checkpoint_every=2",
    "train.validation_texts=4",
    "train.validation_samples=3",
    "train.validation_num_inference_steps=3",
]
PLACES = ("river", "bridge", "market", "old town", "station")
GREEDY = DecodingConfig("greedy", 12, min_length=0)


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(run_dir: Path, *overrides: str) -> str:
    """Runs the training command; returns what it printed."""
    return printed(main, [*SMALLEST, f"hydra.run.dir={run_dir}", *overrides])


def infer(run_dir: Path, *overrides: str) -> tuple[dict, str]:
    """Runs the infer command with few steps; returns its file's content and what it printed."""
    file = run_dir / "texts.json"
    few = ["generation.num_inference_steps=3", "generation.strategy=greedy", f"infer.output_file={file}"]
    with pytest.MonkeyPatch.context() as patch, console.capture() as output:
        patch.setattr("sys.argv", ["infer.py", f"infer.output_dir={run_dir}", *few, *overrides])
        inference.main()
    return json.loads(file.read_text()), output.get()


def losses(run_dir: Path) -> dict:
    lines = [json.loads(line) for line in (run_dir / "logs" / "train.jsonl").read_text().splitlines()]
    return {(line["stage"], line["step"]): line["loss"] for line in lines if "loss" in line}


def resumed(original: Path, run_dir: Path) -> None:
    """Copies a run without the files of its last steps, and resumes the copy."""
    shutil.copytree(original, run_dir)
    for lost in ("denoiser", f"checkpoints/diffusion/step_{STEPS}", "cache"):
        shutil.rmtree(run_dir / lost)
    main(["resume=true", f"hydra.run.dir={run_dir}"])


def class_options(labelled: Path) -> list[str]:
    return ["dataset=custom", f"dataset.root={labelled}", "dataset.label_column=kind"]


def pair_options(pairs: Path) -> list[str]:
    return [
        "dataset=custom",
        f"dataset.root={pairs}",
        "dataset.source_column=source",
        "dataset.source_max_len=40",
    ]
