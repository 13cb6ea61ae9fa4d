"""A pipeline behind the server: the same texts as its own calls, for every field of a request."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.events import Failed, Finished, Partial
from ld4lg_fast.export.runtime.serving.backend import Full
from ld4lg_fast.export.runtime.serving.errors import RequestError
from ld4lg_fast.export.runtime.serving.limits import Limits
from ld4lg_fast.export.runtime.serving.schemas import CompletionRequest, InfillRequest, InterpolationRequest
from ld4lg_fast.pipeline import continuous_batching as batching
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.statistics import RunStatistics
from ld4lg_fast.serving.pipeline_backend import PipelineBackend
from tests.conftest import PERCEIVER, make_model, randomize
from tests.export.export_models import LM, v1_bart
from tests.serving.test_bodies import VALUES

CLASSES = RunStatistics(class_names=("Sports", "World"), class_counts=(3, 2))
BLOCKS = {
    "context_blocks": 2,
    "context_layers": 1,
    "context_noise": 0.1,
    "cut_share": 0.25,
    "prefix_tokens": 4,
}
OWN = DecodingConfig("nucleus", 12, min_length=2, top_p=0.9)


@pytest.fixture
def serve():
    """Makes backends, which end with the test."""
    made = []

    def make(pipe, **options):
        made.append(PipelineBackend(pipe, "tiny", Limits(**options)))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def pipe(autoencoder):
    return TextDiffusionPipeline(autoencoder, make_model(num_classes=2), CLASSES, OWN)


def asked(backend, **fields):
    """All events of a completion."""
    request = CompletionRequest(**fields)
    found, ended = [], threading.Event()

    def on_event(event):
        found.append(event)
        finished = sum(isinstance(each, Finished) for each in found)
        if isinstance(event, Failed) or finished == request.num_texts:
            ended.set()

    backend.submit(request, on_event)
    assert ended.wait(30)
    assert not isinstance(found[-1], Failed), found[-1]
    return found


def texts(events):
    finished = sorted((e for e in events if isinstance(e, Finished)), key=lambda event: event.sample)
    return [event.text for event in finished]


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"n": 3, "steps": 2}, {"num_samples": 3, "num_inference_steps": 2}),
        ({"quality": "balanced", "sampler": "ddpm"}, {"quality": "balanced", "sampler": "ddpm"}),
        ({"class_name": "World", "guidance_scale": 3.0}, {"class_name": "World", "guidance_scale": 3.0}),
        ({"strategy": "beam"}, {"decoding": DecodingConfig("beam", 12, 2, top_p=0.9)}),
        ({"temperature": 0}, {"decoding": DecodingConfig("greedy", 12, 2, top_p=0.9)}),
        ({"temperature": 2.0, "top_p": 1}, {"decoding": DecodingConfig("nucleus", 12, 2, top_p=1, temperature=2.0)}),
        ({"max_tokens": 3}, {"decoding": DecodingConfig("nucleus", 6, 2, top_p=0.9)}),
        ({"max_tokens": 10_000}, {}),
    ],
)  # fmt: skip
def test_texts_are_those_of_the_pipeline(serve, pipe, fields, options):
    backend = serve(pipe)
    expected = pipe(**({"seed": 5, "quality": "draft"} | options)).texts
    assert texts(asked(backend, seed=5, **fields)) == expected


def test_texts_form_step_by_step(serve, pipe):
    events = asked(serve(pipe), seed=3, n=2, steps=4, show_steps=[3, 1, 3, 4])
    partial = [(event.step, event.sample) for event in events if isinstance(event, Partial)]
    assert sorted(partial) == [(step, sample) for step in (1, 3) for sample in (0, 1)]


def test_variations_start_from_a_text(serve, pipe):
    own = pipe.vary("the pub near the river", 2, strength=0.3, seed=4, quality="draft").texts
    assert texts(asked(serve(pipe), seed=4, n=2, start="the pub near the river", strength=0.3)) == own


def test_models_of_recipe_v1_take_a_length_and_vary_texts_of_their_own(serve, tokenizer):
    pipe = v1_bart(tokenizer)
    backend, special = serve(pipe), tokenizer.num_special_tokens_to_add()
    options = {"seed": 2, "quality": "draft", "sampler": "ddim", "class_name": "cafe"}
    own = pipe(2, lengths=[4 + special] * 2, **options).texts
    assert texts(asked(backend, n=2, length=4, **options)) == own
    own = pipe.vary("the pub", 2, strength=0.4, **options).texts
    assert texts(asked(backend, n=2, start="the pub", strength=0.4, **options)) == own
    assert "length" in backend.abilities.takes and backend.abilities.can == {"interpolations"}


def test_prompts_are_continued_each_by_its_own_texts(serve, tokenizer):
    torch.manual_seed(0)
    autoencoder = LanguageAutoencoder.from_scratch(tokenizer, LM, PERCEIVER, max_len=24, max_positions=32)
    model = make_model(recipe=BLOCKS, dim_context=64, depth=1)
    randomize(model.context_encoder, seed=3)
    pipe = TextDiffusionPipeline(randomize(autoencoder, std=0.2).eval(), model)
    backend, prompts = serve(pipe), ["The Old Mill is a pub.", ""]
    options = {"seed": 6, "quality": "draft"}
    own = pipe(4, prompt=[prompt for prompt in prompts for _ in range(2)], max_new_tokens=9, **options).texts
    assert texts(asked(backend, n=2, prompt=prompts, max_tokens=9, **options)) == own
    assert backend.abilities.takes == {"prompt", "guidance_scale"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quality": "best"}, "Unknown quality 'best'; choose one of draft, balanced, paper."),
        ({"sampler": "best"}, "Unknown sampler 'best'; choose one of"),
        ({"class_name": "Food"}, "Food"),
        ({"source": "a"}, "source"),
        ({"prompt": "a"}, "prompt is 'a', but this model was trained without documents"),
        ({"show_steps": [9]}, "show_steps has 9, but the request has 8 steps; name steps from 1 to 8."),
        ({"strength": 0.5}, "strength is 0.5, but there is no start; give both or none."),
        ({"guides": {"food": "Italian"}}, "There is no guide 'food'; this model has none"),
    ],
)
def test_what_the_pipeline_refuses_is_refused_at_once(serve, pipe, fields, message):
    with pytest.raises(RuntimeInputError) as refused:
        serve(pipe).submit(CompletionRequest(**fields), print)
    assert message in str(refused.value)


def test_a_full_engine_refuses(serve, pipe, monkeypatch):
    with monkeypatch.context() as stopped:
        stopped.setattr(batching.RequestEngine, "run", lambda engine: None)
        backend = serve(pipe, max_waiting=2)
    cancel = backend.submit(CompletionRequest(n=2), print)
    with pytest.raises(Full):
        backend.submit(CompletionRequest(), print)
    cancel()


def test_a_text_that_reaches_max_tokens_says_so(serve, pipe):
    (event,) = asked(serve(pipe), seed=5, max_tokens=3)
    assert event.finish_reason == "length"


def test_interpolations_and_infills_are_those_of_the_pipeline(serve, pipe):
    backend = serve(pipe)
    request = InterpolationRequest(first="the pub", second="a cheap cafe", n=3, seed=0)
    assert backend.interpolate(request) == pipe.interpolate("the pub", "a cheap cafe", 3)
    beam, greedy = DecodingConfig("beam", 12, 2, top_p=0.9), request.model_copy(update={"strategy": "beam"})
    assert backend.interpolate(greedy) == pipe.interpolate("the pub", "a cheap cafe", 3, beam)
    request = InfillRequest(text="the ___ pub", n=2, seed=1, max_tokens=3)
    assert (
        backend.infill(request) == pipe.infill("the ___ pub", 2, seed=1, max_tokens=3, quality="draft").texts
    )
    with pytest.raises(RuntimeInputError, match="no gap"):
        backend.infill(InfillRequest(text="the pub"))


def test_abilities_are_those_of_the_model(serve, pipe, autoencoder):
    able = serve(pipe).abilities
    assert able.takes == {"start", "class_name", "guidance_scale"} and able.can == {
        "interpolations",
        "infills",
    }
    assert able.classes == ("Sports", "World") and able.max_tokens == 32 and able.qualities["draft"] == 8
    plain = serve(TextDiffusionPipeline(autoencoder, make_model())).abilities
    assert plain.takes == {"start"} and plain.name == "tiny"


def test_tokens_are_counted_without_special_ones(serve, pipe):
    texts = ["the pub", "near the river" * 50]
    count = serve(pipe).count_tokens
    single = [len(pipe.autoencoder.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert count(texts) == sum(single) and count([]) == 0


def test_any_valid_body_is_accepted_or_refused_with_one_sentence(pipe, monkeypatch):
    """Of a model that would run whatever it accepts."""
    monkeypatch.setattr(batching.RequestEngine, "run", lambda engine: None)
    backend = PipelineBackend(pipe, "tiny", Limits(max_waiting=1_000_000))
    names = st.sampled_from(list(CompletionRequest.model_fields))

    @settings(max_examples=100, deadline=None)
    @given(st.dictionaries(names, VALUES, max_size=5))
    def check(body):
        try:
            request = CompletionRequest.model_validate(body)
            Limits().check(request)
            backend.submit(request, print)
        except (ValidationError, RequestError, RuntimeInputError) as error:
            said = str(error)
            assert isinstance(error, ValidationError) or (said.endswith(".") and "\n" not in said)

    check()
    backend.close()
