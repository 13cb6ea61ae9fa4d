"""Applications and servers on a free port of this machine."""

import asyncio
import contextlib
import socket
import threading

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from ld4lg_fast.export.runtime.serving.app import make_app
from ld4lg_fast.export.runtime.serving.limits import Limits
from ld4lg_fast.export.runtime.serving.server import Server
from ld4lg_fast.export.runtime.serving.service import Service
from tests.serving.scripted_backend import ScriptedBackend


@pytest.fixture
def backend():
    return ScriptedBackend()


@pytest.fixture
def make_client():
    """Clients of an application without a network, whose model is loaded."""
    with contextlib.ExitStack() as stack:

        def make(backend, limits=None, api_key=None):
            service = Service(lambda: backend, limits or Limits())
            client = stack.enter_context(TestClient(make_app(service, api_key)))
            client.service = service
            until_ready(client)
            return client

        yield make


@pytest.fixture
def client(make_client, backend):
    return make_client(backend)


def until_ready(client):
    for _ in range(500):
        if client.get("/readyz").status_code == 200:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the model was not loaded")


@pytest.fixture
def serving():
    """Starts real servers, and gives their address and their `Server`; they end with the test."""
    running = []

    def start(backend, limits=None, api_key=None):
        service = Service(lambda: backend, limits or Limits())
        config = uvicorn.Config(make_app(service, api_key), log_level="warning", ws="none")
        server = Server(config, service, lambda sentence: None)
        listening = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        running.append((server, thread))
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=address) as client:
            until_ready(client)
        return address, server

    yield start
    for server, thread in running:
        server.should_exit = server.force_exit = True
        thread.join(20)
        assert not thread.is_alive()
