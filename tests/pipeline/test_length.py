"""Texts of a given length (`of_length`), and the guide of the length."""

import json

import pytest
import torch

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import generate_demo_texts
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import ConfigError
from tests.conftest import make_model
from tests.engine.test_engine import make_v1

OPTIONS = {"quality": "draft", "decoding": DecodingConfig("greedy", 20), "seed": 1}


@pytest.fixture
def pipe(autoencoder):
    return TextDiffusionPipeline(autoencoder, make_model())


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
    learned = pipe.learn_length(texts)
    guide = learned.guide
    assert pipe.text_guides["length"] is learned and guide.is_number and learned.facts["num_texts"] == 60
    misses = []
    for scale in (None, 1000):
        output = pipe.of_length(4, 9, best_of=1, guide_scale=scale, **OPTIONS)
        features = guide.features(pipe.model.normalize(output.latents))
        misses.append((guide.scores(features, torch.tensor([0]))[:, 0] - 9).abs())
    assert (misses[1] < 0.5 * misses[0]).all()
    own = pipe.learn_length(num_samples=40, decoding=DecodingConfig("greedy", 20))
    assert own.guide.hidden.shape[1] == 48 and len(own.facts["held_out"]) == 8


def test_recipe_v1_takes_the_length_as_a_condition(autoencoder):
    model = make_v1(dim_latent=autoencoder.lm.config.hidden_size, max_len=autoencoder.max_len)
    hidden = LanguageAutoencoder(autoencoder.lm, autoencoder.tokenizer, None, autoencoder.max_len, True)
    pipe = TextDiffusionPipeline(hidden, model)
    output = pipe.of_length(2, 7, best_of=2, **OPTIONS)
    assert output.mask.sum(dim=1).tolist() == [9, 9], "with both special tokens"
    for call in (
        pipe.learn_length,
        lambda: pipe.of_length(2, 7, guide_scale=1),
        lambda: pipe(guides={"length": 7}),
    ):
        with pytest.raises(
            ConfigError, match="The guide length is not needed: a model of recipe v1 takes the length"
        ):
            call()


def test_lengths_that_cannot_be_are_refused(pipe):
    for options, trouble in (
        ({"length": 0}, "length is 0"),
        ({"length": 31}, "length is 31; it must be a whole number from 1 to 30"),
        (
            {"length": 9, "guide_scale": "x"},
            "guide_scale is 'x'; it must be a finite number from -1000 to 1000",
        ),
        ({"length": 9, "best_of": 0}, "best_of is 0"),
    ):
        with pytest.raises(ConfigError, match=trouble):
            pipe.of_length(1, **options)
    with pytest.raises(ConfigError, match="5 texts tell too little"):
        pipe.learn_length(["a pub"] * 5)
    with pytest.raises(ConfigError, match="All texts are . tokens long"):
        pipe.learn_length(["a pub"] * 25)


def test_the_command_line_asks_for_a_length(pipe, tmp_path):
    from typer.testing import CliRunner

    from ld4lg_fast.cli.main import app

    # Of given texts, as a random model's own are all as long as can be.
    pipe.learn_length(generate_demo_texts(60))
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
    assert content["texts"] == pipe.of_length(2, 9, best_of=2, guide_scale=3, **options).texts


def test_lengths_are_learned_from_samples_with_the_options_of_a_call(pipe, monkeypatch):
    from ld4lg_fast.cli.sampled_texts import SampledTexts

    learned = {}
    monkeypatch.setattr(TextDiffusionPipeline, "learn_length", lambda self, **given: learned.update(given))
    monkeypatch.setattr(TextDiffusionPipeline, "of_length", lambda self, *_, **options: options)
    asked = {"class_name": None, "source": "A question?", "guidance_scale": 3.0}
    sampled = SampledTexts.of(pipe, 2, best_of=2, length=9, quality="draft", **asked)
    options = sampled.call(**sampled.options)
    assert learned == {"source": "A question?", "guidance_scale": 3.0}, (
        "a model of sources samples from none but these"
    )
    assert options["length"] == 9 and options["guide_scale"] == 3 and options["source"] == "A question?"
