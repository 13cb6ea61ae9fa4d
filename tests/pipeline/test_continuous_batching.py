"""Requests that share a running batch, by models with random weights."""

import random
import threading
from dataclasses import replace

import pytest
import torch

from ld4lg_fast.diffusion.samplers import SAMPLERS
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline import continuous_batching as batching
from ld4lg_fast.pipeline.continuous_batching import (
    EngineClosed,
    EngineFull,
    Failed,
    Finished,
    Partial,
    RequestEngine,
    SampleRequest,
)
from tests.pipeline.engine_models import GREEDY, KINDS, NUCLEUS, make_pipe

PROMPTS = ["The Old Mill is a pub. It serves", "", "A cheap place"]
SOURCES = ["the pub near the river is cheap", "a place", "food " * 20]


@pytest.fixture(scope="module")
def pipes(tokenizer):
    """(kind) -> its pipeline, made once."""
    made = {}

    def pipe(kind):
        if kind not in made:
            made[kind] = make_pipe(kind, tokenizer)
        return made[kind]

    return pipe


def make_requests(kind, seed, count=9):
    chance, names, requests = random.Random(seed), sorted(SAMPLERS), []
    for number in range(count):
        samples = chance.randint(1, 3)
        given = {
            "num_samples": samples,
            "seed": chance.choice((0, 5, 2**64 - 1)),
            "sampler": names[number % len(names)],
            "num_inference_steps": chance.randint(2, 5),
            "decoding": chance.choice((None, GREEDY, NUCLEUS)),
        }
        if chance.random() < 0.3:
            given["sample_ids"] = chance.sample(range(100), samples)
        if kind in ("classes", "lengths"):
            given["class_name"] = chance.choice((None, "pub", "bar"))
        if kind in ("classes", "source", "documents"):
            given["guidance_scale"] = chance.choice((None, 1.0, 3.0))
        if kind == "source":
            given["source"] = chance.choice((SOURCES[0], [chance.choice(SOURCES) for _ in range(samples)]))
        if kind == "documents":
            given["prompt"] = chance.choice(
                (None, PROMPTS[0], [chance.choice(PROMPTS) for _ in range(samples)])
            )
            given["max_new_tokens"] = chance.choice((5, 25))
        if kind == "lengths":
            given["length"] = chance.choice((None, 7))
        if kind == "plain" and chance.random() < 0.4:
            noise = torch.Generator().manual_seed(number)
            given |= {"start": torch.randn(samples, 6, 8, generator=noise), "strength": 0.5}
        requests.append(SampleRequest(**given))
    return requests


def texts_alone(pipe, request):
    """What the pipeline gives for a request's options."""
    options = {name: value for name, value in vars(request).items() if value is not None}
    options.pop("show_steps")
    if (length := options.pop("length", None)) is not None:
        special = pipe.check_length(length)
        options["lengths"] = torch.full((request.num_samples,), length + special)
    if not pipe.model.writes_documents:
        options.pop("max_new_tokens", None)
    return pipe(**options).texts


def texts_of(ticket):
    events = [event for event in ticket.events() if isinstance(event, Finished)]
    assert len({event.sample for event in events}) == len(events) == ticket.num_samples
    return [event.text for event in sorted(events, key=lambda event: event.sample)]


def run_to_end(engine):
    """Answers all that has been submitted, in this thread."""
    engine.close()
    engine.run()


def submit_at_steps(engine, requests, seed):
    """Submits requests while the engine runs, each after a random number of its steps; their tickets by place."""
    chance, tickets, advance = random.Random(seed), {}, engine._advance
    arrivals = {number: chance.randrange(8) for number in range(len(requests))}
    step = 0

    def advance_and_submit():
        nonlocal step
        advance()
        step += 1
        for number in [number for number, after in arrivals.items() if after <= step]:
            del arrivals[number]
            tickets[number] = engine.submit(requests[number])
        if not arrivals:
            engine.close()

    engine._advance = advance_and_submit
    engine._has_work = lambda: bool(arrivals) or RequestEngine._has_work(engine)
    return tickets


@pytest.mark.parametrize("max_rows", [4, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_those_of_the_pipeline_whatever_else_runs(kind, max_rows, pipes):
    pipe, requests = pipes(kind), make_requests(kind, seed=max_rows)
    engine = RequestEngine(pipe, max_rows=max_rows)
    tickets = submit_at_steps(engine, requests, seed=1)
    engine.run()
    assert len(tickets) == len(requests)
    found = [texts_of(tickets[number]) for number in range(len(requests))]
    assert found == [texts_alone(pipe, request) for request in requests]
    assert len({text for texts in found for text in texts}) > 3
    stats = engine.stats()
    assert (stats.running_rows, stats.waiting_rows) == (0, 0) and stats.steps > 8 and stats.seconds > 0
    assert stats.texts == sum(request.num_samples for request in requests)


def test_a_thread_answers_those_of_others(pipes):
    pipe, requests = pipes("plain"), make_requests("plain", seed=3, count=6)
    engine = RequestEngine(pipe, max_rows=8)
    thread = threading.Thread(target=engine.run)
    thread.start()
    found = {}

    def ask(number):
        found[number] = texts_of(engine.submit(requests[number]))

    clients = [threading.Thread(target=ask, args=[number]) for number in range(len(requests))]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    engine.close()
    thread.join(60)
    assert not thread.is_alive()
    assert [found[number] for number in range(len(requests))] == [texts_alone(pipe, r) for r in requests]


def test_shown_steps_come_before_the_finished_text(pipes):
    pipe = pipes("plain")
    request = SampleRequest(
        num_inference_steps=4, sampler="ddim", seed=2, show_steps=(1, 3, 4), decoding=GREEDY
    )
    predicted = []
    pipe.sample(
        num_inference_steps=4,
        sampler="ddim",
        seed=2,
        callback=lambda step, rows, x_start: predicted.append(pipe.model.unnormalize(x_start)),
    )
    engine = RequestEngine(pipe)
    ticket = engine.submit(request)
    run_to_end(engine)
    (text,) = texts_alone(pipe, request)
    shown = [Partial(0, step, pipe.decode(predicted[step - 1], GREEDY)[0]) for step in (1, 3)]
    *partial, finished = ticket.events()
    assert partial == shown and (finished.sample, finished.text) == (0, text)


def test_a_document_is_shown_block_by_block(pipes):
    pipe = pipes("documents")
    request = SampleRequest(
        num_inference_steps=2, sampler="ddim", prompt=PROMPTS[0], max_new_tokens=25, decoding=GREEDY, seed=5
    )
    engine = RequestEngine(pipe)
    ticket = engine.submit(request)
    run_to_end(engine)
    *partial, finished = ticket.events()
    assert partial and all(isinstance(event, Partial) for event in partial)
    assert [event.step for event in partial] == [2 * n for n in range(1, len(partial) + 1)]
    texts = [event.text for event in partial] + [finished.text]
    assert all(after.startswith(before) for before, after in zip(texts, texts[1:], strict=False))


@pytest.mark.parametrize(("cut", "reason"), [(6, "length"), (32, "stop")])
def test_a_text_that_was_cut_off_says_so(cut, reason, pipes, monkeypatch):
    pipe = pipes("plain")
    tokens = list(range(10, 14))
    monkeypatch.setattr(
        pipe.autoencoder, "generate", lambda latents, how, **_: [tokens[: how.max_length - 3]] * len(latents)
    )
    engine = RequestEngine(pipe)
    ticket = engine.submit(SampleRequest(num_inference_steps=1, decoding=replace(GREEDY, max_length=cut)))
    run_to_end(engine)
    assert [event.finish_reason for event in ticket.events()] == [reason]


def after_each_step(engine, act):
    """Calls ``act(steps)`` in the engine's thread after every step."""
    advance = engine._advance

    def watched():
        advance()
        act(engine.stats().steps)

    engine._advance = watched


def steps_of(engine, ticket):
    return [sample.steps for sample in engine.running.keys if sample.ticket is ticket]


LONG = SampleRequest(num_samples=31, num_inference_steps=12, sampler="ddim", decoding=GREEDY)
SHORT = SampleRequest(num_inference_steps=3, sampler="ddpm", decoding=GREEDY, seed=9)


def test_a_request_that_arrives_while_others_run_gets_its_first_step_next(pipes):
    engine, late, seen = RequestEngine(pipes("plain"), max_rows=32), [], []

    def act(steps):
        if steps == 3:
            late.append(engine.submit(SHORT))
        elif late:
            seen.append(steps_of(engine, late[0]))

    after_each_step(engine, act)
    engine.submit(LONG)
    answer_until(engine, lambda: late and late[0].closed and not len(engine.running))
    assert seen[:3] == [[1], [2], []], "it leaves after its last step"
    assert texts_of(late[0]) == texts_alone(engine.pipe, SHORT)


def answer_until(engine, done):
    """Runs the engine in this thread until it has nothing to do; then ``done()`` has to hold."""
    has_work = engine._has_work

    def work():
        with engine._changed:
            waits = engine._requests or engine._next or len(engine.running) or len(engine.decoder)
        return bool(waits) and has_work()

    engine._has_work = work
    engine.run()
    engine._has_work = has_work
    assert done()


def test_requests_take_turns_where_not_all_samples_have_room(pipes):
    engine, seen = RequestEngine(pipes("plain"), max_rows=4), []
    many = [engine.submit(replace(LONG, num_samples=9, num_inference_steps=2)) for _ in range(2)]
    after_each_step(engine, lambda steps: seen.append([len(steps_of(engine, ticket)) for ticket in many]))
    run_to_end(engine)
    assert seen[0] == [2, 2]
    assert all(len(texts_of(ticket)) == 9 for ticket in many)


def test_a_request_that_is_given_up_frees_its_rows_at_the_next_step(pipes):
    engine, seen = RequestEngine(pipes("plain"), max_rows=32), []
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


def test_a_client_whose_callback_fails_is_given_up(pipes, caplog):
    engine, seen = RequestEngine(pipes("plain")), []

    def gone(event):
        raise ConnectionError("the client is gone")

    given_up = engine.submit(replace(SHORT, show_steps=[1]), gone)
    kept = engine.submit(SHORT, seen.append)
    run_to_end(engine)
    assert given_up.closed and "given up" in caplog.text
    assert [event.text for event in seen] == texts_alone(engine.pipe, SHORT) and list(kept.events()) == []


def test_a_request_that_fails_does_not_touch_others(pipes, monkeypatch):
    pipe = pipes("source")
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


def test_a_text_that_cannot_be_decoded_does_not_touch_others(pipes, monkeypatch, caplog):
    pipe = pipes("plain")
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


def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on(pipes, monkeypatch):
    engine = RequestEngine(pipes("plain"))
    lost = engine.submit(SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(engine.running, "advance", lambda: 1 / 0)
        answer_until(engine, lambda: lost.closed)
    assert "ZeroDivisionError" in next(lost.events()).sentence
    kept = engine.submit(SHORT)
    run_to_end(engine)
    assert texts_of(kept) == texts_alone(engine.pipe, SHORT)


def test_samples_that_do_not_fit_the_memory_come_later(pipes, monkeypatch):
    engine = RequestEngine(pipes("plain"), max_rows=8)
    advance, sizes = engine.running.advance, []

    def out_of_memory():
        sizes.append(len(engine.running))
        if len(engine.running) > 3:
            raise torch.OutOfMemoryError("no memory")
        advance()

    monkeypatch.setattr(engine.running, "advance", out_of_memory)
    request = replace(SHORT, num_samples=7)
    ticket = engine.submit(request)
    run_to_end(engine)
    assert sizes[:2] == [7, 3] and max(sizes[1:]) == 3
    assert texts_of(ticket) == texts_alone(engine.pipe, request)

    def never():
        raise torch.OutOfMemoryError("no memory")

    engine = RequestEngine(pipes("plain"))
    monkeypatch.setattr(engine.running, "advance", never)
    ticket = engine.submit(SHORT)
    run_to_end(engine)
    assert "A single sample does not fit the memory" in next(ticket.events()).sentence


def test_a_full_engine_refuses(pipes):
    engine = RequestEngine(pipes("plain"), max_waiting=4)
    tickets = [engine.submit(replace(SHORT, num_samples=2)) for _ in range(2)]
    with pytest.raises(EngineFull, match="4 samples wait already, of at most 4"):
        engine.submit(SHORT)
    assert engine.stats().waiting_rows == 4
    run_to_end(engine)
    assert all(len(texts_of(ticket)) == 2 for ticket in tickets)
    with pytest.raises(EngineClosed, match="takes no more requests"):
        engine.submit(SHORT)


def test_closing_at_once_fails_all_that_is_left(pipes):
    engine = RequestEngine(pipes("plain"), max_rows=4)
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
def test_bad_options_are_refused_when_they_are_submitted(kind, options, said, pipes):
    engine = RequestEngine(pipes(kind))
    with pytest.raises(ConfigError, match=said):
        engine.submit(SampleRequest(**options))
    assert engine.stats().waiting_rows == 0


@pytest.mark.parametrize("options", [{"max_rows": 0}, {"max_waiting": 0}, {"max_rows": True}])
def test_bad_sizes_are_refused(options, pipes):
    with pytest.raises(ConfigError, match=next(iter(options))):
        RequestEngine(pipes("plain"), **options)
