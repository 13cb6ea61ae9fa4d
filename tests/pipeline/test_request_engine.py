"""What goes wrong among requests that share a running batch, and what is refused."""

from dataclasses import replace

import pytest
import torch

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline import continuous_batching as batching
from ld4lg_fast.pipeline.continuous_batching import (
    EngineClosed,
    EngineFull,
    Failed,
    RequestEngine,
    SampleRequest,
)
from tests.pipeline.engine_models import (
    GREEDY,
    LONG,
    SHORT,
    SOURCES,
    after_each_step,
    answer_until,
    run_to_end,
    steps_of,
    texts_alone,
    texts_of,
)


def test_a_request_that_is_given_up_frees_its_rows_at_the_next_step(engine_pipes):
    engine, seen = RequestEngine(engine_pipes("plain"), max_rows=32), []
    given_up, kept = engine.submit(LONG), engine.submit(SHORT)
    waiting = engine.submit(LONG)

    def act(steps):
        seen.append(len(steps_of(engine, given_up)))
        if steps == 2:
            given_up.cancel()
            waiting.cancel()

    after_each_step(engine, act)
    run_to_end(engine)
    # The three of them take turns for the 32 rows.
    assert seen[0] == seen[1] > 0 and set(seen[2:]) == {0}
    assert list(given_up.events()) == list(waiting.events()) == []
    assert texts_of(kept) == texts_alone(engine.pipe, SHORT)
    assert engine.stats().steps == 3, "nothing is left to do"


def test_a_client_whose_callback_fails_is_given_up(engine_pipes, caplog):
    engine, seen = RequestEngine(engine_pipes("plain")), []

    def gone(event):
        raise ConnectionError("the client is gone")

    given_up = engine.submit(replace(SHORT, show_steps=[1]), gone)
    kept = engine.submit(SHORT, seen.append)
    run_to_end(engine)
    assert given_up.closed and "given up" in caplog.text
    assert [event.text for event in seen] == texts_alone(engine.pipe, SHORT) and list(kept.events()) == []


def test_a_request_that_fails_does_not_touch_others(engine_pipes, monkeypatch):
    pipe = engine_pipes("source")
    engine = RequestEngine(pipe)
    good = SampleRequest(num_inference_steps=2, source=SOURCES[0], decoding=GREEDY)
    bad = replace(good, source=SOURCES[1])
    encode = batching.encode_sources

    def encode_some(autoencoder, texts, *rest):
        if SOURCES[1] in texts:
            raise ConfigError("This source cannot be read; give another one.")
        return encode(autoencoder, texts, *rest)

    monkeypatch.setattr(batching, "encode_sources", encode_some)
    tickets = [engine.submit(request) for request in (good, bad, good)]
    run_to_end(engine)
    assert list(tickets[1].events()) == [Failed("This source cannot be read; give another one.")]
    assert texts_of(tickets[0]) == texts_of(tickets[2]) == texts_alone(pipe, good)


def test_a_text_that_cannot_be_decoded_does_not_touch_others(engine_pipes, monkeypatch, caplog):
    pipe = engine_pipes("plain")
    want, generate, sizes = texts_alone(pipe, replace(SHORT, num_samples=5)), pipe.autoencoder.generate, []

    def generate_some(latents, how, sample_ids, **options):
        sizes.append(len(latents))
        if 3 in sample_ids:
            raise ArithmeticError("no such number")
        return generate(latents, how, sample_ids=sample_ids, **options)

    monkeypatch.setattr(pipe.autoencoder, "generate", generate_some)
    engine = RequestEngine(pipe)
    tickets = [engine.submit(replace(SHORT, sample_ids=[number])) for number in range(5)]
    run_to_end(engine)
    (failed,) = tickets.pop(3).events()
    assert "ArithmeticError: no such number" in failed.sentence and "Traceback" in caplog.text
    assert [texts_of(ticket)[0] for ticket in tickets] == want[:3] + want[4:]
    assert sizes[0] == 5 and sizes.count(1) < 5, "halves, not all of them alone"


def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on(engine_pipes, monkeypatch):
    engine = RequestEngine(engine_pipes("plain"))
    lost = engine.submit(SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(engine.running, "advance", lambda express_only: 1 / 0)
        answer_until(engine, lambda: lost.closed)
    assert "ZeroDivisionError" in next(lost.events()).sentence
    kept = engine.submit(SHORT)
    run_to_end(engine)
    assert texts_of(kept) == texts_alone(engine.pipe, SHORT)


def test_samples_that_do_not_fit_the_memory_come_later(engine_pipes, monkeypatch):
    engine = RequestEngine(engine_pipes("plain"), max_rows=8)
    advance, sizes = engine.running.advance, []

    def out_of_memory(express_only):
        sizes.append(len(engine.running))
        if len(engine.running) > 3:
            raise torch.OutOfMemoryError("no memory")
        return advance(express_only)

    monkeypatch.setattr(engine.running, "advance", out_of_memory)
    request = replace(SHORT, num_samples=7)
    ticket = engine.submit(request)
    run_to_end(engine)
    assert sizes[:2] == [7, 3] and max(sizes[1:]) == 3
    assert texts_of(ticket) == texts_alone(engine.pipe, request)

    def never(express_only):
        raise torch.OutOfMemoryError("no memory")

    engine = RequestEngine(engine_pipes("plain"))
    monkeypatch.setattr(engine.running, "advance", never)
    ticket = engine.submit(SHORT)
    run_to_end(engine)
    assert "A single sample does not fit the memory" in next(ticket.events()).sentence


def test_a_full_engine_refuses(engine_pipes):
    engine = RequestEngine(engine_pipes("plain"), max_waiting=4)
    tickets = [engine.submit(replace(SHORT, num_samples=2)) for _ in range(2)]
    with pytest.raises(EngineFull, match="4 samples wait already, of at most 4"):
        engine.submit(SHORT)
    assert engine.stats().waiting_rows == 4
    run_to_end(engine)
    assert all(len(texts_of(ticket)) == 2 for ticket in tickets)
    with pytest.raises(EngineClosed, match="takes no more requests"):
        engine.submit(SHORT)


def test_closing_at_once_fails_all_that_is_left(engine_pipes):
    engine = RequestEngine(engine_pipes("plain"), max_rows=4)
    running, waiting = engine.submit(replace(SHORT, num_samples=4)), engine.submit(SHORT)
    after_each_step(engine, lambda steps: engine.close(drain=False))
    engine.run()
    for ticket in (running, waiting):
        (event,) = ticket.events()
        assert isinstance(event, Failed) and "closed before the request was finished" in event.sentence
    assert engine.stats().steps == 1


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("plain", {"num_samples": 0}, "num_samples is 0"),
        ("plain", {"num_samples": 2000}, "num_samples is 2000; a request may have at most 1024"),
        ("plain", {"seed": -1}, "seed is -1"),
        ("plain", {"quality": "best"}, "Unknown quality 'best'"),
        ("plain", {"sampler": "euler"}, "Unknown sampler 'euler'"),
        ("plain", {"num_inference_steps": 0}, "num_inference_steps is 0"),
        ("plain", {"num_inference_steps": 1001}, "num_inference_steps is 1001; it must be at most 1000"),
        ("plain", {"sampler": "dpmpp_published", "num_inference_steps": 1}, "needs at least 2 steps"),
        ("plain", {"guidance_scale": 2.0}, "guidance_scale 2.0 needs a model with"),
        ("plain", {"class_name": "pub"}, "pub"),
        ("plain", {"source": "a"}, "source"),
        ("plain", {"prompt": "a"}, "prompt is 'a', but this model"),
        ("plain", {"length": 5}, "length is 5, but this model's texts have no length"),
        ("plain", {"decoding": "loud"}, "loud"),
        ("plain", {"show_steps": [0]}, "show_steps is 0; it must be a whole number from 1 to 8"),
        ("plain", {"show_steps": 3}, "show_steps is 3; give a list"),
        ("plain", {"sample_ids": [1, 2]}, "sample_ids"),
        ("plain", {"start": torch.zeros(1, 5, 8)}, "start has the shape"),
        ("plain", {"start": torch.zeros(1, 6, 8), "strength": 0.0}, "strength is 0.0"),
        ("classes", {"class_name": "mill"}, "mill"),
        ("source", {}, "source"),
        ("lengths", {"length": 99}, "length is 99"),
        ("documents", {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ("documents", {"source": "a"}, "source cannot be given"),
        ("documents", {"prompt": ["a", "b"]}, "2 prompts were given for 1 samples"),
    ],
)
def test_bad_options_are_refused_when_they_are_submitted(kind, options, said, engine_pipes):
    engine = RequestEngine(engine_pipes(kind))
    with pytest.raises(ConfigError, match=said):
        engine.submit(SampleRequest(**options))
    assert engine.stats().waiting_rows == 0


@pytest.mark.parametrize("options", [{"max_rows": 0}, {"max_waiting": 0}, {"max_rows": True}])
def test_bad_sizes_are_refused(options, engine_pipes):
    with pytest.raises(ConfigError, match=next(iter(options))):
        RequestEngine(engine_pipes("plain"), **options)
