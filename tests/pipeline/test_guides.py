"""Guides of a pipeline: fitted, learned from labelled texts, listed, chosen, stored, and used to select texts."""

import json
from dataclasses import replace

import pytest
import torch

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.data import generate_demo_texts
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.diffusion.guides import GuideTargets
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.pipeline.guide_fitting import Trajectories, fit_guide
from tests.conftest import make_model

TEXTS = generate_demo_texts(60)
LABELS = [("short", "long", None)[len(text) % 3] for text in TEXTS]
GREEDY = DecodingConfig("greedy", 12)
OPTIONS = {"quality": "draft", "decoding": GREEDY, "seed": 1}


@pytest.fixture
def pipe(autoencoder):
    return TextDiffusionPipeline(autoencoder, make_model())


@pytest.fixture
def learned(pipe):
    """Two guides; that of classes tells apart what random weights do write: the sign of a latent."""
    pipe.learn_guide("size", TEXTS, LABELS, num_samples=40, decoding=GREEDY)
    pipe.learn_guide("letters", TEXTS, list(map(len, TEXTS)), numeric=True, num_samples=40, decoding=GREEDY)
    samples = pipe._trajectories("learn_guide", 200, decoding=GREEDY)
    first = samples.x_starts[-1][:, 0, 0]
    guide, _ = fit_guide(samples, (first > first.median()).long(), 3)
    pipe.text_guides["size"] = replace(pipe.text_guides["size"], guide=guide)
    return pipe


@pytest.fixture(scope="module")
def trajectories():
    """Latents whose first number says the class, seen through less and less noise."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2000, 2, 3, generator=generator)
    noise = torch.randn(3, 2000, 2, 3, generator=generator)
    levels = torch.tensor([3.0, 1.0, 0.1])[:, None, None, None]
    return Trajectories(latents + levels * noise, torch.tensor([-2.0, 0.0, 4.0]), None, []), latents.flatten(
        1
    )


def test_a_guide_is_calibrated_at_every_noise_level(trajectories):
    given, latents = trajectories
    guide, accuracy = fit_guide(given, (latents[:, 0] > 0).long(), 2)
    assert accuracy == sorted(accuracy) and 0.5 < accuracy[0] < 0.75 and accuracy[-1] > 0.85
    sure = [
        (guide.scores(x.flatten(1), torch.tensor([level])) / guide.temperature[level])
        .softmax(1)
        .amax(1)
        .mean()
        for level, x in enumerate(given.x_starts)
    ]
    for level, share in enumerate(accuracy):
        assert sure[level].item() == pytest.approx(share, abs=0.1), "as sure as it is right"
    ones = torch.ones(2000)
    shift = guide.shift(given.x_starts[-1], ones, ones, torch.tensor([2])).flatten(1).mean(0)
    assert shift.argmax() == 0 and shift[0] > 5 * shift[1:].abs().max()


def test_a_number_and_its_error_at_every_noise_level(trajectories):
    given, latents = trajectories
    numbers = 20 + 5 * latents[:, 1]
    guide, error = fit_guide(given, numbers, None)
    assert error == sorted(error, reverse=True) and error[-1] < 3 and guide.is_number
    assert guide.temperature.tolist() == pytest.approx(error)
    scores = guide.scores(given.features()[-1], torch.tensor([2]))[:, 0]
    assert torch.corrcoef(torch.stack([scores, numbers]))[0, 1] > 0.95


def test_what_there_is_is_listed(learned, pipe):
    assert learned.guides() == {"length": None, "size": ("long", "short"), "letters": None}
    facts = learned.text_guides["size"].facts
    assert facts["num_texts"] == 60 and len(facts["held_out"]) == 8 and len(facts["fingerprint"]) == 64


def probability(pipe, name, target, output):
    guide = pipe.text_guides[name].guide
    last = torch.tensor([len(guide.log_snr) - 1])
    features = guide.features(pipe.model.normalize(output.latents))
    return (guide.scores(features, last) / guide.temperature[-1]).softmax(1)[:, target]


def test_samples_are_led_to_a_class_and_away_from_it(learned):
    free = learned(8, **OPTIONS)
    to, away = (learned(8, guides={"size": "short"}, guide_scales={"size": w}, **OPTIONS) for w in (1, -1))
    means = [probability(learned, "size", 1, output).mean() for output in (away, free, to)]
    assert means[0] < means[1] < means[2]


def test_rows_have_targets_and_weights_of_their_own(learned):
    free = learned(4, **OPTIONS).latents
    guides = {"size": ["long", "short", None, "long"], "letters": [10, 90, None, 40]}
    rows = learned(4, guides=guides, guide_scales={"size": [2, 3, 4, 0], "letters": 1}, **OPTIONS).latents
    torch.testing.assert_close(rows[2], free[2], rtol=1e-4, atol=1e-4)
    for row, size, letters in ((0, "long", 10), (1, "short", 90)):
        scales = {"size": (2, 3)[row], "letters": 1}
        alone = learned(4, guides={"size": size, "letters": letters}, guide_scales=scales, **OPTIONS).latents
        torch.testing.assert_close(rows[row], alone[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"guides": None}, {"guides": {}}, {"guides": {"size": [None] * 3}}]
    + [{"guides": {"size": "long"}, "guide_scales": {"size": 0}}],
)
def test_without_weight_nothing_is_changed_or_computed(learned, options, monkeypatch):
    free = learned(3, **OPTIONS)
    monkeypatch.setattr(GuideTargets, "lead", None)
    again = learned(3, **options, **OPTIONS)
    assert torch.equal(again.latents, free.latents) and again.texts == free.texts


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"guides": {"mood": "calm"}}, r"There is no guide 'mood'; this model has length \(a number\), size \(lo"),
        ({"guides": {"size": "huge"}}, "There is no class 'huge' of the guide size; it has long, short"),
        ({"guides": {"letters": "many"}}, r"guides\['letters'\] is 'many'; it must be a finite number"),
        ({"guides": {"size": ["long"]}}, r"guides\['size'\] has 1 entries; give one value or 2 of them"),
        ({"guides": "size"}, "guides is 'size'; it must have a value for each guide"),
        ({"guides": {"size": "long"}, "guide_scales": {"size": "3x"}}, r"guide_scales\['size'\] is '3x'; it must be"),
        ({"guide_scales": {"size": 2}}, "guide_scales has 'size', but guides has not"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_refused_with_what_does(learned, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        learned(2, **options, **OPTIONS)


def test_names_of_classes_are_found_whatever_their_case(learned):
    same = [learned(2, guides={"size": name}, **OPTIONS).texts for name in ("short", "Short", "SHORT")]
    assert same[0] == same[1] == same[2]


def test_what_cannot_be_learned_is_refused(pipe):
    for arguments, sentence in (
        (("size", TEXTS[:9], LABELS[:9]), "9 labelled texts tell too little"),
        (("size", TEXTS, ["a"] * 60), "All 60 texts have the label a"),
        (("size", TEXTS, LABELS[:9]), "labels is .*; give one for each of the 60 texts"),
        (("size", TEXTS, [2.5] * 60), r"labels\[0\] is 2.5; it must be the name of a class"),
        (("length", TEXTS, LABELS), "The guide length is that of the number of tokens"),
        (("a b", TEXTS, LABELS), "The guide's name is 'a b'; it must be a letter"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            pipe.learn_guide(*arguments, num_samples=20, decoding=GREEDY)
    assert pipe.text_guides == {}


def test_a_run_keeps_its_guides(learned, tmp_path):
    learned.save_pretrained(tmp_path)
    loaded = TextDiffusionPipeline.from_pretrained(tmp_path)
    assert loaded.guides() == dict(
        sorted(learned.guides().items(), key=lambda item: (item[0] != "length", item[0]))
    )
    assert loaded.text_guides["size"].facts == learned.text_guides["size"].facts
    guides = {"size": "long", "letters": 30}
    first, second = (p(4, guides=guides, best_of=2, **OPTIONS) for p in (learned, loaded))
    assert first.texts == second.texts and torch.equal(first.latents, second.latents)
    del loaded.text_guides["size"]
    loaded.save_pretrained(tmp_path)
    assert list(TextDiffusionPipeline.from_pretrained(tmp_path).text_guides) == ["letters"]


def test_damaged_guides_are_refused(learned, tmp_path):
    learned.save_pretrained(tmp_path)
    path = tmp_path / "guides" / "size.json"
    content = json.loads(path.read_text())
    for key, value, sentence in (
        ("num_outputs", 7, "num_outputs must be the number of classes, or one more"),
        ("log_snr", [1.0, 0.0], "the levels must rise"),
        ("words", ["one"], "size.safetensors belongs to another model"),
    ):
        path.write_text(json.dumps(content | {key: value}))
        with pytest.raises(CheckpointError, match="is not the file that this run was saved with"):
            TextDiffusionPipeline.from_pretrained(tmp_path)
        (tmp_path / "fingerprint.json").rename(tmp_path / "aside")
        with pytest.raises(CheckpointError, match=sentence):
            TextDiffusionPipeline.from_pretrained(tmp_path)
        (tmp_path / "aside").rename(tmp_path / "fingerprint.json")


def test_the_best_are_those_whose_words_are_what_was_asked_for(learned):
    every = learned(12, guides={"size": "long"}, **OPTIONS)
    words = learned.text_guides["size"].log_probs(every.texts, torch.zeros(12))
    torch.testing.assert_close(learned._guide_scores(every.texts, {"size": "long"}, None), words)
    scores = words + learned.confidences(every.latents, every.texts)
    kept = learned(3, guides={"size": "long"}, best_of=4, **OPTIONS)
    assert kept.rows.tolist() == sorted(scores.topk(3).indices.tolist())
    without = learned._guide_scores(every.texts, {"size": "long"}, {"size": -1})
    torch.testing.assert_close(without, torch.log1p(-words.exp()), rtol=1e-3, atol=1e-3)


def test_the_guide_of_length_is_learned_when_it_is_asked_for(pipe, monkeypatch):
    # A random model's own texts are all as long as can be.
    pipe.learn_length(TEXTS)
    known = pipe.text_guides.pop("length")
    calls = []
    monkeypatch.setattr(
        TextDiffusionPipeline,
        "learn_length",
        lambda self: (calls.append(1), self.text_guides.update(length=known)),
    )
    led = [pipe(4, guides={"length": length}, guide_scales={"length": 1e3}, **OPTIONS) for length in (6, 18)]
    assert calls == [1]
    reached = [
        known.guide.scores(known.guide.features(pipe.model.normalize(output.latents)), torch.tensor([0]))
        for output in led
    ]
    assert (reached[0] < reached[1]).all()


def test_latents_of_given_texts_are_led(learned):
    free, led = (
        learned.edit(TEXTS[:4], strength=0.5, guides=guides, **OPTIONS) for guides in (None, {"size": "long"})
    )
    assert probability(learned, "size", 0, led).mean() > probability(learned, "size", 0, free).mean()
