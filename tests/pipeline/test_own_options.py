"""Methods that pass options on to a call accept all options except those that they set themselves."""

import inspect

import pytest
import torch

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.data.labelled import LabelledTexts
from ld4lg_fast.errors import CheckpointError, ConfigError
from tests.conftest import make_model

LATENTS = torch.zeros(2, 6, 8)
# A good value of every option of a call, but for those of models with a source or with lengths.
GIVEN = {
    "decoding": "greedy",
    "quality": "draft",
    "num_inference_steps": 2,
    "sampler": "ddim",
    "spacing": "time",
    "eta": 0.5,
    "class_id": 1,
    "guidance_scale": 1.0,
    "guidance_interval": (0.0, 1.0),
    "start": LATENTS,
    "strength": 0.5,
    "guides": {},
    "guide_scales": {},
    "steer": lambda x_start: x_start,
    "precision": None,
    "cuda_graph": False,
    "seed": 3,
    "batch_size": 4,
    "sample_ids": [1, 2],
    "progress": lambda *_: None,
    "callback": lambda *_: None,
    "source": None,
    "class_name": None,
    "lengths": None,
    "blocks": None,
}
TEXTS = ["a pub", "an inn"] * 20
DATA = LabelledTexts(TEXTS, ["a", "b"] * 20)
LEARNING = {"callback", "guides", "guide_scales"}
METHODS = {
    "vary": ({"text": "a pub", "num_samples": 2}, {"start", "lengths"}),
    "edit": ({"texts": ["a pub", "an inn"]}, {"num_samples", "start", "lengths"}),
    "infill": (
        {"text": "a ___ pub", "num_samples": 2, "best_of": 1},
        {"decoding", "start", "lengths", "sample_ids", "blocks"},
    ),
    "of_length": ({"num_samples": 2, "length": 5, "best_of": 1}, set()),
    "of_length with a guide_scale": (
        {"num_samples": 2, "length": 5, "best_of": 1, "guide_scale": 1.0},
        set(),
    ),
    "learn_length from texts": ({"texts": ["a pub", "an inn"] * 20}, set(GIVEN)),
    "learn_length": ({"num_samples": 30}, LEARNING),
    "learn_guide": ({"name": "mood", "texts": TEXTS, "labels": ["a", "b"] * 20, "num_samples": 30}, LEARNING),
    "learn_guides": ({"data": {"mood": DATA}, "num_samples": 30}, LEARNING),
}


@pytest.fixture
def pipe(autoencoder):
    return TextDiffusionPipeline(autoencoder, make_model(num_classes=3))


def test_every_method_that_passes_options_on_is_here():
    explained = set(inspect.signature(TextDiffusionPipeline.sample_batches).parameters) - {
        "self",
        "num_samples",
    }
    assert explained | {"decoding"} == set(GIVEN)
    passing = {
        name
        for name, method in inspect.getmembers(TextDiffusionPipeline, inspect.isfunction)
        if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(method).parameters.values())
    }
    assert passing - {"__call__", "stream", "sample", "_write", "_trajectories"} == {
        name.partition(" ")[0] for name in METHODS
    }


@pytest.mark.parametrize("name", METHODS)
def test_each_option_is_taken_or_refused_by_name(name, pipe, monkeypatch):
    monkeypatch.setattr("ld4lg_fast.pipeline.guide_fitting.LEAST_STEPS", 10)
    monkeypatch.setattr("ld4lg_fast.pipeline.guide_fitting.EPOCHS", 0)
    monkeypatch.setattr("ld4lg_fast.pipeline.word_model.ITERATIONS", 1)
    several = property(
        lambda _: lambda texts: torch.arange(1.0, len(texts) + 1)
    )  # weights at random write one length
    monkeypatch.setattr(TextDiffusionPipeline, "token_counts", several)
    arguments, own = METHODS[name]
    call = getattr(pipe, name.partition(" ")[0])
    for option, value in {"num_samples": 2, **GIVEN}.items():
        if option in own:
            setter = "learn_guide" if name == "learn_guides" else name
            with pytest.raises(
                ConfigError, match=rf"^{option} is .*; {setter} sets {option} itself: leave it out\.$"
            ):
                call(**arguments, **{option: value})
        elif option not in arguments and option != "num_samples":
            quick = {} if name.endswith("texts") else {"num_inference_steps": 2}
            if option == "eta":
                quick |= {"sampler": "ddim"}
            count = arguments.get("num_samples", 2)
            if option in ("start", "sample_ids") and count > 2:
                value = LATENTS[:1].expand(count, -1, -1) if option == "start" else list(range(count))
            call(**arguments, **quick | {option: value})


PLACES = [3, True, 2.5, b"S", ["S"], {}, object(), "a\0b", "x" * 5000, "a/" * 3000]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: type(place).__name__)
def test_what_is_no_path_is_refused_in_one_sentence(place, pipe):
    for call in (lambda: TextDiffusionPipeline.from_pretrained(place), lambda: pipe.save_pretrained(place)):
        with pytest.raises(ConfigError, match="it must be a path|which is no path") as said:
            call()
        assert "\n" not in str(said.value) and len(str(said.value)) < 250


def test_a_path_is_a_text_or_a_path(pipe, tmp_path):
    pipe.save_pretrained(str(tmp_path / "a"))
    pipe.save_pretrained(tmp_path / "b")
    for name in ("a", "b"):
        TextDiffusionPipeline.from_pretrained(tmp_path / name)
        TextDiffusionPipeline.from_pretrained(str(tmp_path / name))
    with pytest.raises(ConfigError, match="revision is 3; it must be a text"):
        TextDiffusionPipeline.from_pretrained(tmp_path / "a", revision=3)
    for absent in ("none", "a/denoiser/config.json/x"):
        with pytest.raises(CheckpointError, match="does not exist"):
            TextDiffusionPipeline.from_pretrained(tmp_path / absent)
