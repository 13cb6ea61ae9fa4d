"""Answers of ``POST /v1/completions`` in OpenAI's format, whole or as server-sent events."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..events import Event, Finished, Partial
from .errors import RequestError
from .metrics import Metrics
from .service import Job

MOST_LAG = 10.0  # seconds that a reader of a stream may be behind when the request's time is over


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of ``stops``, and whether there was one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


class Completion:
    """The answer to a running completion."""

    def __init__(self, job: Job, metrics: Metrics) -> None:
        self._job, self._metrics = job, metrics
        self._request, self._begun = job.request, time.perf_counter()
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": job.backend.abilities.name,
            "seed": job.request.seed,
        }

    async def whole(self) -> dict[str, Any]:
        """One JSON object with all texts.

        Raises:
            RequestError: see `Job.events`.
        """
        choices = [self._choice(event) async for event in self._job.events() if isinstance(event, Finished)]
        choices.sort(key=lambda choice: choice["index"])
        usage = await self._usage([choice["text"] for choice in choices])
        return {**self._head, "choices": choices, "usage": usage}

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events: texts as they form, whole texts in the order in which they end, then ``[DONE]``.

        A text that forms is in the field ``partial`` of a choice whose ``text`` is empty, so that a client that joins
        the texts of a choice gets the finished one. An error is the last event.
        """
        texts: list[str] = []
        first = True
        try:
            async for event in self._job.events():
                if first:
                    self._metrics.first_event(time.perf_counter() - self._begun)
                    first = False
                choice = self._choice(event)
                if isinstance(event, Finished):
                    texts.append(choice["text"])
                yield self._event({**self._head, "choices": [choice]})
            if (self._request.stream_options or {}).get("include_usage"):
                yield self._event({**self._head, "choices": [], "usage": await self._usage(texts)})
        except RequestError as error:
            yield self._event(error.content())
        yield "data: [DONE]\n\n"

    def _choice(self, event: Event) -> dict[str, Any]:
        if isinstance(event, Partial):
            text, _ = cut(event.text, self._request.stops)
            partial = {"step": event.step, "text": text}
            return {
                "index": event.sample,
                "text": "",
                "finish_reason": None,
                "logprobs": None,
                "partial": partial,
            }
        assert isinstance(event, Finished)
        self._metrics.texts.inc()
        text, stopped = cut(event.text, self._request.stops)
        reason = "stop" if stopped else event.finish_reason
        return {"index": event.sample, "text": text, "finish_reason": reason, "logprobs": None}

    async def _usage(self, texts: Sequence[str]) -> dict[str, int]:
        request = self._request
        read = [text for text in (*request.prompts, request.source, request.start) if text]
        counts = [await run_in_threadpool(self._job.backend.count_tokens, some) for some in (read, texts)]
        return {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}

    @staticmethod
    def _event(content: dict[str, Any]) -> str:
        return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


class EventStream(StreamingResponse):
    """Sends the events of a completion, and frees its rows when the client goes away or stops to read."""

    media_type = "text/event-stream"

    def __init__(self, completion: Completion, job: Job, metrics: Metrics) -> None:
        super().__init__(
            completion.stream(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        self._job, self._metrics = job, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended = False

        async def sending(message: Any) -> None:
            nonlocal ended
            await send(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            async with asyncio.timeout(self._job.seconds + MOST_LAG):
                await super().__call__(scope, receive, sending)
        except TimeoutError:
            pass  # the server closes the connection, as the answer is not complete
        finally:
            self._job.cancel()
            if not ended:
                self._metrics.cancelled.inc()
