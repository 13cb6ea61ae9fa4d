"""`Gate`: what every request passes before it is routed: key, size of its body, metrics, headers of its answer."""

import asyncio
import hmac
import time
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import RequestError
from .service import Service

OPEN = (
    "/",
    "/healthz",
    "/readyz",
)  # without a key: the page holds nothing, the others are for load balancers
BODY_SECONDS = 30.0  # for the body of a request to arrive
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
GONE = 499  # status in the metrics of a request whose client went away


class Gate:
    """ASGI middleware. ``routes`` are the paths that metrics tell apart."""

    def __init__(self, app: ASGIApp, service: Service, api_key: str | None, routes: Iterable[str]) -> None:
        self.app, self.service, self.routes = app, service, frozenset(routes)
        self._bearer = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, begun = GONE, time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if self.service.draining:
                    headers["Connection"] = "close"
            await send(message)

        self.service.in_flight += 1
        try:
            self._check_key(scope)
            await self.app(scope, await self._with_body(scope, receive), sending)
        except RequestError as error:
            await error.response()(scope, receive, sending)
        except ClientDisconnect:
            pass
        finally:
            self.service.in_flight -= 1
            route = scope["path"] if scope["path"] in self.routes else "other"
            self.service.metrics.answered(route, status, time.perf_counter() - begun)

    def _check_key(self, scope: Scope) -> None:
        if self._bearer is None or scope["path"] in OPEN:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._bearer):
            raise RequestError(
                401,
                "The key of this server is missing or wrong; send it as Authorization: Bearer KEY.",
                code="invalid_api_key",
            )

    async def _with_body(self, scope: Scope, receive: Receive) -> Receive:
        """``receive`` after the whole body was read, which it gives first.

        Raises:
            RequestError: the body is too large or arrives too slowly.
            ClientDisconnect: the client went away.
        """
        most = self.service.limits.max_body
        message = f"The body has more than {most:,} bytes, the limit of this server; send a shorter one."
        too_large = RequestError(413, message, code="body_too_large")
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or len(declared) > 18 or int(declared) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    part = await receive()
                    if part["type"] == "http.disconnect":
                        raise ClientDisconnect
                    body += part.get("body", b"")
                    more = part.get("more_body", False)
                    if len(body) > most:
                        raise too_large
        except TimeoutError as error:
            raise RequestError(408, "The body did not arrive in time; send it at once.") from error
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def receiving() -> Message:
            return whole.pop() if whole else await receive()

        return receiving
