"""Limits of a request, clients that go away or read slowly, and the end of a server."""

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.events import Partial
from ld4lg_fast.export.runtime.serving import completions, gate
from ld4lg_fast.export.runtime.serving.limits import Limits
from ld4lg_fast.export.runtime.serving.server import _is_loopback, _listening
from tests.serving.scripted_backend import ScriptedBackend
from tests.serving.test_routes import error_of, events


def connected(address, buffer=None):
    """A plain connection to a server; ``buffer`` bytes are received before they are read."""
    connection, place = socket.socket(), urlsplit(address)
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(10)
    connection.connect((place.hostname, place.port))
    return connection


def post(body):
    """The bytes of a request for a completion."""
    content = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def test_a_body_that_is_too_large_is_refused(make_client, backend):
    client = make_client(backend, Limits(max_body=100))
    fitting = json.dumps({"prompt": "x" * 85}).encode()
    assert len(fitting) <= 100
    given = {"headers": {"content-type": "application/json"}}
    assert client.post("/v1/completions", content=fitting, **given).status_code == 200
    error = error_of(client.post("/v1/completions", content=fitting + b" " * 100, **given), 413)
    assert (
        error["message"] == "The body has more than 100 bytes, the limit of this server; send a shorter one."
    )
    answer = client.post(
        "/v1/completions", content=iter([b" " * 60] * 2), **given
    )  # its length is not declared
    assert error_of(answer, 413)["code"] == "body_too_large"


def test_a_length_that_is_no_number_is_refused(client):
    assert error_of(client.post("/v1/completions", content=b"{}", headers={"content-length": "-1"}), 413)


def test_a_body_that_does_not_arrive_is_refused(serving, backend, monkeypatch):
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.2)
    address, _ = serving(backend)
    with connected(address) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 408 and "did not arrive in time" in answer.read().decode()


def test_a_full_list_of_waiting_requests_says_when_to_come_again(make_client):
    backend = ScriptedBackend()
    backend.is_full = True
    answer = make_client(backend).post("/v1/completions", json={})
    assert error_of(answer, 429)["type"] == "rate_limit_error" and answer.headers["retry-after"] == "3"


def test_calls_beside_the_engine_wait_in_a_list_of_limited_length(serving):
    backend, inside, on = ScriptedBackend(), threading.Event(), threading.Event()

    def interpolate(request):
        inside.set()
        on.wait(10)
        return ["a"]

    backend.interpolate = interpolate
    address, _ = serving(backend, Limits(max_waiting=1))
    body = {"first": "a", "second": "b"}
    with httpx.Client(base_url=address, timeout=10) as client:
        found = []
        thread = threading.Thread(
            target=lambda: found.append(httpx.post(f"{address}/v1/interpolations", json=body))
        )
        thread.start()
        assert inside.wait(10)
        assert error_of(client.post("/v1/infills", json={"text": "___ a"}), 429)["code"] == "queue_full"
        on.set()
        thread.join()
        assert found[0].status_code == 200
        assert client.post("/v1/infills", json={"text": "___ a"}).status_code == 200


def test_a_request_that_takes_too_long_is_ended(make_client):
    backend = ScriptedBackend(holds=True)
    client = make_client(backend, Limits(max_seconds=0.05))
    error = error_of(client.post("/v1/completions", json={}), 504)
    assert (
        error["message"].startswith("The request took longer than 0.05 seconds")
        and error["code"] == "timeout"
    )
    (event,) = events(client.post("/v1/completions", json={"stream": True}))
    assert event["error"]["code"] == "timeout"
    assert len(backend.cancelled) == 2
    backend.infill = lambda request: time.sleep(0.2)
    assert error_of(client.post("/v1/infills", json={"text": "___ a"}), 504)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_rows(serving, stream):
    backend = ScriptedBackend(holds=True)
    address, server = serving(backend)
    with connected(address) as connection:
        connection.sendall(post({"stream": stream}))
        backend.wait_for(lambda backend: backend.held)
        assert backend.cancelled == []
    backend.wait_for(lambda backend: backend.cancelled)
    for _ in range(200):
        text = httpx.get(f"{address}/metrics").text
        if "ld4lg_cancelled_total 1.0" in text:
            break
        time.sleep(0.01)
    assert "ld4lg_cancelled_total 1.0" in text


def test_a_reader_that_stops_to_read_is_left_when_the_time_is_over(serving, monkeypatch):
    monkeypatch.setattr(completions, "MOST_LAG", 0.3)
    backend = ScriptedBackend(holds=True)
    address, server = serving(backend, Limits(max_seconds=0.2))
    with connected(address, buffer=2048) as connection:
        connection.sendall(post({"stream": True, "show_steps": [1]}))
        backend.wait_for(lambda backend: backend.held)
        _, on_event = backend.held[0]
        for _ in range(200):
            on_event(Partial(0, 1, "x" * 100_000))
        backend.wait_for(lambda backend: backend.cancelled)


def test_other_answers_are_not_swapped_while_many_stream(serving, backend):
    address, _ = serving(backend)

    def ask(seed, found):
        body = {"seed": seed, "n": 1 + seed % 3, "stream": bool(seed % 2), "show_steps": [1, 2]}
        answer = httpx.post(f"{address}/v1/completions", json=body, timeout=20)
        choices = [c for e in events(answer) for c in e["choices"]] if seed % 2 else answer.json()["choices"]
        found[seed] = sorted(c["text"] for c in choices if c["finish_reason"])

    found = {}
    threads = [threading.Thread(target=ask, args=(seed, found)) for seed in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {
        seed: [f"{seed}.{i} <b>one</b> two three" for i in range(1 + seed % 3)] for seed in range(40)
    }


def test_the_end_waits_for_what_runs_and_refuses_the_rest(serving):
    backend = ScriptedBackend(holds=True)
    address, server = serving(backend)
    with httpx.Client(base_url=address, timeout=10) as client, httpx.Client(base_url=address) as other:
        other.get("/healthz")  # its connection stays open
        found = []
        thread = threading.Thread(
            target=lambda: found.append(client.post("/v1/completions", json={"seed": 9}))
        )
        thread.start()
        backend.wait_for(lambda backend: backend.held)
        server.handle_exit(15, None)
        assert other.get("/readyz").status_code == 503 and other.get("/healthz").status_code == 200
        answer = other.post("/v1/completions", json={})
        assert error_of(answer, 503)["code"] == "draining" and answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
        assert not backend.closed
        backend.finish(*backend.held[0])
        thread.join()
        assert found[0].json()["choices"][0]["text"].startswith("9.0")
    for _ in range(200):
        if backend.closed:
            break
        time.sleep(0.02)
    assert backend.closed and server.ended_by is None


def test_a_second_signal_ends_at_once(serving):
    backend = ScriptedBackend(holds=True)
    address, server = serving(backend)
    with httpx.Client(base_url=address, timeout=10) as client:

        def ask():
            with contextlib.suppress(httpx.HTTPError):  # or 500, where there is time to say so
                assert client.post("/v1/completions", json={}).status_code == 500

        thread = threading.Thread(target=ask)
        thread.start()
        backend.wait_for(lambda backend: backend.held)
        server.handle_exit(15, None)
        server.handle_exit(2, None)
        thread.join(10)
        assert not thread.is_alive() and server.ended_by == 2


@pytest.mark.parametrize(("host", "port"), [("256.0.0.1", 0), ("no.such.host.invalid", 80), ("\udc80", 1)])
def test_an_address_that_cannot_be_used_is_refused(host, port):
    with pytest.raises(RuntimeInputError, match=r"cannot be used \(.*\); choose another --host or --port\.$"):
        _listening(host, port)


def test_a_taken_port_is_refused():
    with _listening("127.0.0.1", 0) as taken:
        with pytest.raises(RuntimeInputError, match=re.escape("Address already in use")):
            _listening("127.0.0.1", taken.getsockname()[1])
        assert _is_loopback(taken)
    with _listening("0.0.0.0", 0) as everywhere:
        assert not _is_loopback(everywhere)
