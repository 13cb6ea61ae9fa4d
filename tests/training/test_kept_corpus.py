"""A kept corpus and tokens in several shards train bit for bit as those in memory."""

import datasets
import torch

from ld4lg_fast.data import corpus_cache, tokenization
from ld4lg_fast.training import main
from tests.training.small_runs import SMALLEST, cached, command, losses


def test_a_kept_corpus_trains_as_one_that_is_read(tmp_path, monkeypatch):
    texts = [f"Place {number} is a {'pub' if number % 2 else 'cafe'} by the river." for number in range(60)]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts))
    options = ["dataset=custom", f"dataset.root={path}", "dataset.max_len=16"]
    sizes = [option for option in SMALLEST if not option.startswith("dataset")]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    for name, least in (("read", 2**30), ("kept", 0)):
        monkeypatch.setattr(corpus_cache, "LEAST_BYTES", least)
        monkeypatch.setattr(tokenization, "SHARD_TEXTS", 2**18 if least else 20)
        main([*sizes, *options, f"hydra.run.dir={tmp_path / name}"])
    assert len(list((tmp_path / "kept" / "cache").glob("tokens-*-of-00003.safetensors"))) == 3
    for stage in ("autoencoder", "diffusion"):
        for kind in ("loss", "validation_loss"):
            assert losses(tmp_path / "kept", stage, kind) == losses(tmp_path / "read", stage, kind) != {}
    assert torch.equal(cached(tmp_path / "kept"), cached(tmp_path / "read"))


def test_latents_that_runs_share_train_as_those_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    for name, *options in (("own",), ("shared", "train.share_latents=true")):
        command(tmp_path / name, *options)
    folders = [path for path in (tmp_path / "hub" / "ld4lg_fast" / "latents").iterdir() if path.is_dir()]
    assert len(folders) == 1 and not (tmp_path / "shared" / "cache" / "latents").exists()
    before = losses(tmp_path / "own", "diffusion")
    assert losses(tmp_path / "shared", "diffusion") == before != {}
    command(tmp_path / "shared", "train.stage=diffusion", "train.latents_dtype=bf16")
    rounded = losses(tmp_path / "shared", "diffusion")
    assert rounded.keys() == before.keys() and rounded != before, (
        "an option of the first run is kept, the other is new"
    )
    assert len([path for path in folders[0].parent.iterdir() if path.is_dir()]) == 2
