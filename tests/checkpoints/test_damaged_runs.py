"""Runs whose files were damaged go on from what is whole, or say in one sentence what to delete."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training import main
from ld4lg_fast.training.checkpoint import CheckpointStore, TrainingState
from ld4lg_fast.training.ema import Ema
from ld4lg_fast.training.metrics_log import read_log
from tests.training.small_runs import records
from tests.training.test_training_signals import assert_same, lines

FILES = ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"]
DAMAGE = {
    "garbage": lambda path: path.write_bytes(b"broken"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.fixture(autouse=True)
def plain_argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])


def store_with(tmp_path: Path, *steps: int) -> tuple[CheckpointStore, nn.Linear, Ema]:
    store, model = CheckpointStore(tmp_path / "diffusion", has_ema=True), nn.Linear(3, 2)
    for step in steps:
        store.save(TrainingState(step), model, Ema(model), {"weight/exp_avg": torch.ones(2, 3)})
    return store, model, Ema(model)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before_it(tmp_path, name, damage):
    store, model, ema = store_with(tmp_path, 1, 2)
    DAMAGE[damage](store.path(2) / name)
    with console.capture() as output:
        store.set_damaged_aside()
        store.sweep()
    state, tensors = store.restore(model, ema)
    assert state.step == 1 and tensors.keys() == {"weight/exp_avg"} and store.steps() == [1]
    if (name, damage) in (("state.json", "missing"), ("state.json", "a folder")):
        return  # as of a process that was killed while it wrote
    assert (
        str(store.path(2) / name) in output.get() and "goes on from the checkpoint of step 1" in output.get()
    )
    assert (store.directory / "damaged-step_2").is_dir(), "nothing is deleted"
    store.save(TrainingState(2), model, ema, {})
    assert store.steps() == [1, 2]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["garbage", "empty", "truncated"])
def test_the_last_checkpoint_that_is_damaged_gives_the_same_advice_for_each_file(tmp_path, name, damage):
    store, model, ema = store_with(tmp_path, 1)
    DAMAGE[damage](store.path(1) / name)
    for use in (store.read_state, store.set_damaged_aside, lambda: store.restore(model, ema)):
        with pytest.raises(CheckpointError) as refused:
            use()
        assert str(store.path(1) / name) in str(refused.value)
        assert str(refused.value).endswith(
            f"delete {store.directory}, and the stage begins anew unless it is finished."
        )
    assert store.path(1).is_dir()


def test_numbers_that_are_not_finite_are_damage_and_another_model_is_none(tmp_path):
    store, model, ema = store_with(tmp_path, 1, 2)
    path = store.path(2) / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"weight": tensors["weight"] * torch.nan}, path)
    with pytest.raises(CheckpointError, match=rf"not finite.* Delete {store.path(2)} to go on from the"):
        store.restore(model, ema)
    other = nn.Linear(4, 2)
    store, *_ = store_with(tmp_path / "other", 1, 2)
    with pytest.raises(CheckpointError, match="belongs to another model") as refused:
        store.restore(other, Ema(other))
    assert "elete" not in str(refused.value)


def resumed(run_dir: Path) -> str:
    with console.capture() as output:
        main(["resume=true", f"hydra.run.dir={run_dir}"])
    return output.get()


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_run_with_a_damaged_checkpoint_goes_on_to_the_same_bits(finished, tmp_path, stage):
    run_dir = tmp_path / "run"
    shutil.copytree(finished[0], run_dir)
    shutil.rmtree(run_dir / "denoiser")
    if stage == "autoencoder":
        shutil.rmtree(run_dir / "autoencoder")
        shutil.rmtree(run_dir / "checkpoints" / "diffusion")
    DAMAGE["truncated"](run_dir / "checkpoints" / stage / "step_6" / "optimizer.safetensors")
    output = resumed(run_dir)
    assert "damaged-step_6" in output and f"The {stage} stage goes on after step 4." in output
    shutil.rmtree(run_dir / "checkpoints" / stage / "damaged-step_6")
    if stage == "autoencoder":
        assert sorted(map(str, lines(run_dir))) == sorted(map(str, lines(finished[0]))), (
            "stage two was trained before"
        )
    else:
        assert_same(run_dir, finished[0])


@pytest.mark.parametrize("damage", ["garbage", "empty", "missing"])
@pytest.mark.parametrize(
    "name", ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "tokens", "latents"]
)
def test_a_damaged_cache_is_made_again(finished, tmp_path, name, damage):
    run_dir = tmp_path / "run"
    shutil.copytree(finished[0], run_dir)
    for lost in ("denoiser", "autoencoder", "checkpoints/diffusion", "checkpoints/autoencoder/step_6"):
        shutil.rmtree(run_dir / lost)
    found = [run_dir / "cache" / name] if "/" in name else sorted((run_dir / "cache").rglob(f"*{name}*"))
    for path in [path for path in found if path.is_file()] or sorted(found[0].iterdir()):
        DAMAGE[damage](path)
    resumed(run_dir)
    for weights in ("denoiser/model.safetensors", "autoencoder/perceiver.safetensors"):
        assert (run_dir / weights).read_bytes() == (finished[0] / weights).read_bytes()


def test_an_autoencoder_that_is_damaged_is_made_again_as_it_is_advised(finished, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(finished[0], run_dir)
    shutil.rmtree(run_dir / "denoiser")
    shutil.rmtree(run_dir / "checkpoints" / "diffusion" / "step_6")
    DAMAGE["truncated"](run_dir / "autoencoder" / "perceiver.safetensors")
    with pytest.raises(SystemExit):
        resumed(run_dir)
    error = capsys.readouterr().err
    assert f"Delete {run_dir / 'autoencoder'} to have it made again" in error
    shutil.rmtree(run_dir / "autoencoder")
    resumed(run_dir)
    for weights in ("denoiser/model.safetensors", "autoencoder/perceiver.safetensors"):
        assert (run_dir / weights).read_bytes() == (finished[0] / weights).read_bytes()


def test_lines_of_the_log_that_are_damaged_are_passed_over(tmp_path):
    path = tmp_path / "train.jsonl"
    good = json.dumps({"stage": "diffusion", "step": 1, "loss": 1.0})
    bad = [
        b"",
        b"3",
        b'{"stage": "diff',
        b"\x00\x00",
        b"\xff",
        b'{"stage": 1, "step": 2}',
        b'{"stage": "x", "step": "y"}',
    ]
    path.write_bytes(b"\n".join([good.encode(), *bad, good.encode()]))
    assert read_log(path) == [json.loads(good)] * 2
    assert read_log(tmp_path / "none") == []


def test_a_run_whose_log_is_damaged_goes_on(finished, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished[0], run_dir)
    shutil.rmtree(run_dir / "denoiser")
    shutil.rmtree(run_dir / "checkpoints" / "diffusion" / "step_6")
    with open(run_dir / "logs" / "train.jsonl", "ab") as log:
        log.write(b"\x00\x00\xff\n3\n")
    resumed(run_dir)
    assert records(run_dir)[-1]["finished"] is False
    assert_same(run_dir, finished[0])
