"""A request that arrives while many others run waits for none of them: counted in steps and tokens, not by a clock."""

from dataclasses import replace
from itertools import groupby

import pytest

from ld4lg_fast.decoding.loop import CHECK_EVERY
from ld4lg_fast.decoding.search import GreedySearch
from ld4lg_fast.pipeline.continuous_batching import (
    EXPRESS_SHARE,
    EXPRESS_STEPS,
    Failed,
    Finished,
    Partial,
    RequestEngine,
    SampleRequest,
)
from ld4lg_fast.pipeline.text_decoding import INTERRUPTED, PATIENCE
from tests.pipeline.engine_models import GREEDY, PROMPTS, answer_until, run_to_end, texts_alone, texts_of

STEPS, TOKENS = 8, 32
SLOW = replace(GREEDY, max_length=TOKENS, min_length=TOKENS)  # every text has as many tokens
OTHERS = SampleRequest(num_samples=31, num_inference_steps=STEPS, sampler="ddim", decoding=SLOW)
LATE = replace(OTHERS, num_samples=1, seed=9, show_steps=[1])
STEP, FEW_STEP = "a step of many samples", "a step of a few samples"
TOKEN, MANY = "a token of a few texts", "a token of many texts"


class Trace:
    """What an engine does, one entry for each step and each token of a batch of texts; ``then[n]`` is called once
    there are n entries."""

    def __init__(self, engine: RequestEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries, self.then = [], {}
        advance, search = engine.running.advance, GreedySearch.advance

        def step(express_only=False):
            samples = advance(express_only)
            self.add(STEP if len(samples) >= INTERRUPTED else FEW_STEP)
            return samples

        def token(batch, span):
            search(batch, span)
            self.add(MANY if len(batch.ids) >= INTERRUPTED else TOKEN)

        monkeypatch.setattr(engine.running, "advance", step)
        monkeypatch.setattr(GreedySearch, "advance", token)

    def add(self, entry: str) -> None:
        self.entries.append(entry)
        self.then.get(len(self.entries), int)()


def answered(pipe, monkeypatch, arrival: int) -> tuple[list, list, list]:
    """Texts of `OTHERS` and of `LATE`, which arrives after that entry of the trace, and the entries from then to its
    first event and to its end."""
    with monkeypatch.context() as patch:
        engine = RequestEngine(pipe)
        trace, late, events = Trace(engine, patch), [], []

        def arrive():
            late.append(engine.submit(LATE, lambda event: events.append((len(trace.entries), event))))

        trace.then[arrival] = arrive
        others = engine.submit(OTHERS)
        answer_until(engine, lambda: others.closed and late[0].closed)
    (first, shown), (end, finished) = events
    assert isinstance(shown, Partial) and isinstance(finished, Finished)
    assert [finished.text] == texts_alone(pipe, LATE)
    return texts_of(others), trace.entries[arrival:first], trace.entries[arrival:end]


@pytest.mark.parametrize("arrival", range(1, STEPS + TOKENS - 1, 2))
def test_a_late_request_waits_for_few_steps_and_tokens(arrival, engine_pipes, monkeypatch):
    pipe = engine_pipes("plain")
    texts, to_first, to_end = answered(pipe, monkeypatch, arrival)
    assert to_first.count(STEP) <= 1 and to_first.count(MANY) <= CHECK_EVERY
    assert to_end.count(STEP) <= STEPS / (EXPRESS_STEPS + 1) and to_end.count(MANY) <= 2 * CHECK_EVERY
    assert to_end.count(STEP) + to_end.count(FEW_STEP) <= STEPS + 1
    assert to_end.count(TOKEN) == 2 * (TOKENS - 1), "of its own texts"
    assert texts == texts_alone(pipe, OTHERS)


def test_only_a_few_of_those_who_look_on_are_express(engine_pipes):
    """And they make at most `EXPRESS_STEPS` steps between two of all."""
    pipe = engine_pipes("plain")
    engine, most = RequestEngine(pipe, max_rows=64), []
    others = engine.submit(OTHERS)
    advance, made = engine.running.advance, []

    def counted(express_only=False):
        if not made:
            late.extend(engine.submit(replace(LATE, seed=seed)) for seed in range(12))
        most.append(engine.running.num_express)
        made.append(express_only)
        return advance(express_only)

    late: list = []
    engine.running.advance = counted
    answer_until(engine, lambda: others.closed and all(each.closed for each in late))
    assert (
        EXPRESS_SHARE * OTHERS.num_samples - 1 < max(most) <= EXPRESS_SHARE * (OTHERS.num_samples + len(late))
    )
    between = [len(list(steps)) for express_only, steps in groupby(made) if express_only]
    assert max(between) == EXPRESS_STEPS
    assert [texts_of(each) for each in late] == [
        texts_alone(pipe, replace(LATE, seed=seed)) for seed in range(12)
    ]
    assert texts_of(others) == texts_alone(pipe, OTHERS)


def test_steps_go_on_while_many_texts_are_decoded(engine_pipes, monkeypatch):
    engine = RequestEngine(engine_pipes("plain"))
    trace, more = Trace(engine, monkeypatch), []
    trace.then[STEPS + 2] = lambda: more.append(engine.submit(replace(OTHERS, seed=1)))
    others = engine.submit(OTHERS)
    answer_until(engine, lambda: others.closed and more[0].closed)
    pauses = (TOKENS - 1) // CHECK_EVERY
    tokens = ([MANY] * CHECK_EVERY + [STEP]) * pauses + [MANY] * ((TOKENS - 1) % CHECK_EVERY)
    assert trace.entries[: STEPS + len(tokens)] == [STEP] * STEPS + tokens
    assert texts_of(more[0]) == texts_alone(engine.pipe, replace(OTHERS, seed=1))


def test_events_of_a_sample_keep_their_order(engine_pipes):
    engine = RequestEngine(engine_pipes("plain"))
    shown = replace(OTHERS, num_samples=6, show_steps=[1])
    short = replace(shown, num_samples=2, num_inference_steps=2)
    tickets = [engine.submit(shown), engine.submit(short)]
    run_to_end(engine)
    for ticket, request in zip(tickets, (shown, short), strict=True):
        kinds = [(event.sample, type(event)) for event in ticket.events()]
        for sample in range(request.num_samples):
            assert [kind for number, kind in kinds if number == sample] == [Partial, Finished]


def test_documents_that_are_interrupted_go_on(engine_pipes, monkeypatch):
    pipe = engine_pipes("documents")
    engine, pauses = RequestEngine(pipe), []
    pause = engine._pause
    monkeypatch.setattr(engine, "_pause", lambda: pauses.append(1) or pause())
    request = replace(OTHERS, num_samples=INTERRUPTED, prompt=PROMPTS[0], max_new_tokens=60)
    ticket = engine.submit(request)
    run_to_end(engine)
    assert pauses and ticket.closed
    assert texts_of(ticket) == texts_alone(pipe, request)


def test_first_events_of_others_do_not_hold_up_a_text(engine_pipes):
    engine, ends = RequestEngine(engine_pipes("plain")), []
    engine.submit(replace(OTHERS, num_samples=1), lambda event: ends.append(engine.stats().steps))
    advance = engine._advance

    def advance_and_submit():
        advanced = advance()
        if engine.stats().steps < 2 * STEPS:
            engine.submit(LATE)
        return advanced

    engine._advance = advance_and_submit
    answer_until(engine, lambda: ends)
    assert ends[0] <= STEPS + PATIENCE


def test_a_step_that_fails_between_tokens_touches_no_text_that_is_decoded(engine_pipes, monkeypatch):
    pipe = engine_pipes("plain")
    engine = RequestEngine(pipe)
    trace, late = Trace(engine, monkeypatch), []

    def arrive():
        late.append(engine.submit(LATE))
        monkeypatch.setattr(engine.running, "advance", lambda express_only: 1 / 0)

    trace.then[STEPS + 2] = arrive
    others = engine.submit(OTHERS)
    answer_until(engine, lambda: others.closed and late[0].closed)
    (event,) = late[0].events()
    assert isinstance(event, Failed) and "ZeroDivisionError" in event.sentence
    assert texts_of(others) == texts_alone(pipe, OTHERS)


def test_closing_at_once_starts_no_step_between_tokens(engine_pipes, monkeypatch):
    engine = RequestEngine(engine_pipes("plain"))
    trace = Trace(engine, monkeypatch)

    def arrive():
        engine.submit(LATE)
        engine.close(drain=False)

    trace.then[STEPS + 2] = arrive
    others = engine.submit(OTHERS)
    engine.run()
    assert trace.entries.count(STEP) == STEPS and others.closed
