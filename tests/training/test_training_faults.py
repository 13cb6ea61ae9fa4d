"""What goes wrong on real machines: full disks, damaged caches, processes that are killed."""

import json
import resource
import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, PartialState
from torch import nn

from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.data import tokenize_texts
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.training import latent_cache
from ld4lg_fast.training.checkpoint import CheckpointStore, TrainingState
from ld4lg_fast.training.curves import draw_curves
from ld4lg_fast.training.ema import Ema
from ld4lg_fast.training.interrupts import Interrupted, Interrupts
from ld4lg_fast.training.latent_cache import fingerprint
from ld4lg_fast.training.metrics_log import MetricsLog
from ld4lg_fast.training.session import Session, together
from ld4lg_fast.training.shards import open_rows, shard_path

TEXTS = [f"The {name} is a pub number {i}." for i, name in enumerate(["Anchor", "Clover", "Saffron"] * 4)]


@contextmanager
def disk_that_takes(size: int):
    """Files cannot grow beyond ``size`` bytes: the kernel refuses a write as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    store, model = CheckpointStore(tmp_path), nn.Linear(100, 100)
    tensors = {"weight/exp_avg": torch.ones(100, 100)}
    good = store.save(TrainingState(1), model, Ema(model), tensors)
    with disk_that_takes(20_000), pytest.raises(CheckpointError, match="File too large") as full:
        store.save(TrainingState(2), model, Ema(model), tensors)
    assert f"the last good one is {good}" in str(full.value) and "resume=true" in str(full.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"], "nothing half-written takes up space"
    state, restored = store.restore(model, Ema(model))
    assert state.step == 1 and restored["weight/exp_avg"].equal(tensors["weight/exp_avg"])
    assert store.save(TrainingState(2), model, None, tensors).exists(), "with space again it goes on"


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, {"old": True})
    with disk_that_takes(10), pytest.raises(CheckpointError, match="facts.json cannot be written"):
        write_json(path, {"new": "x" * 1000})
    assert json.loads(path.read_text()) == {"old": True} and [path] == list(tmp_path.iterdir())


def test_a_full_disk_is_told_by_the_journal_too(tmp_path):
    metrics_log = MetricsLog(tmp_path / "logs" / "train.jsonl", Accelerator(cpu=True), autoencoder_steps=10)
    with disk_that_takes(10), pytest.raises(CheckpointError, match=r"train.jsonl .*resume=true"):
        metrics_log.write("diffusion", 1, loss=1.0)
    metrics_log.forget_after("diffusion", 0)
    assert metrics_log.path.read_text() == "", "half a line is dropped"


@pytest.fixture
def session(tmp_path):
    run = RunDirectory(tmp_path)
    return Session(PartialState(cpu=True), run, None, 0, None, Interrupts(), None)


@pytest.fixture
def encoded(autoencoder, session, monkeypatch):
    """Fills the cache in shards of five texts; returns the rows and how many texts had to be encoded."""
    monkeypatch.setattr(latent_cache, "BATCH", 2)
    monkeypatch.setattr(latent_cache, "SHARD_BYTES", 5 * 6 * 8 * 4)
    autoencoder.save(session.run.autoencoder)
    encode = latent_cache.encode_texts

    def fill(texts=TEXTS, before_batch=lambda: None):
        count = 0

        def counted(autoencoder, ids, device):
            nonlocal count
            before_batch()
            count += len(ids)
            return encode(autoencoder, ids, device)

        monkeypatch.setattr(latent_cache, "encode_texts", counted)
        tokens = tokenize_texts(texts, autoencoder.tokenizer, autoencoder.max_len)
        return latent_cache.cached_latents(autoencoder, tokens, session), count

    return fill


def test_the_cache_is_computed_once_and_again_when_the_data_change(encoded, session):
    rows, count = encoded()
    assert (len(rows), count) == (12, 12) and [len(part) for part in rows.parts] == [5, 5, 2]
    again, count = encoded()
    assert count == 0 and again.take([11, 0, 6]).equal(rows.take([11, 0, 6]))
    changed, count = encoded(TEXTS[:-1] + ["A restaurant."])
    assert count == 12 and not changed.take([11]).allclose(rows.take([11]))
    shorter, count = encoded(TEXTS[:5])
    assert count == 5 and len(shorter) == len(list((session.run.cache / "latents").iterdir())) * 5


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_shard_alone_is_computed_again(encoded, session, damage):
    rows, _ = encoded()
    wanted = rows.take(range(12))
    path = shard_path(session.run.cache / "latents", 1)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.unlink()
    if damage != "delete":
        path.write_bytes(content[:-40] if damage == "truncate" else content)
    mended, count = encoded()
    assert count == 5 and mended.take(range(12)).equal(wanted)


def test_an_interrupted_cache_goes_on_where_it_stopped(encoded, session):
    left = [1, 2, 3, 4]

    def interrupt():
        left.pop()
        session.interrupts.received = None if left else 15

    with pytest.raises(Interrupted):
        encoded(before_batch=interrupt)
    assert len(open_rows(session.run.cache / "latents")) == 5, "the second shard was not finished"
    session.interrupts.received = None
    rows, count = encoded()
    assert (len(rows), count) == (12, 7)


def test_processes_share_the_cache_out(encoded, session, monkeypatch):
    wanted = encoded()[0].take(range(12))
    shutil.rmtree(session.run.cache)
    monkeypatch.setattr("ld4lg_fast.training.session.gather_object", lambda mine: mine)
    monkeypatch.setattr("ld4lg_fast.training.session.broadcast_object_list", lambda box: None)
    counts = []
    for rank in (1, 0):  # the main process cleans up when all are ready
        session.accelerator = SimpleNamespace(
            process_index=rank, num_processes=2, is_main_process=rank == 0, device=torch.device("cpu")
        )
        rows, count = encoded()
        counts.append(count)
    assert counts == [5, 7], "the second shard of three, then the others"
    assert rows.take(range(12)).equal(wanted)


def test_the_cache_depends_on_every_file_of_the_autoencoder(autoencoder, tmp_path):
    autoencoder.save(tmp_path)
    tokens = tokenize_texts(TEXTS, autoencoder.tokenizer, autoencoder.max_len)
    found = {fingerprint(tmp_path, tokens)}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in files:
        path.write_bytes(path.read_bytes() + b" ")
        found.add(fingerprint(tmp_path, tokens))
    assert {"model.safetensors", "perceiver.safetensors", "tokenizer.json"} <= {path.name for path in files}
    assert len(found) == 1 + len(files)


def test_a_full_disk_is_told_by_the_autoencoder(autoencoder, tmp_path):
    with (
        disk_that_takes(1000),
        pytest.raises(CheckpointError, match="cannot be written .*free some space"),
    ):
        autoencoder.save(tmp_path / "autoencoder")
    assert not (tmp_path / "autoencoder" / "autoencoder.json").exists()


def test_a_full_disk_leaves_the_old_curves(tmp_path):
    log, picture = tmp_path / "train.jsonl", tmp_path / "curves.png"
    log.write_text('{"stage": "diffusion", "step": 1, "loss": 1.0}\n')
    draw_curves(log, picture)
    before = picture.read_bytes()
    with disk_that_takes(1000), pytest.raises(CheckpointError, match="curves.png cannot be written"):
        draw_curves(log, picture)
    assert picture.read_bytes() == before


def test_a_full_disk_stops_the_cache_with_one_sentence(encoded):
    with disk_that_takes(200), pytest.raises(CheckpointError, match="free some space"):
        encoded()


def test_an_error_in_one_process_is_raised_in_all(monkeypatch):
    other = SimpleNamespace(num_processes=2)
    error = CheckpointError("the disk of the second process is full")
    monkeypatch.setattr("ld4lg_fast.training.session.gather_object", lambda mine: [*mine, error])
    with pytest.raises(CheckpointError, match="second process"):
        together(other, lambda: None)
