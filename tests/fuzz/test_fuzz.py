"""A few hundred cases in every run of the tests, all of them by ``pytest -m fuzz``.

Whatever a folder holds, the command that reads it ends in time and in bounded memory: with the same texts, or with
exit code 2 and one sentence. One case again: ``python -m tests.fuzz run --name 'CASE' --show``.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest

from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from tests.conftest import make_model
from tests.fuzz.cases import copy_of, files_in, removed, without_repetition
from tests.fuzz.harness import (
    CHANGED,
    CLEAR,
    DEAD,
    HUNG,
    NOISY,
    SAME,
    TRACEBACK,
    Result,
    Server,
    outcome,
    summary,
)
from tests.fuzz.targets import TARGETS, fuzz, run_directory_cases

# How many cases. Half of those of a model must be refused; what a training that goes on has is mostly made again, or
# read by nobody.
COUNTS = {"run": 120, "exported": 80, "resume": 10}
REFUSED = {"run": 0.5, "exported": 0.5, "resume": 0.0}
SEED = 29
TITLES = {"run": "run directory", "exported": "exported folder", "resume": "training that goes on"}


ENDS = [
    ({"timed_out": True, "status": -9}, "", "", HUNG),
    ({"timed_out": False, "status": -11}, "", "Fatal Python error: Segmentation fault", DEAD),
    ({"timed_out": False, "status": 0}, "good", "", SAME),
    ({"timed_out": False, "status": 0}, "other", "", CHANGED),
    ({"timed_out": False, "status": 0}, "", "", NOISY),
    ({"timed_out": False, "status": 1}, "", "Traceback (most recent call last):\nValueError", TRACEBACK),
    ({"timed_out": False, "status": 2}, "", "error: It is so.\n", CLEAR),
    ({"timed_out": False, "status": 1}, "", "error: It is so.\n", NOISY),
    ({"timed_out": False, "status": 2}, "", "a warning\nerror: It is so.\n", NOISY),
]


@pytest.mark.parametrize(("answer", "stdout", "stderr", "wanted"), ENDS)
def test_outcomes_are_distinguished(answer, stdout, stderr, wanted):
    def same(output: str) -> bool:
        if not output:
            raise ValueError("no texts")
        return output == "good"

    assert outcome(answer, stdout, stderr, same) == wanted


def test_a_command_has_a_memory_and_a_time_limit(tmp_path):
    server = Server(sys.executable, tmp_path)
    try:
        assert server.run(["doctor", "--json"])[0]["status"] == 0
        answer, _, _ = server.run(["doctor", "--json"], seconds=0.01)
        assert answer["timed_out"] and answer["status"] == -signal.SIGKILL
        assert server.run(["doctor", "--json"], memory=1 << 20)[0]["status"] != 0
    finally:
        server.close()


def check(what: str, results: list[Result], capsys: pytest.CaptureFixture) -> None:
    with capsys.disabled():
        print(f"\n{summary(TITLES[what], results)}")
    bad = [f"{result.outcome}: {result.case.name} ({result.said})" for result in results if result.is_bad]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("what", TARGETS)
def test_some_changed_folders(what, capsys):
    if what == "exported":
        pytest.importorskip("onnxscript")
    results = fuzz(what, COUNTS[what], SEED)
    assert len(results) == COUNTS[what]
    assert sum(result.outcome == CLEAR for result in results) >= REFUSED[what] * len(results)
    check(what, results, capsys)


@pytest.mark.fuzz
@pytest.mark.parametrize("what", TARGETS)
def test_all_changed_folders(what, capsys):
    if what == "exported":
        pytest.importorskip("onnxscript")
    check(what, fuzz(what, workers=os.cpu_count() or 1), capsys)


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files_in(folder)}


@pytest.mark.fuzz
def test_every_case_applies_and_leaves_the_original_folder_unchanged(autoencoder, tmp_path):
    TextDiffusionPipeline(autoencoder, make_model()).save_pretrained(tmp_path / "good")
    before = digests(tmp_path / "good")
    for case in without_repetition(run_directory_cases(tmp_path / "good", tmp_path / "good")):
        case.apply(copy_of(tmp_path / "good", tmp_path / "copy"))
        removed(tmp_path / "copy")
    assert digests(tmp_path / "good") == before
