"""One process at a time writes into a run directory."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ld4lg_fast.checkpoints import run_lock
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.checkpoints.run_lock import RunLock
from ld4lg_fast.cli.infer import learn_and_keep_timesteps
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from tests.conftest import make_model
from tests.training.small_runs import losses
from tests.training.test_train_cli import ENVIRONMENT, GRACE, SCRIPT, SMALLEST, train
from tests.training.test_training_checks import tree

HOLDER = """
import sys, time
from pathlib import Path
from ld4lg_fast.checkpoints.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``run``."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as refused, RunLock(path):
        pass
    return str(refused.value)


def test_the_lock_leaves_nothing_and_makes_no_directory_a_run(tmp_path):
    path = tmp_path / "a" / "run"
    with RunLock(path) as lock:
        assert RunDirectory(path).is_empty() and lock.path.exists()
        (path / "config.yaml").write_text("x")
    assert [p.name for p in path.iterdir()] == ["config.yaml"]
    (path / "config.yaml").unlink()
    with RunLock(path):
        pass
    assert path.is_dir(), "what was there stays"
    with RunLock(tmp_path / "b" / "run"):
        pass
    assert not (tmp_path / "b").exists(), "what it made goes with it"


def test_a_second_process_is_told_who_holds_the_lock(tmp_path, holder):
    said = refusal(tmp_path / "run")
    assert f"{tmp_path / 'run'} is in use by process {holder.pid} on {socket.gethostname()} since " in said
    assert "wait until it ends, or choose another run directory, as with hydra.run.dir=" in said
    assert (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_gone_holds_nothing(tmp_path, holder, number):
    holder.send_signal(number)
    holder.wait()
    assert (tmp_path / "run" / ".lock").exists()
    with RunLock(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / ".lock").exists()


def without_locks(file, operation):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize(
    ("change", "lives"),
    [
        ({}, True),
        ({"host": "elsewhere"}, True),
        ({"process": 2**22 + 1}, False),
        ({"started": "1"}, False),
    ],
)
def test_where_a_file_system_has_no_locks_host_and_process_decide(
    tmp_path, holder, monkeypatch, change, lives
):
    path = tmp_path / "run" / ".lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    monkeypatch.setattr(run_lock.fcntl, "flock", without_locks)
    if lives:
        assert f"or delete {path} if that process is gone" in refusal(tmp_path / "run")
    else:
        with RunLock(tmp_path / "run"):
            assert json.loads(path.read_text())["process"] == os.getpid()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 1}', b"\xff"])
def test_a_lock_file_without_a_holder_is_taken(tmp_path, monkeypatch, content):
    (tmp_path / ".lock").write_bytes(content)
    with RunLock(tmp_path):
        pass
    (tmp_path / ".lock").write_bytes(content)
    monkeypatch.setattr(run_lock.fcntl, "flock", without_locks)
    with RunLock(tmp_path):
        pass


def test_the_lock_of_another_run_in_its_place_stays(tmp_path):
    path = tmp_path / "run"
    with RunLock(path):
        path.rename(tmp_path / "moved")
        later = RunLock(path)
        later.acquire()
    assert later.path.exists() and "is in use by" in refusal(path)
    later.release()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_place_that_cannot_be_written_to(tmp_path, kind):
    run_dir = tmp_path / "run"
    if kind == "file":
        run_dir.write_text("")
        run_dir = run_dir / "run"
    elif kind == "folder":
        (run_dir / ".lock").mkdir(parents=True)
    else:
        (tmp_path / "precious").write_text("x")
        run_dir.mkdir()
        (run_dir / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match="cannot be written .*choose another directory"):
        RunLock(run_dir).acquire()
    assert kind != "link" or (tmp_path / "precious").read_text() == "x"


def test_a_run_behind_a_link_is_locked_and_moved_where_it_lies(tmp_path):
    place, link = tmp_path / "disk" / "run", tmp_path / "run"
    place.mkdir(parents=True)
    (place / "config.yaml").write_text("x")
    link.symlink_to(place)
    with RunLock(link) as lock:
        assert "is in use by" in refusal(place)
        RunDirectory(link).move_aside(lock)
        assert (tmp_path / "disk" / "run.1" / "config.yaml").exists() and RunDirectory(link).is_empty()
        assert "is in use by" in refusal(place)
    assert link.is_symlink() and not list(tmp_path.rglob(".lock"))


@pytest.mark.parametrize("write", ["save_pretrained", "learn_and_keep_timesteps"])
def test_whoever_writes_a_model_into_a_run_takes_the_lock(tmp_path, autoencoder, write):
    run_dir = tmp_path / "run"
    pipe = TextDiffusionPipeline(autoencoder, make_model())
    pipe.save_pretrained(run_dir)
    before = tree(run_dir)
    with RunLock(tmp_path / "run"), pytest.raises(ConfigError, match="is in use by process"):
        if write == "save_pretrained":
            pipe.save_pretrained(run_dir)
        else:
            learn_and_keep_timesteps(run_dir, torch.device("cpu"), 0)
    assert tree(run_dir) == before


def test_two_trainings_in_one_run_directory(tmp_path):
    """Whether the second begins anew, goes on, or trains a second stage: the first one does not notice."""
    run_dir = tmp_path / "outputs" / "demo"
    command = [sys.executable, str(SCRIPT), *SMALLEST, "train.autoencoder.steps=1000000"]
    with open(tmp_path / "output.txt", "w") as output:
        first = subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + GRACE
            while not ((run_dir / "logs" / "train.jsonl").exists() and losses(run_dir, "autoencoder")):
                assert first.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            for arguments in (SMALLEST, ["resume=true", "hydra.run.dir=outputs/demo"]):
                second = train(tmp_path, *arguments)
                assert second.returncode == 2 and second.stderr.count("\n") == 1, second.stderr
                assert f"outputs/demo is in use by process {first.pid} on " in second.stderr
            assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["demo"]
            first.send_signal(signal.SIGTERM)
            assert first.wait(GRACE) == 143
        finally:
            first.kill()
    assert not list(tmp_path.rglob(".lock"))
    assert list(losses(run_dir, "autoencoder")) == list(range(1, max(losses(run_dir, "autoencoder")) + 1))
