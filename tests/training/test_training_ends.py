"""What a training says of itself at its end: whether it made enough steps, and whether its latents mean anything."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState

from ld4lg_fast.data import generate_demo_texts, tokenize_texts
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training import latent_cache, main
from ld4lg_fast.training import time_budget as clock
from ld4lg_fast.training.interrupts import Interrupts
from ld4lg_fast.training.optimization import learning_rate
from ld4lg_fast.training.reconstruction import Reconstruction, measure_reconstruction
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.train_section import StageOptions, too_few_steps
from ld4lg_fast.training.train_step import TrainStep
from tests.training.small_runs import command, records


@pytest.fixture(autouse=True)
def plain_argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ld4lg"])


@pytest.fixture
def clocked(monkeypatch):
    """Time passes in steps of the optimiser and with texts that are encoded, 50 ms each, and in nothing else."""
    now = [0.0]
    fake = SimpleNamespace(perf_counter=lambda: now[0])
    for module in (clock, latent_cache):
        monkeypatch.setattr(module, "time", fake)
    step, encode = TrainStep.__call__, latent_cache.encode_texts

    def counted_step(self, *arguments):
        now[0] += 0.05
        return step(self, *arguments)

    def counted_encode(autoencoder, ids, device):
        now[0] += 0.05 * len(ids)
        return encode(autoencoder, ids, device)

    monkeypatch.setattr(TrainStep, "__call__", counted_step)
    monkeypatch.setattr(latent_cache, "encode_texts", counted_encode)


TIMED = [
    *("train.autoencoder.steps=1000000", "train.diffusion.steps=1000000", "train.validate_every=1000000"),
    *("train.checkpoint_every=1000000", "train.autoencoder.warmup_steps=1", "train.diffusion.warmup_steps=1"),
]


def steps_of(run_dir, stage: str) -> list[dict]:
    return [record for record in records(run_dir) if record["stage"] == stage and "loss" in record]


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_the_time_of_a_stage_is_that_of_its_steps(clocked, tmp_path, share):
    """Encoding takes half of the time here: both stages give way to it, and learn in what is left."""
    limit, encoding = 12.0, 60 * 0.05
    command(tmp_path / "run", *TIMED, f"train.max_minutes={limit / 60}", f"train.autoencoder_share={share}")
    counts = {}
    for stage, part in (("autoencoder", share), ("diffusion", 1 - share)):
        done = steps_of(tmp_path / "run", stage)
        counts[stage] = len(done) * 0.05
        assert counts[stage] == pytest.approx(part * (limit - encoding), abs=1.2), stage
        rates = [record["lr"] for record in done]
        assert rates[0] > 0.99 * max(rates) and max(rates) > 1e-3, "the schedule begins with the steps"
        assert rates[-1] < 0.1 * max(rates)


def test_a_warm_up_ends_in_time_however_few_the_steps():
    options = StageOptions(10**6, 8, 1e-3, 100, 0.1, 1.0)
    rates = [learning_rate(options, step, step / 40, step / 40) for step in range(41)]
    assert rates[0] == pytest.approx(1e-5) and max(rates) == rates[4] > 0.97e-3 and rates[40] == 0
    without_limit = [learning_rate(options, step, step / 10**6) for step in range(41)]
    assert max(without_limit) == pytest.approx(41e-5, rel=1e-4), "by steps alone"


def test_a_stage_for_which_no_time_is_left_says_so_in_the_last_line_and_in_the_log(clocked, tmp_path):
    with console.capture() as output:
        command(tmp_path / "run", *TIMED, "train.max_minutes=0.05")
    text = output.get()
    assert "Finished in 0:" in text and ", but not every stage made enough steps" in text
    last = text.rstrip().splitlines()[-1]
    assert last.startswith("Warning: The diffusion stage made only 1 of the 100 steps")
    assert "the decoder writes sentences by itself" in last and "train.max_minutes than 0.05" in last
    ends = [record for record in records(tmp_path / "run") if "finished" in record]
    assert [(end["stage"], end["finished"]) for end in ends] == [("autoencoder", False), ("diffusion", False)]
    assert ends[1]["step"] == 1 and last == f"Warning: {ends[1]['warning']}"
    with console.capture() as output:  # a session that finds everything finished says it again
        main(["resume=true", f"hydra.run.dir={tmp_path / 'run'}"])
    assert output.get().rstrip().splitlines()[-1] == last


def test_a_run_of_enough_steps_has_nothing_against_itself(tmp_path):
    many = [
        f"train.{stage}.{name}"
        for stage in ("autoencoder", "diffusion")
        for name in ("steps=100", "warmup_steps=9")
    ]
    with console.capture() as output:
        command(tmp_path / "run", *many, "train.validate_every=1000", "train.checkpoint_every=1000")
    assert "Warning" not in output.get() and "Finished in 0:" in output.get()
    ends = [record for record in records(tmp_path / "run") if "finished" in record]
    assert all(end["finished"] and end["warning"] is None for end in ends) and len(ends) == 2


@pytest.mark.parametrize(
    ("steps", "warmup", "asked", "minutes", "said"),
    [
        (99, 0, 99, None, "99 of the 100 steps"),
        (100, 0, 100, None, None),
        (199, 100, 8000, 2, "199 of the 200 steps"),
        (200, 100, 8000, 2, None),
        (1, 1000, 250_000, 0.5, "Give the run more train.max_minutes than 0.5."),
        (3, 50, 3, 10, "Give it more train.decoder.steps than 3."),
    ],
)
def test_steps_that_are_too_few(steps, warmup, asked, minutes, said):
    options = StageOptions(asked, 8, 1e-3, warmup, 0.1, 1.0)
    found = too_few_steps("decoder", steps, options, minutes)
    assert found is None if said is None else said in found
    assert "by itself" not in (found or "")


# Validation figures of small trainings: distinct texts in per cent, loss, with other texts' latents, entropy.
# "Hidden": under autoencoder.decoder_noise=1, position_dropout=1 and token_masking=0.9.
FIGURES = {
    "demo, 20 steps": (0.2, 6.063, 6.074, 4.44, "undertrained"),
    "demo, 50 steps": (13.4, 4.296, 4.346, 4.44, "undertrained"),
    "demo, 100 steps": (10.8, 2.110, 2.209, 4.44, "only begun to read the latents"),
    "demo, 150 steps": (36.0, 1.224, 1.419, 4.44, "only begun to read the latents"),
    "demo, 200 steps": (62.2, 0.896, 1.229, 4.44, None),
    "demo, hidden, 150 steps": (0.6, 1.307, 1.310, 4.44, "have collapsed"),
    "demo, hidden, 300 steps": (16.2, 0.851, 0.904, 4.44, "have collapsed"),
    "E2E, 50 steps": (1.0, 5.744, 5.749, 4.49, "undertrained"),
    "E2E, 100 steps": (11.8, 4.995, 5.026, 4.49, "undertrained"),
    "E2E, 150 steps": (19.6, 4.461, 4.548, 4.49, "undertrained"),
    "E2E, 200 steps": (49.5, 4.114, 4.237, 4.49, "undertrained"),
    "E2E, 300 steps": (73.2, 3.746, 3.924, 4.49, None),
    "E2E, hidden, 200 steps": (1.0, 4.225, 4.233, 4.49, "undertrained"),
    "E2E, hidden, 400 steps": (4.1, 3.716, 3.738, 4.49, "have collapsed"),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_collapsed_latents_are_told_from_undertrained_models(kind):
    distinct, loss, swapped, entropy, said = FIGURES[kind]
    warning = Reconstruction(0.0, 0.0, 0.0, distinct, loss, swapped, entropy, 512, []).warning()
    assert warning is None if said is None else said in warning
    assert warning is None or f"only {distinct:.1f} % of the texts" in warning


def test_a_decoder_that_does_not_look_at_its_latents_is_noticed(autoencoder):
    tokens = tokenize_texts(generate_demo_texts(40), autoencoder.tokenizer, autoencoder.max_len)
    session = Session(PartialState(cpu=True), None, None, 0, None, Interrupts(), None)
    found = measure_reconstruction(autoencoder, tokens, session)
    assert found.loss != found.swapped_loss and found.entropy > 1
    with torch.no_grad():
        autoencoder.perceiver.decoder.input_proj.weight.zero_()
    blind = measure_reconstruction(autoencoder, tokens, session)
    assert blind.loss == pytest.approx(blind.swapped_loss) and blind.distinct < 10


def test_the_warning_is_kept_with_the_figures(tmp_path):
    with console.capture() as output:
        command(tmp_path / "run", "train.stage=autoencoder")
    kept = json.loads((tmp_path / "run" / "reconstruction.json").read_text())
    assert "The autoencoder is undertrained" in output.get() and "collapsed" not in output.get()
    assert kept["warning"] in output.get() and kept["loss"] > 0 and kept["step"] == 6
