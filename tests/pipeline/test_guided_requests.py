"""Requests with guides beside requests without, in one engine."""

import pytest
import torch

from ld4lg_fast.diffusion.samplers import SAMPLERS
from ld4lg_fast.engine.sampling_run import TABLE_ELEMENTS
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline.continuous_batching import RequestEngine, SampleRequest
from ld4lg_fast.pipeline.text_guide import TextGuide
from tests.engine.test_guided_steps import make_targets
from tests.pipeline.engine_models import GREEDY, make_pipe
from tests.pipeline.test_continuous_batching import run_to_end, submit_at_steps, texts_alone, texts_of

NAMES = ("size", "letters")


@pytest.fixture(scope="module", params=["plain", "classes", "lengths"])
def guided(request, tokenizer):
    """A pipeline of each kind with a guide of classes and one of a number."""
    pipe = make_pipe(request.param, tokenizer)
    width = pipe.model.denoiser.config.dim_latent
    if request.param != "lengths":
        width *= pipe.autoencoder.num_latents
    of_classes, of_number = make_targets(width).guides
    pipe.text_guides = {
        "size": TextGuide(of_classes, ("long", "short", "middle"), None),
        "letters": TextGuide(of_number, None, None),
    }
    return pipe


def make_requests():
    asked = [
        None,
        {"size": "short"},
        {"letters": 3.0},
        {"letters": -2.0, "size": ["long", None]},
        {"size": "short", "letters": [1.0, 4.0]},
    ]
    scales = [None, {"size": 20.0}, {"letters": -5.0}, {"size": 10.0, "letters": 2.0}, {"size": [0.0, -9.0]}]
    return [
        SampleRequest(
            num_samples=2,
            seed=number % 3,
            sampler=sampler,
            num_inference_steps=3 + number % 3,
            guides=asked[number % 5],
            guide_scales=scales[number % 5],
            decoding=GREEDY,
        )
        for number, sampler in enumerate([*sorted(SAMPLERS), *sorted(SAMPLERS)])
    ]


def test_texts_are_those_of_the_pipeline_whatever_leads_the_neighbours(guided):
    requests = make_requests()
    engine = RequestEngine(guided)
    tickets = submit_at_steps(engine, requests, seed=1)
    engine.run()
    for number, request in enumerate(requests):
        assert texts_of(tickets[number]) == texts_alone(guided, request), request


def test_guides_change_what_is_sampled(guided):
    led, free = (
        guided.sample(2, seed=0, quality="draft", guides=each).latents for each in ({"size": "short"}, None)
    )
    assert (led - free).abs().max() > 0.01
    engine, seen = RequestEngine(guided), []
    engine.decoder.add = lambda latents, **_: seen.extend(latents.values())
    engine.submit(SampleRequest(num_samples=2, guides={"size": "short"}))
    for _ in range(8):
        engine._enter()
        engine._advance()
    found = torch.stack(seen)
    assert torch.allclose(found, led, atol=1e-4)


def test_tables_of_guides_are_within_the_bound_of_all_tables(guided):
    batches = RequestEngine(guided).running.ordinary
    assert [len(batch.table.guides) for batch in batches] == [0, 0, 2, 2]
    for batch in batches:
        table = batch.table
        of_guides = sum(guide.modulation.numel() for guide in table.guides)
        sizes = 2 * table.config.dim * table.config.depth * (2 if batch.guided else 1)
        assert of_guides + table.size * sizes <= TABLE_ELEMENTS < of_guides + (table.size + 40) * sizes


def test_an_engine_without_guides_has_no_batches_for_them(tokenizer):
    assert len(RequestEngine(make_pipe("plain", tokenizer)).running.batches) == 4


@pytest.mark.parametrize(
    ("guides", "message"),
    [
        ({"mood": "calm"}, "There is no guide 'mood'; this model has letters"),
        ({"size": "huge"}, "There is no class 'huge' of the guide size; it has long, short, middle"),
        ({"size": ["long"]}, "has 1 entries; give one value or 2 of them"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(guided, guides, message):
    engine = RequestEngine(guided)
    with pytest.raises(ConfigError, match=message):
        engine.submit(SampleRequest(num_samples=2, guides=guides))
    run_to_end(engine)
