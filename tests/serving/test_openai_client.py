"""The real `openai` package against a real server."""

import openai
import pytest

from ld4lg_fast.export.runtime.serving.limits import Limits
from tests.serving.scripted_backend import NAME, ScriptedBackend


@pytest.fixture
def connect(serving):
    clients = []

    def make(backend, limits=None, key=None, sent="none"):
        address, _ = serving(backend, limits, key)
        clients.append(openai.OpenAI(base_url=f"{address}/v1", api_key=sent, max_retries=0))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_a_completion_and_the_models(connect, backend):
    client = connect(backend)
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).max_tokens == 32
    body = {"quality": "paper", "steps": 4, "class_name": "World"}
    answer = client.completions.create(
        model=NAME, prompt="", n=2, seed=6, max_tokens=9, stop=["two"], extra_body=body
    )
    assert [choice.text for choice in answer.choices] == [f"6.{i} <b>one</b> " for i in (0, 1)]
    assert (
        answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens == 4 and answer.seed == 6
    )
    request, _ = backend.held[0]
    asked = (request.quality, request.steps, request.class_name, request.max_tokens, request.prompts)
    assert asked == ("paper", 4, "World", 9, [""])


def test_a_stream_joins_to_the_text_and_shows_how_it_forms(connect, backend):
    stream = connect(backend).completions.create(
        model=NAME,
        prompt="p",
        seed=2,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"show_steps": [1, 5]},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == "2.0 <b>one</b> two three"
    shown = [c.choices[0].partial for c in chunks if c.choices and hasattr(c.choices[0], "partial")]
    assert shown == [{"step": 1, "text": "1 of 0"}, {"step": 5, "text": "5 of 0"}]
    assert chunks[-1].usage.total_tokens == 5


def test_a_stream_that_is_closed_early_frees_its_rows(connect):
    backend = ScriptedBackend(holds=True)
    client = connect(backend)
    stream = client.completions.create(model=NAME, prompt="", stream=True)
    backend.wait_for(lambda backend: backend.held)
    stream.close()
    backend.wait_for(lambda backend: backend.cancelled)


def test_errors_are_those_of_the_package(connect, backend):
    with pytest.raises(openai.BadRequestError, match="n is 0; it must be") as refused:
        connect(backend).completions.create(model=NAME, prompt="", n=0)
    assert refused.value.param == "n" and refused.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="There is no model"):
        connect(backend).completions.create(model="other", prompt="")
    with pytest.raises(openai.AuthenticationError, match="key of this server"):
        connect(backend, key="k1").completions.create(model=NAME, prompt="")
    assert connect(backend, key="k1", sent="k1").completions.create(model=NAME, prompt="").choices
    full = ScriptedBackend()
    full.is_full = True
    with pytest.raises(openai.RateLimitError, match="Too many requests wait"):
        connect(full).completions.create(model=NAME, prompt="")


def test_a_stream_that_takes_too_long_raises(connect):
    client = connect(ScriptedBackend(holds=True), Limits(max_seconds=0.1))
    with pytest.raises(openai.APIError, match="took longer than"):
        list(client.completions.create(model=NAME, prompt="", stream=True))
