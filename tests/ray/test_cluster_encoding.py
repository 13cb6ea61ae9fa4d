"""A corpus encoded on a Ray cluster: the shards of a training, for any number of workers and lost ones."""

import os
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

pytest.importorskip("ray.data", reason="the extra ray is not installed")

from ld4lg_fast.data import generate_demo_texts  # noqa: E402
from ld4lg_fast.errors import CheckpointError, ConfigError, DataError  # noqa: E402
from ld4lg_fast.ray import encode_corpus, encoding  # noqa: E402
from ld4lg_fast.training import latent_cache, latent_shards, main  # noqa: E402
from tests.training.small_runs import SMALL, losses  # noqa: E402

TEXTS, PER_SHARD = 100, 16
LOST = 2  # the shard whose worker is lost
STEPS = ["train.autoencoder.steps=2", "train.diffusion.steps=3", "train.validation_texts=4"]
SECOND = ["train.stage=diffusion", "train.mixed_precision=no"]


def watched() -> type[encoding.LatentEncoder]:
    """A stage that notes beside the shards which process encodes which shard; the one of the shard `LOST` is killed
    once where a file ``kill`` is there. Local, so that workers need not import this file."""

    class Watched(encoding.LatentEncoder):
        def _encode(self, number, ids, lengths):
            folder = self.shards.directory.parent
            with open(folder / "log", "a") as file:
                file.write(f"{os.getpid()} {number}\n")
            if number == LOST and (folder / "kill").exists():
                (folder / "kill").rename(folder / "killed")
                os.kill(os.getpid(), signal.SIGKILL)
            super()._encode(number, ids, lengths)

    return Watched


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, texts = tmp_path_factory.mktemp("corpus"), generate_demo_texts(TEXTS)
    for number, part in enumerate((texts[:60], texts[60:])):
        pyarrow.parquet.write_table(pa.table({"text": part}), folder / f"{number}.parquet")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory, files):
    """A run of which the first stage is finished."""
    run = tmp_path_factory.mktemp("first") / "run"
    named = ",".join(map(str, files))
    main(
        [
            *SMALL,
            *STEPS,
            "dataset=custom",
            f"dataset.files.train=[{named}]",
            "train.stage=autoencoder",
            f"hydra.run.dir={run}",
        ]
    )
    return run


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(latent_shards, "BATCH", PER_SHARD)
    monkeypatch.setattr(latent_shards, "SHARD_BYTES", PER_SHARD)


@pytest.fixture
def counted(monkeypatch):
    """The numbers of texts that this process encodes into shards."""
    found, encode = [], latent_cache.encode_latents

    def encoded(*arguments):
        found.append(len(arguments[3]))
        return encode(*arguments)

    monkeypatch.setattr(latent_cache, "encode_latents", encoded)
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_shards_are_those_of_a_training_for_any_workers_even_lost_ones(
    cluster, files, first_stage, small_shards, counted, tmp_path, monkeypatch
):
    monkeypatch.setattr(encoding, "LatentEncoder", watched())
    trained, run = (Path(shutil.copytree(first_stage, tmp_path / name)) for name in ("trained", "run"))
    main([*SECOND, f"hydra.run.dir={trained}"])
    wanted = content(trained / "cache" / "latents")
    assert sum(counted) == 90 and len(wanted) == 6  # a twentieth each is for validation and test

    def log(folder):
        return [tuple(map(int, line.split())) for line in (folder / "log").read_text().splitlines()]

    one, two = tmp_path / "one" / "latents", tmp_path / "two" / "latents"
    one.parent.mkdir()
    two.parent.mkdir()
    assert encode_corpus(run, files, one, workers=1) == one
    assert content(one) == wanted and len(dict(log(one.parent))) == 1
    (two.parent / "kill").touch()
    assert encode_corpus(run, list(map(str, files)), two, workers=2) == two
    assert content(two) == wanted and (two.parent / "killed").exists()
    done = log(two.parent)
    assert [number for _, number in done].count(LOST) == 2 and len({process for process, _ in done}) >= 2

    # Of shards that are there, none is computed again.
    (two / "00004.safetensors").unlink()
    (two / ".00004.safetensors.0123.tmp").touch()
    (two.parent / "log").unlink()
    encode_corpus(run, files, two, workers=1)
    assert content(two) == wanted and [number for _, number in log(two.parent)] == [4]

    # The second stage finds them in its place, and learns the same.
    counted.clear()
    assert encode_corpus(run, workers=1) == run / "cache" / "latents"
    main([*SECOND, f"hydra.run.dir={run}"])
    assert counted == [] and content(run / "cache" / "latents") == wanted
    assert losses(run, "diffusion") == losses(trained, "diffusion") and len(losses(run, "diffusion")) == 3


def test_other_latents_and_corpora_are_refused_and_nothing_is_touched(
    cluster, files, first_stage, small_shards, tmp_path
):
    out, other = tmp_path / "out", tmp_path / "other"
    encode_corpus(first_stage, files, out, workers=1)
    before = content(out)
    said = "has latents of other texts, of another autoencoder or in another dtype; delete it, or name another folder"
    with pytest.raises(CheckpointError, match=said):
        encode_corpus(first_stage, files[:1], out, workers=1)
    with pytest.raises(CheckpointError, match=said):
        encode_corpus(first_stage, files, out, workers=1, overrides=["train.latents_dtype=bf16"])
    other.mkdir()
    (other / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="notes.txt, which is no shard of latents; name another folder"):
        encode_corpus(first_stage, files, other, workers=1)
    with pytest.raises(DataError, match="body"):
        encode_corpus(first_stage, files, out, workers=1, overrides=["dataset.text_column=body"])
    with pytest.raises(DataError, match="none.parquet"):
        encode_corpus(first_stage, "none.parquet", out, workers=1)
    with pytest.raises(ConfigError, match="cannot go on with model=base"):
        encode_corpus(first_stage, files, out, workers=1, overrides=["model=base"])
    with pytest.raises(ConfigError, match="overrides=.'body'. cannot be read .* as to ld4lg train"):
        encode_corpus(first_stage, files, out, workers=1, overrides=["body"])
    assert content(out) == before and [path.name for path in other.iterdir()] == ["notes.txt"]
