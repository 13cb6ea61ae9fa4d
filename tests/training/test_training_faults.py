"""What goes wrong on real machines: full disks, damaged caches, processes that are killed."""

import json
import os
import resource
import shutil
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, PartialState
from torch import nn

from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.checkpoints.run_directory import STAGE_ONE_RESULTS, RunDirectory
from ld4lg_fast.checkpoints.run_lock import RunLock
from ld4lg_fast.data import tokenize_texts
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.options.precisions import torch_dtype
from ld4lg_fast.training import latent_cache, latent_shards, shards
from ld4lg_fast.training.checkpoint import CheckpointStore, TrainingState
from ld4lg_fast.training.curves import draw_curves
from ld4lg_fast.training.ema import Ema
from ld4lg_fast.training.interrupts import Interrupted, Interrupts
from ld4lg_fast.training.latent_shards import fingerprint
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
    options = SimpleNamespace(latents_dtype="auto", share_latents=False)
    return Session(PartialState(cpu=True), run, options, 0, None, Interrupts(), None)  # type: ignore[arg-type]


@pytest.fixture
def encoded(autoencoder, session, monkeypatch):
    """Fills the cache in shards of five texts; returns the rows and how many texts had to be encoded."""
    monkeypatch.setattr(latent_cache, "BATCH", 2)
    monkeypatch.setattr(latent_shards, "BATCH", 2)
    monkeypatch.setattr(latent_shards, "SHARD_BYTES", 5 * 6 * 8 * 4)
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


@pytest.mark.parametrize("damage", ["truncate", "lengthen", "delete"])
def test_a_damaged_shard_alone_is_computed_again(encoded, session, damage):
    rows, _ = encoded()
    wanted = rows.take(range(12))
    path = shard_path(session.run.cache / "latents", 1)
    content = path.read_bytes()
    path.unlink()
    if damage != "delete":
        path.write_bytes(content[:-40] if damage == "truncate" else content + bytes(40))
    mended, count = encoded()
    assert count == 5 and mended.take(range(12)).equal(wanted)


def test_a_disk_that_gives_other_bytes_back_is_noticed_at_once(encoded, session, monkeypatch):
    real = shards.write_atomically
    monkeypatch.setattr(shards, "write_atomically", lambda path, content: real(path, content[:-3] + b"bad"))
    with pytest.raises(
        CheckpointError, match="00000.safetensors does not hold what was written .*check that disk"
    ):
        encoded()
    assert not list((session.run.cache / "latents").iterdir())


@pytest.mark.parametrize("name", ["fp32", "bfloat16", "fp16"])
def test_latents_are_stored_in_the_dtype_that_is_asked_for(encoded, session, name):
    whole = encoded()[0].take(range(12))
    session.options.latents_dtype = name
    rows, count = encoded()
    assert count == (0 if name == "fp32" else 12) and {part.dtype for part in rows.parts} == {
        torch_dtype(name)
    }
    assert rows.take(range(12)).equal(whole.to(torch_dtype(name)).float())


def test_latents_that_float16_cannot_hold_are_refused(encoded, session, monkeypatch):
    session.options.latents_dtype = "fp16"
    monkeypatch.setattr(latent_cache, "encode_latents", lambda *_: torch.full((5, 6, 8), 1e5))
    with pytest.raises(
        ConfigError, match="latents_dtype=fp16 holds numbers up to 65504, and a latent has 1e.05; use bf16"
    ):
        encoded()


def test_runs_share_latents_by_their_content(encoded, session, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    session.options.share_latents = True
    rows, count = encoded()
    assert count == 12 and not session.run.cache.exists()
    other = RunDirectory(tmp_path / "other")
    shutil.copytree(session.run.autoencoder, other.autoencoder)
    session.run = other
    again, count = encoded()
    assert count == 0 and again.take(range(12)).equal(rows.take(range(12)))
    assert encoded(TEXTS[:5])[1] == 5 and encoded()[1] == 0, "the latents of other texts lie beside them"


def test_two_runs_that_come_at_once_encode_once(encoded, session, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    session.options.share_latents = True
    begun, found = threading.Event(), []
    other = threading.Thread(target=lambda: begun.wait(60) and found.append(encoded()))

    def wait_for_the_other():
        if not begun.is_set():
            begun.set()
            other.join(1)  # it waits in turn

    other.start()
    _, count = encoded(before_batch=wait_for_the_other)
    other.join(60)
    [(rows, count_of_other)] = found
    assert count + count_of_other == 12 and len(rows) == 12
    assert "Waiting for another process, which makes" in caplog.text


@pytest.mark.parametrize("can_link", [True, False])
def test_a_repeated_stage_links_files_that_never_change(can_link, tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run")
    names = ("cache/latents/00000.safetensors", "autoencoder/perceiver.safetensors")
    for name in names:
        (run.path / name).parent.mkdir(parents=True)
        (run.path / name).write_text(name)
    if not can_link:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another file system")))
    with RunLock(run.path) as lock:
        aside = run.move_aside(lock, STAGE_ONE_RESULTS)
    pairs = [(run.path / name, aside / name) for name in names]
    assert [os.path.samefile(*pair) for pair in pairs] == [can_link, False]
    assert all(new.read_text() == old.read_text() for new, old in pairs)


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


def test_what_was_finished_before_the_disk_was_full_is_kept(encoded, session, monkeypatch):
    real, left = shards.write_atomically, [1, 2]

    def full(path, content):
        with disk_that_takes(10**9 if left and left.pop() else 200):
            real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_atomically", full)
        with pytest.raises(CheckpointError, match="00002.safetensors cannot be written .*free some space"):
            encoded()
    assert [path.name for path in sorted((session.run.cache / "latents").iterdir())] == [
        "00000.safetensors",
        "00001.safetensors",
    ]
    rows, count = encoded()
    assert (len(rows), count) == (12, 2)


def test_an_error_in_one_process_is_raised_in_all(monkeypatch):
    other = SimpleNamespace(num_processes=2)
    error = CheckpointError("the disk of the second process is full")
    monkeypatch.setattr("ld4lg_fast.training.session.gather_object", lambda mine: [*mine, error])
    with pytest.raises(CheckpointError, match="second process"):
        together(other, lambda: None)
