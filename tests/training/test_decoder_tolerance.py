"""How a decoder takes latents that no encoder made: figures, their limits, and where they are written."""

import json
from dataclasses import asdict

import pytest
import torch

from ld4lg_fast.autoencoder.latent_augmentation import add_noise
from ld4lg_fast.data import TextSplit, tokenize_texts
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.training.decoder_tolerance import (
    NOISES,
    TextShape,
    checks,
    encoded,
    measure_tolerance,
    of_as_many_as_fit,
    reading,
    with_checks,
)
from ld4lg_fast.training.time_budget import RunClock, StageClock
from tests.conftest import make_model
from tests.training.small_runs import command

TEXTS = ["the mill is a small pub near the river", "a cafe", "the phoenix serves cheap food by the river"]


def test_shapes_of_texts():
    repeated = "one two three four and one two three four"
    shape = TextShape.of(["", "a cat", "a cat", repeated])
    assert asdict(shape) == pytest.approx(
        {"words": 13 / 4, "empty": 0.25, "repeated": 0.25, "identical": 0.5}
    )


def test_noise_has_the_latents_scale_and_keeps_the_rest_of_the_variance():
    latents, noise = 3 * torch.randn(2, 50, 40), torch.randn(2, 50, 40)
    assert torch.equal(add_noise(latents, noise, 0.0), latents)
    scale = latents.std(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(add_noise(latents, noise, 1.0), noise * scale)
    torch.testing.assert_close(add_noise(latents, noise, 0.25), 0.75**0.5 * latents + 0.5 * noise * scale)


def test_a_reading_is_the_decoders_loss_entropy_and_margin(autoencoder):
    tokens = tokenize_texts(TEXTS, autoencoder.tokenizer, autoencoder.max_len)
    latents, mask = encoded(autoencoder, tokens, torch.device("cpu"))
    found = reading(autoencoder, latents, mask, tokens)
    # The same one text at a time, in float64, without padding.
    lm, sums, count = autoencoder.language_model, torch.zeros(3, dtype=torch.float64), 0
    for row in range(len(TEXTS)):
        ids = torch.tensor([[lm.start, *tokens[row]]])
        states = autoencoder.decode_states(latents[row : row + 1])
        shares = lm.logits(states, None, ids[:, :-1]).detach().double().softmax(-1)[0]
        chosen = shares.gather(1, ids[0, 1:, None])
        first, second = shares.sort(-1, descending=True).values[:, :2].unbind(-1)
        parts = -chosen.log().sum(), -(shares * shares.log()).sum(), (first - second).sum()
        sums, count = sums + torch.stack(parts), count + ids.shape[1] - 1
    assert [found.loss, found.entropy, found.margin] == pytest.approx((sums / count).tolist(), rel=1e-5)


@pytest.mark.parametrize("labels", [None, [0, 1, 2]])
def test_all_kinds_of_latents_are_read(autoencoder, labels):
    pipe = TextDiffusionPipeline(autoencoder, make_model(num_classes=3 if labels else 0))
    found = measure_tolerance(pipe, TextSplit(TEXTS, labels))
    kinds = [
        "clean",
        *(f"noise_{share}" for share in NOISES),
        "resampled",
        "sampled",
        "real_texts",
        "sampled_texts",
    ]
    assert list(found) == kinds
    assert found["clean"]["loss"] != found["noise_0.75"]["loss"]
    assert found["real_texts"]["words"] == pytest.approx(19 / 3)
    assert found == measure_tolerance(pipe, TextSplit(TEXTS, labels))


def test_limits_and_words():
    fine = {"loss": 0.1, "entropy": 0.1, "margin": 0.9}
    text = {"words": 20.0, "empty": 0.0, "repeated": 0.1, "identical": 0.0}
    found = dict.fromkeys(("clean", "noise_0.25", "resampled", "sampled"), fine)
    found |= {"real_texts": text, "sampled_texts": text}
    assert len(checks(found)) == 8 and all(check.passed for check in checks(found))
    worse = found | {"sampled": {"loss": 0.1, "entropy": 0.7, "margin": 0.5}}
    failed = [check for check in checks(worse) if not check.passed]
    assert len(failed) == 2
    assert "follows sampled latents badly: train with more autoencoder.decoder_noise, or train.fine" in str(
        failed[0]
    )
    (one,) = with_checks({"clean": fine, "noise_0.25": fine | {"loss": 0.7}})["checks"]
    assert not one["passed"] and "nats a token" in one["line"] and "0.6, at most 0.5" in one["line"]
    silent = found | {
        "sampled_texts": text | {"empty": 0.2, "words": 10.0, "repeated": 0.3, "identical": 0.3}
    }
    assert sum(not check.passed for check in checks(silent)) == 4


def test_both_stages_write_them(tmp_path):
    command(tmp_path / "run")
    first = json.loads((tmp_path / "run" / "reconstruction.json").read_text())["decoder_tolerance"]
    second = json.loads((tmp_path / "run" / "decoder_tolerance.json").read_text())
    assert len(first["checks"]) == 1 and len(second["checks"]) == 8
    # Eight validation texts, whose latents the saved autoencoder gives again.
    assert second["clean"] == pytest.approx(first["clean"], rel=1e-4)


@pytest.mark.parametrize(
    ("end", "available", "counts"),
    [
        (None, 1000, [256]),
        (None, 10, [10]),
        (500.0, 1000, [16, 256]),  # a second for each text
        (100.0, 1000, [16, 84]),
        (20.0, 1000, [16]),
        (10.0, 1000, [16]),
        (100.0, 10, [10]),
    ],
)
def test_as_many_texts_are_measured_as_there_is_time_for(end, available, counts):
    clock, measured = StageClock(RunClock(end), 0.0, end), []
    clock.run.seconds = lambda: float(sum(measured))

    def measure(count):
        measured.append(count)
        return {"clean": {"loss": 0.5}, "noise_0.25": {"loss": 0.6}}

    found = of_as_many_as_fit(measure, available, clock)
    assert measured == counts and found["num_texts"] == counts[-1] and len(found["checks"]) == 1
