"""Fixtures of the benchmarks' tests."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch) -> Callable[..., None]:
    """Runs a script of this repository in this process, as ``python SCRIPT ARGUMENTS`` does."""

    def run(script: str, *arguments: str) -> None:
        with monkeypatch.context() as patched:
            patched.syspath_prepend((ROOT / script).parent)
            patched.setattr(sys, "argv", [script, *arguments])
            runpy.run_path(str(ROOT / script), run_name="__main__")

    return run


@pytest.fixture
def trainings(run, monkeypatch) -> None:
    """Trainings that a benchmark starts run in this process, too."""

    def start(command: list[str], **_: object) -> None:
        assert command[:2] == [sys.executable, str(ROOT / "scripts" / "train.py")]
        run("scripts/train.py", *command[2:])

    monkeypatch.setattr(subprocess, "run", start)
