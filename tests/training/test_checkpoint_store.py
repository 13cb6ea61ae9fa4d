"""Checkpoints of a training: written whole, two kept, read back strictly."""

import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.training.checkpoint import CheckpointStore, TrainingState
from ld4lg_fast.training.ema import Ema
from ld4lg_fast.training.optimization import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)
from ld4lg_fast.training.train_section import StageOptions

OPTIONS = StageOptions(100, 8, 1e-3, 10, 0.1, 1.0, 0.999)
GROUPS = ("tiny", "small", "base"), ("scratch", "bart", "t5", "mt5")


def trained(width=4, steps=1):
    torch.manual_seed(width)
    model = nn.Linear(width, 2)
    optimizer = make_optimizer(model, OPTIONS)
    for _ in range(steps):
        model(torch.randn(5, width)).square().mean().backward()
        optimizer.step()
    return model, Ema(model), optimizer_tensors(optimizer, model)


def test_checkpoints_give_everything_back_and_two_are_kept(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    model, ema, tensors = trained(steps=3)
    assert store.restore(model, ema) == (None, None)
    for step in (1, 2, 10):
        store.save(TrainingState(step, 2.5, 0.5), model, ema, tensors)
    assert store.steps() == [2, 10] and sorted(p.name for p in store.directory.iterdir()) == [
        "step_10",
        "step_2",
    ]
    again, ema_again, _ = trained(steps=1)
    state, tensors_again = store.restore(again, ema_again)
    assert state == TrainingState(10, 2.5, 0.5)
    assert again.weight.equal(model.weight) and ema_again.module.weight.equal(ema.module.weight)
    optimizer = make_optimizer(again, OPTIONS)
    load_optimizer_tensors(optimizer, again, tensors_again)
    moments = optimizer_tensors(optimizer, again)
    assert moments.keys() == tensors.keys() and len(moments) == 6
    assert all(moments[name].equal(tensors[name]) for name in tensors)


@pytest.mark.parametrize("name", ["weight/exp_avg", "other/exp_avg"])
def test_the_optimizer_of_another_model_is_refused(name):
    model = trained()[0]
    with pytest.raises(CheckpointError, match=name.split("/")[0]):
        load_optimizer_tensors(make_optimizer(model, OPTIONS), model, {name: torch.ones(7, 3)})


def test_a_checkpoint_of_another_shape_names_the_tensor(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(TrainingState(1), *trained(4))
    with pytest.raises(CheckpointError, match=r"weight has the shape \(2, 4\).*\(2, 5\)"):
        store.restore(*trained(5)[:2])


@pytest.mark.parametrize(
    "name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"]
)
def test_a_damaged_checkpoint_is_named(tmp_path, name):
    store = CheckpointStore(tmp_path)
    path = store.save(TrainingState(1), *trained())
    (path / name).write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=name):
        store.restore(*trained()[:2])


KILLED_WHILE_WRITING = """
import os, signal, sys, torch
from pathlib import Path
from torch import nn
from ld4lg_fast.training.checkpoint import CheckpointStore, TrainingState
store, model = CheckpointStore(Path(sys.argv[1])), nn.Linear(2, 2)
tensors = {"weight/exp_avg": torch.ones(9)}
store.save(TrainingState(1), model, None, tensors)
replace, left = os.replace, [1]
def killed(*paths):
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left.pop()
    replace(*paths)
os.replace = killed
store.save(TrainingState(2), model, None, tensors)
"""


def test_a_kill_in_the_middle_of_a_write_leaves_the_last_good_checkpoint(tmp_path):
    result = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, tmp_path], capture_output=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    store = CheckpointStore(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "the half-written one is there"
    assert store.steps() == [1]
    store.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


def test_a_checkpoint_without_its_last_file_is_no_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(TrainingState(1), *trained())
    (store.save(TrainingState(2), *trained()) / "state.json").unlink()
    assert store.steps() == [1]
    store.sweep()
    assert not store.path(2).exists()
