"""Requests that share a running batch, by models with random weights."""

import random
import threading
from dataclasses import replace

import pytest
import torch

from ld4lg_fast.diffusion.samplers import SAMPLERS
from ld4lg_fast.pipeline.continuous_batching import (
    Partial,
    RequestEngine,
    SampleRequest,
)
from tests.pipeline.engine_models import (
    GREEDY,
    KINDS,
    LONG,
    NUCLEUS,
    PROMPTS,
    SHORT,
    SOURCES,
    after_each_step,
    answer_until,
    run_to_end,
    steps_of,
    texts_alone,
    texts_of,
)


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


def submit_at_steps(engine, requests, seed):
    """Submits requests while the engine runs, each after a random number of its steps; their tickets by place."""
    chance, tickets, advance = random.Random(seed), {}, engine._advance
    arrivals = {number: chance.randrange(8) for number in range(len(requests))}
    step = 0

    def advance_and_submit():
        nonlocal step
        advanced = advance()
        step += 1
        for number in [number for number, after in arrivals.items() if after <= step]:
            del arrivals[number]
            tickets[number] = engine.submit(requests[number])
        if not arrivals:
            engine.close()
        return advanced

    engine._advance = advance_and_submit
    engine._has_work = lambda: bool(arrivals) or RequestEngine._has_work(engine)
    return tickets


@pytest.mark.parametrize("max_rows", [4, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_those_of_the_pipeline_whatever_else_runs(kind, max_rows, engine_pipes):
    pipe, requests = engine_pipes(kind), make_requests(kind, seed=max_rows)
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


def test_a_thread_answers_those_of_others(engine_pipes):
    pipe, requests = engine_pipes("plain"), make_requests("plain", seed=3, count=6)
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


def test_shown_steps_come_before_the_finished_text(engine_pipes):
    pipe = engine_pipes("plain")
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


def test_a_document_is_shown_block_by_block(engine_pipes):
    pipe = engine_pipes("documents")
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
def test_a_text_that_was_cut_off_says_so(cut, reason, engine_pipes, monkeypatch):
    pipe = engine_pipes("plain")
    tokens = list(range(10, 14))
    monkeypatch.setattr(
        pipe.autoencoder, "generate", lambda latents, how, **_: [tokens[: how.max_length - 3]] * len(latents)
    )
    engine = RequestEngine(pipe)
    ticket = engine.submit(SampleRequest(num_inference_steps=1, decoding=replace(GREEDY, max_length=cut)))
    run_to_end(engine)
    assert [event.finish_reason for event in ticket.events()] == [reason]


def test_a_request_that_arrives_while_others_run_gets_its_first_step_next(engine_pipes):
    engine, late, seen = RequestEngine(engine_pipes("plain"), max_rows=32), [], []

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


def test_requests_take_turns_where_not_all_samples_have_room(engine_pipes):
    engine, seen = RequestEngine(engine_pipes("plain"), max_rows=4), []
    many = [engine.submit(replace(LONG, num_samples=9, num_inference_steps=2)) for _ in range(2)]
    after_each_step(engine, lambda steps: seen.append([len(steps_of(engine, ticket)) for ticket in many]))
    run_to_end(engine)
    assert seen[0] == [2, 2]
    assert all(len(texts_of(ticket)) == 9 for ticket in many)
