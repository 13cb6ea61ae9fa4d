"""`serve`: runs the application with uvicorn until SIGTERM or Ctrl-C, which end it after the last answer."""

import asyncio
import ipaddress
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from ..errors import RuntimeInputError
from ..text_display import displayed
from .app import make_app
from .backend import Backend
from .limits import Limits
from .service import Service

SIGNALLED = 128  # plus the signal's number: the exit code of a process that a signal ended
DRAIN_SECONDS = 1.0  # that open connections still get answers, so that clients notice before they are closed
KEEP_ALIVE = 75  # seconds: longer than load balancers keep idle connections


class Server(uvicorn.Server):
    """A server that finishes what runs at the first SIGTERM or SIGINT, and ends at once at the second."""

    def __init__(self, config: uvicorn.Config, service: Service, say: Callable[[str], None]) -> None:
        super().__init__(config)
        self._service, self._say, self._said_ready = service, say, False
        self._draining_since = 0.0
        self.ended_by: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn's signal handler. Its own would kill the process with the same signal at the end."""
        if self._service.draining:
            self.ended_by = sig
            self.should_exit = self.force_exit = True
        self._service.draining, self._draining_since = True, time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; whether the server ends."""
        service = self._service
        if service.ready and not self._said_ready:
            self._said_ready = True
            self._say("The model is loaded.")
        waited = time.monotonic() - self._draining_since >= DRAIN_SECONDS
        drained = service.draining and not service.in_flight and (waited or not self.server_state.connections)
        return await super().on_tick(counter) or drained or service.failure is not None


def serve(
    load: Callable[[], Backend],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    api_key: str | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Serves a model until a signal ends it.

    Args:
        load: returns the model; called in a thread, while the server already answers that it is not ready.
        port: 0 takes a free one. say: gets sentences for a person; None prints them.

    Raises:
        RuntimeInputError: the address cannot be used.
        SystemExit: a second signal.
        Exception: what ``load`` raises.
    """
    say = _say if say is None else say
    with _listening(host, port) as listening:
        service = Service(load, limits or Limits())
        config = uvicorn.Config(
            make_app(service, api_key),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            ws="none",
        )
        server = Server(config, service, say)
        shown = f"[{host}]" if ":" in host else host
        say(f"Serving at http://{shown}:{listening.getsockname()[1]}/ (a page; the API under /v1).")
        if api_key is None and not _is_loopback(listening):
            print(
                f"warning: {displayed(host)} is open to others, and there is no key; give one with --api-key-env.",
                file=sys.stderr,
            )
        asyncio.run(server.serve([listening]))
    if service.failure is not None:
        raise service.failure
    if server.ended_by is not None:
        raise SystemExit(SIGNALLED + server.ended_by)


def _say(sentence: str) -> None:
    print(displayed(sentence), flush=True)


def _listening(host: str, port: int) -> socket.socket:
    if not host.strip():  # to which Python gives all addresses
        raise RuntimeInputError("--host is blank; give an address, 0.0.0.0 for every one.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise RuntimeInputError(
            f"The address {host}:{port} cannot be used ({why}); choose another --host or --port."
        ) from error


def _is_loopback(listening: socket.socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback
