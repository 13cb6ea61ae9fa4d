"""Whole runs of the training command on the demo corpus, in this process, with models that train in seconds."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training import main
from ld4lg_fast.training.diffusion_stage import DiffusionStage
from ld4lg_fast.training.interrupts import Interrupts
from ld4lg_fast.training.reconstruction import measure_reconstruction
from ld4lg_fast.training.session import Session
from tests.training.small_runs import (
    SMALLEST,
    STEPS,
    cached,
    command,
    losses,
    records,
    refused,
)


def copy(finished, tmp_path, *without: str) -> Path:
    run_dir = tmp_path / "run"
    shutil.copytree(finished[0], run_dir)
    for name in without:
        shutil.rmtree(run_dir / name)
    return run_dir


def test_a_finished_run_is_self_contained_and_says_what_next(finished):
    run_dir, output = finished
    names = {
        "config.yaml",
        "autoencoder",
        "decoding.json",
        "denoiser",
        "fingerprint.json",
        "statistics.json",
        "reconstruction.json",
        "decoder_tolerance.json",
        "training_record.json",
        "logs",
        "samples",
    }
    assert names | {"checkpoints", "cache", "curves.png"} == {path.name for path in run_dir.iterdir()}
    assert f"scripts/infer.py infer.output_dir={run_dir}" in output and "Finished in" in output
    texts = TextDiffusionPipeline.from_pretrained(run_dir)(2, num_inference_steps=3, sampler="dpmpp_2m").texts
    assert len(texts) == 2

    statistics = json.loads((run_dir / "statistics.json").read_text())
    assert sum(statistics["token_lengths"].values()) == statistics["num_train_texts"] == 60
    assert statistics["classes"] is None
    reconstruction = json.loads((run_dir / "reconstruction.json").read_text())
    assert (
        reconstruction["num_texts"] == 8
        and {"exact_match", "token_accuracy", "bleu"} <= reconstruction.keys()
    )
    sample = json.loads((run_dir / "samples" / "validation_step_6.json").read_text())
    assert len(sample["texts"]) == 2 and sample["sampler"] == "dpmpp_2m"
    assert all(f"• {text}" in output for text in sample["texts"])


def test_the_log_has_every_step_and_validation(finished):
    for stage in ("autoencoder", "diffusion"):
        assert list(losses(finished[0], stage)) == list(range(1, STEPS + 1))
        validated = [
            r["step"] for r in records(finished[0]) if r["stage"] == stage and "validation_loss" in r
        ]
        assert validated == [3, 6]
    keys = {"stage", "step", "loss", "lr", "grad_norm", "samples_per_second", "seconds"}
    assert all(r.keys() == keys for r in records(finished[0]) if "loss" in r)
    first = losses(finished[0], "autoencoder")
    assert first[STEPS] < first[1]


def test_the_denoiser_is_the_average_and_latents_are_cached_right(finished):
    run_dir, _ = finished
    model = LatentDiffusion.load(run_dir / "denoiser")
    averaged = (run_dir / "checkpoints" / "diffusion" / "step_6" / "ema.safetensors").read_bytes()
    assert (run_dir / "denoiser" / "model.safetensors").read_bytes() == averaged
    assert model.diffusion.l2_normalized and model.latent_scale == 1 and not model.latent_mean.any()
    latents = cached(run_dir)
    assert latents.shape == (60, 4, 8)
    torch.testing.assert_close(latents.norm(dim=-1), torch.full((60, 4), 8**0.5))


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_resumed_stage_has_bit_identical_losses(finished, tmp_path, stage):
    lost = ["denoiser", "checkpoints/diffusion/step_6"]
    if stage == "autoencoder":
        lost = ["denoiser", "autoencoder", "checkpoints/diffusion", "checkpoints/autoencoder/step_6"]
    run_dir = copy(finished, tmp_path, *lost)
    main(["resume=true", f"hydra.run.dir={run_dir}"])
    for name in ("autoencoder", "diffusion"):
        assert losses(run_dir, name) == losses(finished[0], name)
    steps = [r["step"] for r in records(run_dir) if r["stage"] == stage and "loss" in r]
    assert steps == list(range(1, STEPS + 1)), "lost steps are not logged twice"
    weights = "denoiser/model.safetensors"
    assert (run_dir / weights).read_bytes() == (finished[0] / weights).read_bytes()
    saved = list((run_dir / "checkpoints" / stage / "step_6").glob("*.safetensors"))
    assert len(saved) == (2 if stage == "autoencoder" else 3)
    for path in saved:
        mine, theirs = (load_file(folder / path.relative_to(run_dir)) for folder in (run_dir, finished[0]))
        assert mine.keys() == theirs.keys()
        assert all(mine[name].equal(theirs[name]) for name in mine), f"weights, average, moments: {path.name}"


def test_a_finished_run_has_nothing_to_resume_until_it_gets_more_steps(finished, tmp_path, monkeypatch):
    run_dir = copy(finished, tmp_path)
    monkeypatch.setattr(sys, "argv", ["ld4lg"])  # as without a checkout
    with console.capture() as output:
        main(["resume=true", f"hydra.run.dir={run_dir}"])
    assert output.get().count("is finished") == 2 and f"ld4lg sample {run_dir}" in output.get()
    assert records(run_dir) == records(finished[0])
    main(["resume=true", f"hydra.run.dir={run_dir}", f"train.diffusion.steps={STEPS + 2}"])
    assert list(losses(run_dir, "diffusion")) == list(range(1, STEPS + 3))
    assert losses(run_dir, "autoencoder") == losses(finished[0], "autoencoder")


def test_stages_run_alone_and_give_the_same_as_together(finished, tmp_path):
    run_dir = tmp_path / "run"
    with console.capture() as output:
        command(run_dir, "train.stage=autoencoder")
    assert not (run_dir / "denoiser").exists() and "train.stage=diffusion" in output.get()
    # The stored config holds all the sizes.
    main(["train.stage=diffusion", f"hydra.run.dir={run_dir}"])
    for stage in ("autoencoder", "diffusion"):
        assert losses(run_dir, stage) == losses(finished[0], stage)


def test_a_second_diffusion_stage_starts_from_a_copy(finished, tmp_path):
    run_dir = copy(finished, tmp_path)
    main(["train.stage=diffusion", f"hydra.run.dir={run_dir}", "train.diffusion.steps=2"])
    aside = tmp_path / "run.1"
    assert records(aside) == records(finished[0]) and (aside / "denoiser").is_dir()
    assert list(losses(run_dir, "diffusion")) == [1, 2]
    assert losses(run_dir, "autoencoder") == losses(finished[0], "autoencoder")


def test_an_existing_run_is_moved_aside(finished, tmp_path):
    run_dir = copy(finished, tmp_path)
    with console.capture() as output:
        command(run_dir, "train.stage=autoencoder", "train.autoencoder.steps=1")
    assert f"resume=true hydra.run.dir={tmp_path / 'run.1'}" in output.get()
    assert records(tmp_path / "run.1") == records(finished[0])
    assert list(losses(run_dir, "autoencoder")) == [1]


def test_a_time_limit_ends_both_stages_with_the_rate_at_zero(tmp_path):
    run_dir = tmp_path / "run"
    many = [
        "train.autoencoder.steps=1000000",
        "train.diffusion.steps=1000000",
        "train.checkpoint_every=1000000",
    ]
    command(run_dir, *many, "train.max_minutes=0.05", "train.validate_every=1000000", "train.log_every=1")
    for stage in ("autoencoder", "diffusion"):
        done = [r for r in records(run_dir) if r["stage"] == stage and "loss" in r]
        assert 0 < len(done) < 1000
    assert (run_dir / "denoiser" / "config.json").exists()
    # What is finished by time goes on when there is more of it.
    with console.capture() as output:
        main(["resume=true", f"hydra.run.dir={run_dir}"])
    assert output.get().count("is finished") == 2


def test_wrong_statistics_are_not_kept_without_l2_normalisation(tmp_path):
    run_dir = tmp_path / "run"
    command(
        run_dir, "model.perceiver.l2_normalize=false", "train.diffusion.steps=1", "train.autoencoder.steps=1"
    )
    model, latents = LatentDiffusion.load(run_dir / "denoiser"), cached(run_dir)
    flat = latents.reshape(-1, 8).double().numpy()
    np.testing.assert_allclose(model.latent_mean.numpy(), flat.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(model.latent_scale.item(), (flat - flat.mean(axis=0)).std(), rtol=1e-5)
    assert not model.diffusion.l2_normalized


def test_the_latent_cache_is_rebuilt_for_another_autoencoder(finished, tmp_path):
    run_dir = copy(finished, tmp_path, "denoiser", "checkpoints/diffusion")
    autoencoder = LanguageAutoencoder.load(run_dir / "autoencoder")
    with torch.no_grad():
        for parameter in autoencoder.perceiver.encoder.parameters():
            parameter.add_(0.1)
    autoencoder.save(run_dir / "autoencoder")
    main(["train.stage=diffusion", f"hydra.run.dir={run_dir}", "train.diffusion.steps=1"])
    assert not torch.allclose(cached(run_dir), cached(finished[0]))


def test_class_labels_reach_the_denoiser(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"text": f"text number {i} of this set", "label": "ab"[i % 2]} for i in range(60)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["dataset=custom", f"dataset.root={corpus}", "dataset.label_column=label"]
    sizes = [option for option in SMALLEST if not option.startswith("dataset")]
    main([*sizes, *options, f"hydra.run.dir={tmp_path / 'run'}"])
    assert LatentDiffusion.load(tmp_path / "run" / "denoiser").denoiser.config.num_classes == 2
    statistics = json.loads((tmp_path / "run" / "statistics.json").read_text())
    assert sum(statistics["classes"].values()) == statistics["num_train_texts"]
    sample = json.loads((tmp_path / "run" / "samples" / "validation_step_6.json").read_text())
    assert sample["class_id"] == [0, 1]
    main([*sizes, *options, "recipe.class_conditional=false", f"hydra.run.dir={tmp_path / 'plain'}"])
    assert LatentDiffusion.load(tmp_path / "plain" / "denoiser").denoiser.config.num_classes == 0


def test_training_under_bfloat16_gives_gradients_with_a_self_condition(tmp_path, monkeypatch):
    # Weights that autocast casts in the pass without gradient must not be reused in the one with it.
    from ld4lg_fast.diffusion.process import GaussianDiffusion

    draw = GaussianDiffusion.draw
    norms = {}
    for self_conditioned in (False, True):

        def always(self, *arguments, coin=self_conditioned):
            draws = draw(self, *arguments)
            object.__setattr__(draws, "self_condition", coin)
            return draws

        monkeypatch.setattr(GaussianDiffusion, "draw", always)
        model = LatentDiffusion.create(
            {
                "version": "v2",
                "objective": "pred_v",
                "loss_type": "l2",
                "self_condition_prob": 0.5,
                "class_drop_prob": 0.0,
                "schedule": "cosine",
                "schedule_scale": 1.0,
                "sampling_schedule": None,
                "l2_normalized": False,
            },
            {
                "dim": 64,
                "depth": 1,
                "dim_latent": 8,
                "max_len": 4,
                "num_dense_connections": 0,
                "dropout": 0.0,
            },
        )
        torch.nn.init.normal_(model.denoiser.output_proj.weight)
        latents = torch.randn(4, 4, 8)
        draws = model.draw(latents, torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(latents, draws).loss
        loss.backward()
        norms[self_conditioned] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    missing = norms[False].keys() - norms[True].keys()
    assert missing == {"denoiser.init_self_cond"}
    assert all(gradient.any() for name, gradient in norms[True].items() if name.endswith("qkv.weight"))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    whole = DiffusionStage.batch

    def poisoned(self, step, part):
        latents, *rest = whole(self, step, part)
        return latents * (float("nan") if step == 4 else 1), *rest

    monkeypatch.setattr(DiffusionStage, "batch", poisoned)
    sentence = refused(capsys, command, tmp_path / "run", "train.log_every=3", "train.checkpoint_every=2")
    assert "step 5 of the diffusion stage" in sentence and "learning_rate" in sentence
    assert "checkpoints/diffusion/step_4" in sentence
    assert (tmp_path / "run" / "checkpoints" / "diffusion" / "step_4" / "state.json").exists()
    assert not (tmp_path / "run" / "denoiser").exists()
    batch = json.loads((tmp_path / "run" / "logs" / "diverged_diffusion.json").read_text())
    assert batch["step"] == 5 and len(batch["texts"]) == 16 and "diverged_diffusion.json" in sentence


def test_contradictions_and_foreign_directories_change_nothing(finished, tmp_path, capsys):
    run_dir = copy(finished, tmp_path)
    assert "cannot go on with model=base" in refused(capsys, command, run_dir, "resume=true", "model=base")
    other = tmp_path / "photos"
    other.mkdir()
    (other / "photo.jpg").write_text("x")
    assert "holds no run of ld4lg-fast" in refused(capsys, command, other)
    assert [path.name for path in other.iterdir()] == ["photo.jpg"]
    assert "no run" in refused(capsys, command, tmp_path / "new", "resume=true")
    assert "trained autoencoder" in refused(capsys, command, tmp_path / "new", "train.stage=diffusion")
    with pytest.raises(SystemExit):
        main(["dataset=e2e", "dataset.root=/no/such/folder", f"hydra.run.dir={run_dir}"])
    assert "/no/such/folder does not exist" in capsys.readouterr().err
    assert records(run_dir) == records(finished[0]) and not (tmp_path / "run.1").exists()


def test_a_checkpoint_of_another_shape_is_refused(finished, tmp_path, capsys):
    run_dir = copy(finished, tmp_path, "denoiser", "checkpoints/diffusion/step_6")
    with pytest.raises(SystemExit) as stop:
        main(["resume=true", f"hydra.run.dir={run_dir}", "model.denoiser.depth=3"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "belongs to another model" in error and "denoiser.blocks.2" in error


def test_reconstruction_figures_are_right(autoencoder, monkeypatch):
    tokenizer = autoencoder.tokenizer
    texts = ["The Anchor is a pub.", "Saffron is a restaurant.", "Clover is a coffee shop."]
    tokens = [tokenizer(text)["input_ids"] for text in texts]
    inside = [row[1:-1] for row in tokens]
    given_back = [inside[0], inside[1][:-1] + inside[0][:1], inside[2][:3]]
    monkeypatch.setattr(autoencoder, "generate", lambda latents, decoding, mask: given_back)
    session = Session(PartialState(cpu=True), None, None, 0, None, Interrupts(), None)
    result = measure_reconstruction(autoencoder, tokens, session)
    total = len(inside[0]) + len(inside[1]) + len(inside[2])
    right = len(inside[0]) + len(inside[1]) - 1 + 3
    assert result.exact_match == pytest.approx(100 / 3, abs=0.01)
    assert result.token_accuracy == pytest.approx(100 * right / total, abs=0.01)
    assert 0 < result.bleu < 100 and result.examples[0] == (texts[0], texts[0])
    assert result.distinct == 100 and result.warning() is None
    given_back[:] = [inside[0]] * 3
    assert measure_reconstruction(autoencoder, tokens, session).distinct == pytest.approx(100 / 3, abs=0.01)


def test_unknown_class_conditioning_is_refused(tmp_path, capsys):
    assert "auto, true or false" in refused(
        capsys, command, tmp_path / "run", "recipe.class_conditional=maybe"
    )
    assert "no class labels" in refused(capsys, command, tmp_path / "run", "recipe.class_conditional=true")
    assert not list(tmp_path.glob("run/*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a GPU")
def test_a_cuda_graph_is_refused_before_anything_is_changed(tmp_path, capsys):
    sentence = refused(capsys, command, tmp_path / "run", "train.cuda_graph=true")
    assert "train.cuda_graph=true needs a GPU, not cpu" in sentence
    assert not list(tmp_path.glob("run/*"))
