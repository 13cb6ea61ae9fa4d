"""`make_app`: the routes of the server."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from ..text_display import get_logger
from .completions import Completion, EventStream
from .errors import RequestError, of_validation
from .gate import GONE, Gate
from .page import HEADERS as PAGE_HEADERS
from .page import PAGE
from .schemas import Body, CompletionRequest, InfillRequest, InterpolationRequest
from .service import Service, check_model

logger = get_logger(__name__)

FIELDS = {
    "/v1/completions": list(CompletionRequest.model_fields),
    "/v1/interpolations": list(InterpolationRequest.model_fields),
    "/v1/infills": list(InfillRequest.model_fields),
}
"""POST routes and the fields of their bodies."""

OTHERS = ("/", "/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json")


def make_app(service: Service, api_key: str | None = None) -> FastAPI:
    """The ASGI application of a service, which loads its model when the application starts.

    Args:
        api_key: the bearer key of every route but the page, ``/healthz`` and ``/readyz``; None for none.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await run_in_threadpool(service.close)

    # FastAPI's own pages of the API load scripts from elsewhere.
    app = FastAPI(title="ld4lg", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Gate, service=service, api_key=api_key, routes=[*FIELDS, *OTHERS])
    _add_errors(app)
    _add_state(app, service)
    created = int(time.time())

    def described() -> dict[str, Any]:
        able = service.model().abilities
        return {
            "id": able.name,
            "object": "model",
            "created": created,
            "owned_by": "ld4lg-fast",
            "max_tokens": able.max_tokens,
            "qualities": dict(able.qualities),
            "samplers": list(able.samplers),
            "classes": list(able.classes),
            "guides": {name: list(values) for name, values in able.guides.items()},
            "takes": sorted(able.takes),
            "can": sorted(able.can),
            "max_samples": service.limits.max_samples,
            "max_steps": service.limits.max_steps,
        }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model of this server, with what it can do."""
        return {"object": "list", "data": [described()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """The model, by its name."""
        check_model(name, service.model().abilities)
        return described()

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Texts that the model writes, in OpenAI's format."""
        job = await service.complete(body)
        completion = Completion(job, service.metrics)
        if body.stream:
            return EventStream(completion, job, service.metrics)
        try:
            return await _unless_gone(request, completion.whole(), service)
        finally:
            job.cancel()

    @app.post("/v1/interpolations", response_model=None)
    async def interpolations(body: InterpolationRequest, request: Request) -> Response:
        """Texts between two texts, both ends included."""
        called = service.call(lambda backend: backend.interpolate(body), body)
        return await _unless_gone(request, _texts(called, body), service)

    @app.post("/v1/infills", response_model=None)
    async def infills(body: InfillRequest, request: Request) -> Response:
        """Texts whose gaps the model fills, the most probable first."""
        called = service.call(lambda backend: backend.infill(body), body)
        return await _unless_gone(request, _texts(called, body), service)

    return app


def _add_state(app: FastAPI, service: Service) -> None:
    """Routes about the server, and the page."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(PAGE, media_type="text/html", headers=PAGE_HEADERS)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", response_model=None)
    async def readyz() -> Response:
        """Whether the model is loaded and the server is not about to end."""
        status = "draining" if service.draining else "ready" if service.ready else "loading"
        return JSONResponse({"status": status}, 200 if service.ready else 503)

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI) -> None:
    """All errors in one format, each of one sentence."""

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return of_validation(error.errors(), FIELDS.get(request.url.path, ())).response()

    @app.exception_handler(HTTPException)
    async def by_status(request: Request, error: HTTPException) -> Response:
        said = {
            404: f"There is no {request.url.path[:60]!r} here; see /openapi.json.",
            405: f"{request.method} is not a method of {request.url.path[:60]!r}; see /openapi.json.",
        }.get(error.status_code, "The body cannot be read; send one JSON object in UTF-8.")
        return RequestError(error.status_code, said).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return RequestError(500, "The server has failed at this request; its log says why.").response()


async def _texts(called: Coroutine[Any, Any, list[str]], body: Body) -> dict[str, Any]:
    choices = [{"index": index, "text": text} for index, text in enumerate(await called)]
    return {"object": "list", "seed": body.seed, "choices": choices}


async def _unless_gone(request: Request, answer: Coroutine[Any, Any, dict], service: Service) -> Response:
    """The answer as JSON; its work is cancelled if the client goes away before."""
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return JSONResponse(work.result())
        service.metrics.cancelled.inc()
        return Response(status_code=GONE)
    finally:
        work.cancel()
        gone.cancel()
