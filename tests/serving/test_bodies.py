"""Fuzzed bodies are answered or refused with one sentence; nothing makes the server fail."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ld4lg_fast.export.runtime.serving.app import FIELDS
from tests.serving.scripted_backend import NAME

NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.integers(),
    st.floats(),
    st.sampled_from([2**31, 2**63, 2**64, 10**400, -0.0, 1e308]),
)
TEXTS = st.one_of(
    st.text(max_size=8), st.sampled_from([NAME, "draft", "greedy", "Sports", "a ___ b", "\ud800", "\0"])
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
ROUTE = st.sampled_from(sorted(FIELDS))


@st.composite
def bodies(draw):
    """A route, and a JSON body whose fields are mostly its own, with values of any kind."""
    route = draw(ROUTE)
    names = st.one_of(st.sampled_from(FIELDS[route]), st.sampled_from(["echo", "logprobs", "suffix"]), TEXTS)
    body = draw(st.one_of(st.dictionaries(names, VALUES, max_size=6), VALUES))
    return route, json.dumps(body)


def check(client, route, content, kind="application/json"):
    answer = client.post(route, content=content, headers={"content-type": kind})
    assert 200 <= answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        message = error["message"]
        assert message.endswith(".") and "\n" not in message and len(message) < 600 and "Error" not in message
        assert error["type"] == "invalid_request_error"


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(bodies())
def test_any_json_is_answered_or_refused_with_one_sentence(client, case):
    route, content = case
    check(client, route, content.encode())


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    ROUTE,
    st.binary(max_size=60),
    st.sampled_from(["application/json", "text/plain", "", "\xff", "application/x+json"]),
)
def test_any_bytes_are_refused_with_one_sentence(client, route, content, kind):
    check(client, route, content, kind.encode("latin-1"))
