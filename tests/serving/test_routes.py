"""The routes: OpenAI's format, whole and as events; errors; the key; state and metrics."""

import json
import re

import pytest

from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.events import Failed
from ld4lg_fast.export.runtime.serving.completions import cut
from ld4lg_fast.export.runtime.serving.service import Service
from tests.serving.scripted_backend import NAME, ScriptedBackend


def events(answer):
    """The JSON of the server-sent events of an answer, of which the last is [DONE]."""
    *parts, end = answer.text.split("\n\n")
    assert end == "" and parts.pop() == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"].endswith(".")
    return error


def test_a_completion_has_openais_form(client):
    answer = client.post("/v1/completions", json={"model": NAME, "prompt": "a b", "n": 2, "seed": 5}).json()
    assert answer["object"] == "text_completion" and answer["model"] == NAME and answer["seed"] == 5
    assert answer["id"].startswith("cmpl-") and isinstance(answer["created"], int)
    assert answer["choices"] == [
        {"index": i, "text": f"5.{i} <b>one</b> two three", "finish_reason": "stop", "logprobs": None}
        for i in (0, 1)
    ]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 8, "total_tokens": 10}


def test_without_a_seed_every_completion_has_one_of_its_own(client):
    seeds = {client.post("/v1/completions", json={}).json()["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_several_prompts_have_their_texts_one_after_the_other(client, backend):
    answer = client.post("/v1/completions", json={"prompt": ["a", "b"], "n": 2, "seed": 1}).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert backend.held[0][0].prompts == ["a", "b"]


def test_a_text_ends_before_the_first_stop(client):
    answer = client.post("/v1/completions", json={"seed": 1, "stop": ["three", " two"]}).json()
    assert (
        answer["choices"][0]["text"] == "1.0 <b>one</b>" and answer["choices"][0]["finish_reason"] == "stop"
    )
    assert cut("abc", []) == ("abc", False) and cut("abc", ["c", "b"]) == ("a", True)


def test_the_token_limit_is_told(make_client):
    backend = ScriptedBackend(holds=True)
    client = make_client(backend)
    backend.submit = lambda request, on_event: backend.finish(request, on_event, "length") or (lambda: None)
    answer = client.post("/v1/completions", json={"max_tokens": 3}).json()
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_stream_shows_texts_as_they_form_and_joins_to_the_whole(client):
    body = {"seed": 3, "n": 2, "stream": True, "show_steps": [2, 8], "stop": " two"}
    answer = client.post("/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    choices = [event["choices"][0] for event in events(answer)]
    partial = [(c["index"], c["partial"]) for c in choices if "partial" in c]
    assert partial == [(i, {"step": step, "text": f"{step} of {i}"}) for i in (0, 1) for step in (2, 8)]
    joined = ["".join(c["text"] for c in choices if c["index"] == i) for i in (0, 1)]
    assert joined == ["3.0 <b>one</b>", "3.1 <b>one</b>"]
    assert [c["finish_reason"] for c in choices] == [None, None, "stop"] * 2


def test_a_stream_has_usage_where_asked_for(client):
    body = {"stream": True, "stream_options": {"include_usage": True}}
    *_, last = events(client.post("/v1/completions", json=body))
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 4


def test_a_completion_that_fails_says_so_whole_and_as_an_event(make_client):
    backend = ScriptedBackend()
    backend.finish = lambda request, on_event: on_event(Failed("It fails."))
    client = make_client(backend)
    assert error_of(client.post("/v1/completions", json={}), 500)["message"] == "It fails."
    (event,) = events(client.post("/v1/completions", json={"stream": True}))
    assert event["error"]["message"] == "It fails."


def test_interpolations_and_infills(client):
    answer = client.post("/v1/interpolations", json={"first": "a", "second": "b", "n": 3, "seed": 4}).json()
    assert [choice["text"] for choice in answer["choices"]] == ["a 0 b", "a 1 b", "a 2 b"] and answer[
        "seed"
    ] == 4
    answer = client.post("/v1/infills", json={"text": "a ___ b", "n": 1}).json()
    assert answer["choices"] == [{"index": 0, "text": "a word 0 b"}]


def test_the_model_says_what_it_can_do(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == NAME and model["object"] == "model" and model["qualities"]["draft"] == 8
    assert model["takes"] == ["prompt", "start"] and model["classes"] == ["Sports", "World"]
    assert client.get(f"/v1/models/{NAME}").json() == model
    assert error_of(client.get("/v1/models/other"), 404)["code"] == "model_not_found"
    error = error_of(client.post("/v1/completions", json={"model": "gpt"}), 404)
    assert error["message"] == "There is no model 'gpt'; this server has toy."


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"n": 0}, "n is 0; it must be a whole number from 1 to 10000.", "n"),
        ({"n": True}, "n is True; it must be a whole number from 1 to 10000.", "n"),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0 to 2**64-1.", "seed"),
        ({"max_tokens": 2.5}, "max_tokens is 2.5; it must be a whole number from 1 to 1048576.", "max_tokens"),
        ({"stream": "yes"}, "stream is 'yes'; it must be true or false.", "stream"),
        ({"prompt": ["a", 3]}, "prompt[1] is 3; it must be a text.", "prompt"),
        ({"prompt": []}, "prompt is []; it must be a text or a list of texts.", "prompt"),
        ({"stop": ["a", ""]}, "stop is ['a', '']; it must be at most 4 texts that are not empty.", "stop"),
        ({"show_steps": 3}, "show_steps is 3; it must be a list of at most 64 steps.", "show_steps"),
        ({"show_steps": [0]}, "show_steps[0] is 0; it must be a whole number from 1 to 100000.", "show_steps"),
        ({"strategy": "best"}, "Unknown strategy 'best'; choose one of greedy, beam, nucleus.", "strategy"),
        ({"top_p": 0}, "top_p is 0; it must be a finite number above 0 and at most 1.", "top_p"),
        ({"guides": {"food": []}}, "guides.food is []; it must be a text.", "guides"),
        ({"guide_scales": {"food": "much"}}, "guide_scales.food is 'much'; it must be a finite number from -1000 "
                                               "to 1000.",
         "guide_scales"),
        ({"tempature": 1}, "There is no field 'tempature' (did you mean temperature?); leave it out.", "tempature"),
        ({"echo": True}, "echo is True, which this server does not support; leave it out.", "echo"),
        ({"n": 33}, "n is 33; this server gives at most 32 texts a request: ask for fewer, or start it with "
                    "--max-samples 33.", "n"),
        ({"prompt": ["a"] * 17, "n": 2}, "n is 34; this server gives at most 32 texts a request: ask for fewer, or "
                                         "start it with --max-samples 34.", "n"),
        ({"steps": 1001}, "steps is 1001; this server gives at most 1000 sampling steps: ask for fewer.", "steps"),
        ([], "The body must be a JSON object, sent with the header Content-Type: application/json.", None),
    ],
)  # fmt: skip
def test_bad_bodies_are_refused_in_one_sentence(client, backend, body, message, param):
    error = error_of(client.post("/v1/completions", json=body), 400)
    assert (error["message"], error["param"]) == (message, param)
    assert error["type"] == "invalid_request_error" and backend.held == []


def test_neutral_fields_and_null_are_the_same_as_none(client, backend):
    body = {
        "echo": False,
        "best_of": 1,
        "logprobs": None,
        "logit_bias": {},
        "suffix": "",
        "user": "me",
        "n": None,
    }
    assert client.post("/v1/completions", json=body).status_code == 200
    assert backend.held[0][0].num_texts == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The body must be a JSON object, sent with the header Content-Type: application/json."),
        (b"{", "The body is not valid JSON; send one JSON object."),
        (b'{"prompt": "\xff"}', "The body cannot be read; send one JSON object in UTF-8."),
        (b"[" * 100_000, "The body cannot be read; send one JSON object in UTF-8."),
        (b'{"seed": 1' + b"0" * 5000 + b"}", "The body cannot be read; send one JSON object in UTF-8."),
    ],
)
def test_broken_json_is_refused(client, content, message):
    answer = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert error_of(answer, 400)["message"] == message


def test_missing_fields_and_other_types_are_refused(client):
    assert error_of(client.post("/v1/infills", json={}), 400)["message"] == "text is missing; give it."
    long = {"text": "___ a" * 17}
    said = "text has 85 characters and 17 gaps; it must have at most 20000 and 16."
    assert error_of(client.post("/v1/infills", json=long), 400)["message"] == said
    plain = {"content-type": "text/plain"}
    assert error_of(client.post("/v1/completions", content=b'{"n": 1}', headers=plain), 400)


def test_what_the_model_refuses_names_the_field(make_client):
    def refuse(*arguments):
        raise RuntimeInputError("Unknown sampler 'x'; choose one of unipc.")

    backend = ScriptedBackend()
    backend.submit = backend.infill = refuse
    client = make_client(backend)
    error = error_of(client.post("/v1/completions", json={"sampler": "x"}), 400)
    assert (error["message"], error["param"]) == ("Unknown sampler 'x'; choose one of unipc.", "sampler")
    assert error_of(client.post("/v1/infills", json={"text": "___"}), 400)["param"] is None


def test_unknown_paths_and_methods(client):
    assert "There is no '/v1/chat'" in error_of(client.get("/v1/chat"), 404)["message"]
    assert "GET is not a method of" in error_of(client.get("/v1/completions"), 405)["message"]
    assert client.get("/docs").status_code == 404, "its page would load scripts from elsewhere"


def test_an_unexpected_error_is_told_without_its_details(make_client):
    def fail(*arguments):
        raise ZeroDivisionError("secret")

    backend = ScriptedBackend()
    backend.submit = fail
    client = make_client(backend)
    client._transport.raise_server_exceptions = False
    answer = client.post("/v1/completions", json={})
    assert error_of(answer, 500)["type"] == "server_error" and "secret" not in answer.text


def test_a_key_opens_everything_but_the_page_and_the_state(make_client, backend):
    client = make_client(backend, api_key="k1")
    for path in ("/", "/healthz", "/readyz"):
        assert client.get(path).status_code == 200
    for given in (
        {},
        {"Authorization": "Bearer k2"},
        {"Authorization": "k1"},
        {"Authorization": "Bearer \xe4"},
    ):
        headers = {name: value.encode("latin-1") for name, value in given.items()}
        answer = client.post("/v1/completions", json={}, headers=headers)
        assert error_of(answer, 401)["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics", headers=headers).status_code == 401
    assert backend.held == []
    assert client.post("/v1/completions", json={}, headers={"Authorization": "Bearer k1"}).status_code == 200


def test_metrics_count_requests_texts_and_load(client):
    client.post("/v1/completions", json={"n": 3})
    client.post("/v1/completions", json={"n": 0})
    client.get("/somewhere")
    text = client.get("/metrics").text
    for line in (
        'ld4lg_requests_total{route="/v1/completions",status="200"} 1.0',
        'ld4lg_requests_total{route="/v1/completions",status="400"} 1.0',
        'ld4lg_requests_total{route="other",status="404"} 1.0',
        "ld4lg_texts_total 3.0",
        "ld4lg_running_samples 1.0",
        "ld4lg_waiting_samples 7.0",
        "ld4lg_steps_total 8.0",
    ):
        assert line in text.splitlines()


def test_no_answer_may_be_read_as_another_type(client):
    assert client.get("/healthz").headers["x-content-type-options"] == "nosniff"


def test_the_page_may_run_its_own_script_alone(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "connect-src 'self'" in policy
    assert not re.search(
        r"""(?:src|href)=["'](?!data:)|https?://|\bstyle=|innerHTML|\bon\w+=["']""", answer.text
    )


def test_the_service_refuses_before_the_model_is_loaded(make_client, backend):
    client = make_client(backend)
    client.service.backend = None
    assert client.get("/readyz").json() == {"status": "loading"} and client.get("/healthz").status_code == 200
    answer = client.post("/v1/completions", json={})
    assert error_of(answer, 503)["code"] == "loading" and answer.headers["retry-after"] == "2"
    assert "ld4lg_running_samples 0.0" in client.get("/metrics").text


def test_a_failed_load_is_kept():
    def load():
        raise RuntimeInputError("No model.")

    service = Service(load, None)
    service._loading()
    assert str(service.failure) == "No model." and not service.ready
