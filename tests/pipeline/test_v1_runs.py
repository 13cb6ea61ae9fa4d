"""Whole runs of recipe v1, from training to inference, in this process."""

import json
import shutil

import numpy as np
import pytest
import torch

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.statistics import RunStatistics
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training import main
from ld4lg_fast.training.shards import open_rows
from tests.conftest import randomize
from tests.pipeline.conditioned_runs import (
    GREEDY,
    class_options,
    infer,
    losses,
    resumed,
    train,
)


@pytest.fixture(scope="module")
def v1_run(tmp_path_factory, labelled):
    run_dir = tmp_path_factory.mktemp("v1") / "run"
    output = train(run_dir, "recipe=v1", *class_options(labelled))
    return run_dir, output


def test_v1_caches_hidden_states_with_real_padding_and_takes_statistics_of_real_positions(v1_run):
    run_dir, _ = v1_run
    autoencoder = LanguageAutoencoder.load(run_dir / "autoencoder")
    assert autoencoder.perceiver is None
    model = LatentDiffusion.load(run_dir / "denoiser")
    assert (
        model.diffusion.discrete
        and model.diffusion.objective == "pred_x0"
        and model.diffusion.loss_type == "l1"
    )
    assert (model.denoiser.config.max_len, model.denoiser.config.dim_latent) == (32, 64)
    rows = open_rows(run_dir / "cache" / "latents")
    latents = rows.take(range(len(rows))).double().numpy()
    counts = RunStatistics.load(run_dir).length_counts
    assert latents.shape == (54, 32, 64) and np.abs(latents[:, -1]).min(axis=1).any(), (
        "padding is encoded too"
    )
    lengths = json.loads((run_dir / "statistics.json").read_text())["token_lengths"]
    assert {int(length): count for length, count in lengths.items()} == {
        length: count for length, count in enumerate(counts) if count
    }
    assert not np.allclose(model.latent_mean.numpy(), latents.mean(axis=(0, 1)), atol=1e-4), (
        "padding is left out"
    )


def test_v1_infers_with_its_own_sampler_and_sampled_lengths(v1_run):
    run_dir, _ = v1_run
    content, _ = infer(run_dir)
    assert content["settings"]["sampler"] == "ddim" and len(content["texts"]) == 16
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    whole = pipe.sample(40, num_inference_steps=2, seed=5)
    lengths = whole.mask.sum(dim=1)
    known = [length for length, count in enumerate(pipe.statistics.length_counts) if count]
    assert set(lengths.tolist()) <= set(known) and len(set(lengths.tolist())) > 1
    assert torch.equal(whole.mask, torch.arange(32) < lengths[:, None])
    parts = [
        pipe.sample(20, num_inference_steps=2, seed=5, batch_size=7, sample_ids=range(first, 40, 2))
        for first in (0, 1)
    ]
    for first, part in enumerate(parts):
        assert torch.equal(part.mask, whole.mask[first::2])
        torch.testing.assert_close(part.latents, whole.latents[first::2], rtol=1e-4, atol=1e-4)
    other = pipe.sample(3, num_inference_steps=2, seed=5, class_id=1)
    assert torch.equal(other.mask, whole.mask[:3]) and (other.latents - whole.latents[:3]).abs().max() > 1e-4
    # A decoder that has seen a few steps writes nothing at all.
    randomize(pipe.autoencoder.lm, std=0.2)
    texts = pipe.decode(whole.latents, GREEDY, mask=whole.mask)
    assert len(set(texts)) > 1
    assert pipe(40, num_inference_steps=2, seed=5, decoding=GREEDY, batch_size=9).texts == texts


def test_v1_decodes_only_the_real_positions(v1_run):
    pipe = TextDiffusionPipeline.from_pretrained(v1_run[0])
    sampled = pipe.sample(6, num_inference_steps=2, seed=1)
    randomize(pipe.autoencoder.lm, std=0.2)
    noisy = torch.where(sampled.mask[..., None], sampled.latents, torch.full_like(sampled.latents, 9.0))
    texts = pipe.decode(sampled.latents, GREEDY, mask=sampled.mask)
    assert pipe.decode(noisy, GREEDY, mask=sampled.mask) == texts != pipe.decode(noisy, GREEDY)


def test_v1_of_a_frozen_language_model_has_no_first_stage_to_train(v1_run, labelled, tmp_path):
    folder = tmp_path / "bart"
    for part in ("language_model", "tokenizer"):
        shutil.copytree(v1_run[0] / "autoencoder" / part, folder, dirs_exist_ok=True)
    options = ["autoencoder=bart", f"autoencoder.name_or_path={folder}", *class_options(labelled)]
    output = train(tmp_path / "run", "recipe=v1", *options)
    assert "nothing to train" in output and "Reconstruction of" in output
    assert {stage for stage, _ in losses(tmp_path / "run")} == {"diffusion"}
    assert len(infer(tmp_path / "run", "generation.num_samples=2")[0]["texts"]) == 2
    shutil.rmtree(tmp_path / "run" / "denoiser")
    with console.capture() as output:
        main(["resume=true", f"hydra.run.dir={tmp_path / 'run'}"])
    assert "The autoencoder stage of" in output.get(), "a first stage without steps is finished"


def test_a_resumed_run_has_bit_identical_losses(v1_run, tmp_path):
    original, run_dir = v1_run[0], tmp_path / "run"
    resumed(original, run_dir)
    assert losses(run_dir) == losses(original)
    weights = "denoiser/model.safetensors"
    assert (run_dir / weights).read_bytes() == (original / weights).read_bytes()
