"""Texts of a given length (`of_length`), and length guides."""

import json

import pytest
import torch

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import generate_demo_texts
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline.length_guide import LengthGuide
from tests.conftest import make_model
from tests.engine.test_engine import make_v1

OPTIONS = {"quality": "draft", "decoding": DecodingConfig("greedy", 20), "seed": 1}


@pytest.fixture
def pipe(autoencoder):
    return TextDiffusionPipeline(autoencoder, make_model())


@pytest.fixture
def known():
    """Latents, lengths that are linear in them plus noise, and the weights."""
    generator = torch.Generator().manual_seed(0)
    latents, weight = torch.randn(300, 6, 8, generator=generator), torch.randn(6, 8, generator=generator)
    noise = 0.01 * torch.randn(300, generator=generator)
    return latents, (latents * weight).sum((1, 2)) + 12 + noise, weight


def test_a_guide_learns_what_is_linear(known):
    latents, lengths, weight = known
    guide = LengthGuide.fit(latents, lengths)
    torch.testing.assert_close(guide.weight, weight, rtol=0, atol=0.01)
    assert guide.bias == pytest.approx(12, abs=0.05) and guide.error < 0.1
    torch.testing.assert_close(guide.lengths(latents), lengths, rtol=0, atol=0.2)
    assert LengthGuide.fit(latents, torch.randint(5, 30, (300,)).float()).error > 1, "noise tells no length"


def test_steering_takes_the_shortest_way(known):
    latents, lengths, _ = known
    guide = LengthGuide.fit(latents, lengths)
    moved = guide.steer(latents, 30)
    torch.testing.assert_close(guide.lengths(moved), torch.full((300,), 30.0), rtol=0, atol=1e-3)
    along = torch.nn.functional.cosine_similarity((moved - latents).flatten(1), guide.weight.flatten()[None])
    torch.testing.assert_close(along.abs(), torch.ones(300))
    torch.testing.assert_close(guide.steer(latents, 30, 0.25), latents + (moved - latents) / 4)


@pytest.mark.parametrize("project", [False, True])
def test_sampling_is_led_to_the_length(known, project):
    from ld4lg_fast.engine.engine import sample_latents
    from ld4lg_fast.models.layers import project_to_sphere

    guide = LengthGuide.fit(*known[:2])
    model = make_model(num_classes=3)
    seen = []

    def steer(x_start):
        seen.append(x_start)
        return guide.steer(x_start, 25)

    options = {
        "sampler": "unipc",
        "num_inference_steps": 5,
        "class_id": 1,
        "guidance_scale": 2.0,
        "project": project,
    }
    free, led = (model.normalize(sample_latents(model, 3, steer=s, **options)) for s in (None, steer))
    assert len(seen) == 5 and not torch.allclose(free, led)
    wanted = guide.steer(seen[-1], 25)
    torch.testing.assert_close(led, project_to_sphere(wanted) if project else wanted, rtol=1e-4, atol=1e-4)
    # What is handed over is the guided prediction itself.
    same = model.normalize(sample_latents(model, 3, steer=lambda x_start: x_start, **options))
    torch.testing.assert_close(same, free, rtol=1e-3, atol=1e-3)


def test_the_nearest_in_length_are_kept(pipe):
    every = pipe(12, **OPTIONS)
    counts = pipe.token_counts(every.texts)
    whole = [len(pipe.autoencoder.tokenizer(text)["input_ids"]) - 2 for text in every.texts]
    assert counts.tolist() == [min(count, 30) for count in whole], "30 is what the model handles"
    nearest = pipe.of_length(3, 8, best_of=4, **OPTIONS)
    misses = (counts - 8).abs()
    assert nearest.rows.tolist() == sorted(misses.argsort(stable=True)[:3].tolist())
    assert nearest.texts == [every.texts[row] for row in nearest.rows.tolist()]


def test_a_guide_from_texts_and_from_samples(pipe):
    texts = generate_demo_texts(60)
    guide = pipe.learn_length(texts)
    latents = pipe.model.normalize(pipe.encode(texts)[0])
    again = LengthGuide.fit(latents, pipe.token_counts(texts))
    assert torch.equal(guide.weight, again.weight) and guide.bias == again.bias
    led = pipe.of_length(2, 9, best_of=1, guide=guide, pull=1.0, **OPTIONS)
    reached = guide.lengths(pipe.model.normalize(led.latents))
    torch.testing.assert_close(reached, torch.full((2,), 9.0), rtol=0, atol=0.05)
    own = pipe.learn_length(num_samples=40, decoding=DecodingConfig("greedy", 20))
    assert own.weight.shape == (6, 8)


def test_recipe_v1_takes_the_length_as_a_condition(autoencoder):
    model = make_v1(dim_latent=autoencoder.lm.config.hidden_size, max_len=autoencoder.max_len)
    hidden = LanguageAutoencoder(autoencoder.lm, autoencoder.tokenizer, None, autoencoder.max_len, True)
    pipe = TextDiffusionPipeline(hidden, model)
    output = pipe.of_length(2, 7, best_of=2, **OPTIONS)
    assert output.mask.sum(dim=1).tolist() == [9, 9], "with both special tokens"
    with pytest.raises(ConfigError, match="learn_length is not needed"):
        pipe.learn_length()


def test_lengths_that_cannot_be_are_refused(pipe):
    for options, trouble in (
        ({"length": 0}, "length is 0"),
        ({"length": 31}, "length is 31; it must be a whole number from 1 to 30"),
        ({"length": 9, "pull": 2}, "pull is 2; it must be a finite number from 0 to 1"),
        ({"length": 9, "best_of": 0}, "best_of is 0"),
    ):
        with pytest.raises(ConfigError, match=trouble):
            pipe.of_length(1, **options)
    with pytest.raises(ConfigError, match="5 texts tell too little"):
        pipe.learn_length(["a pub"] * 5)
    with pytest.raises(ConfigError, match="All texts are . tokens long"):
        pipe.learn_length(["a pub"] * 25)


def test_the_command_line_asks_for_a_length(pipe, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from ld4lg_fast.cli.main import app

    # A random model's own texts are all as long as can be.
    guide = pipe.learn_length(generate_demo_texts(60))
    monkeypatch.setattr(TextDiffusionPipeline, "learn_length", lambda self: guide)
    pipe.save_pretrained(tmp_path / "run")
    command = [
        "sample",
        str(tmp_path / "run"),
        "--num-samples",
        "2",
        "--quality",
        "draft",
        "--strategy",
        "greedy",
    ]
    result = CliRunner().invoke(
        app, [*command, "--length", "9", "--best-of", "2", "--json", str(tmp_path / "texts.json")]
    )
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "texts.json").read_text())
    assert content["settings"]["length"] == 9
    options = {"quality": "draft", "decoding": "greedy"}
    assert content["texts"] == pipe.of_length(2, 9, best_of=2, guide=guide, **options).texts


def test_lengths_are_learned_from_samples_with_the_options_of_a_call(pipe, monkeypatch):
    from ld4lg_fast.cli.sampling_output import sample_with_bar

    learned = {}
    monkeypatch.setattr(TextDiffusionPipeline, "learn_length", lambda self, **given: learned.update(given))
    monkeypatch.setattr(TextDiffusionPipeline, "of_length", lambda self, *_, **options: options)
    asked = {"class_name": None, "source": "A question?", "guidance_scale": 3.0}
    options, _ = sample_with_bar(pipe, 2, best_of=2, length=9, quality="draft", **asked)
    assert learned == {"source": "A question?", "guidance_scale": 3.0}, (
        "a model of sources samples from none but these"
    )
    assert options["length"] == 9 and options["source"] == "A question?"
