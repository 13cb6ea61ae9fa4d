"""The commands and Python examples of README and docs, run as they stand but for sizes that make them small.

A line of a ``bash`` block is run in one process with the test, in a folder that holds what the documents name.
"""

import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from ld4lg_fast.cli import bench
from ld4lg_fast.cli import main as cli
from ld4lg_fast.training import command as training

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

SMALL_TRAINING = [
    *(
        "train.autoencoder.steps=2",
        "train.diffusion.steps=2",
        "train.log_every=1",
        "train.validation_texts=4",
    ),
    *("train.autoencoder.batch_size=8", "train.diffusion.batch_size=8", "train.validation_samples=1"),
    *(
        "train.validation_num_inference_steps=2",
        "model.language_model.dim=64",
        "model.language_model.vocab_size=300",
    ),
    *("model.perceiver.num_latents=4", "model.perceiver.dim_latent=8", "model.denoiser.dim=64"),
    "model.denoiser.depth=2",
    "dataset.limit=400",
]
SMALL_SAMPLING = ["generation.num_inference_steps=2", "generation.max_length=10"]
SMALL_EVALUATION = [
    *SMALL_SAMPLING,
    *(f"evaluation.{kind}_model=null" for kind in ("mauve", "sentence", "perplexity", "bertscore")),
]
NOT_RUN = ("pytest", "accelerate launch", "python tests/", "python benchmarks/", "docker", "ld4lg serve")
"""What other tests run, or what takes a GPU or minutes: its files and options are checked instead."""


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.S)


def commands(document: Path) -> Iterator[str]:
    for block in blocks(document, "bash"):
        yield from (line for line in block.splitlines() if line.strip() and not line.startswith("#"))


def run(line: str, monkeypatch) -> None:
    """Runs a command line in the current folder; it must succeed."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["pip", "install"]:
        _check_installation(words[2:])
    elif line.startswith(NOT_RUN):
        _check_files(words)
    elif words[0] == "ld4lg":
        _run_ld4lg(words, monkeypatch)
    else:
        assert words[0] == "python", f"no test knows how to run: {line}"
        _run_script(words[1:], monkeypatch)


def _check_installation(words: list[str]) -> None:
    known = PYPROJECT["project"]["optional-dependencies"]
    for extra in re.findall(r"\[([\w,-]+)\]", " ".join(words)):
        assert set(extra.split(",")) <= set(known), extra


def _check_files(words: list[str]) -> None:
    for word in words:
        if "/" in word and not re.search(r"[=$]|outputs/", word):
            assert (ROOT / word).exists(), word


def _run_ld4lg(words: list[str], monkeypatch) -> None:
    name, arguments = words[1], words[2:]
    if name == "bench" and arguments:  # a benchmark takes minutes; that it is started is what counts here
        started = []
        monkeypatch.setattr(bench.subprocess, "run", lambda command: started.append(command) or _Done)
        _call(cli.main, words, monkeypatch)
        assert Path(started[0][1]).exists()
        return
    if name in ("train", "demo"):
        _train_small(monkeypatch)
    few = ["--num-inference-steps", "2"]
    small = {"sample": few, "evaluate": SMALL_EVALUATION, "run-onnx": few, "guide": ["--num-samples", "20"]}
    arguments += small.get(name, [])
    _call(cli.main, ["ld4lg", name, *arguments], monkeypatch)


def _run_script(words: list[str], monkeypatch) -> None:
    script = Path(words[0])
    path = script if script.exists() else ROOT / script
    monkeypatch.syspath_prepend(path.parent.resolve())  # as python does with a script's folder
    more = {
        "train.py": SMALL_TRAINING,
        "infer.py": SMALL_SAMPLING,
        "test.py": SMALL_EVALUATION,
        "generate.py": ["--num-inference-steps", "2"],
    }[path.name]
    _call(lambda: runpy.run_path(str(path), run_name="__main__"), [*words, *more], monkeypatch)


def _train_small(monkeypatch) -> None:
    train = training.main
    monkeypatch.setattr(training, "main", lambda overrides: train([*overrides, *SMALL_TRAINING]))


def _call(main, words: list[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", words)
    try:
        main()
    except SystemExit as stopped:
        assert not stopped.code, f"{shlex.join(words)} ended with {stopped.code}"


class _Done:
    returncode = 0
