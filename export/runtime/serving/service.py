"""`Service`: the model that is being loaded, serves or drains, its running completions and its other calls."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from ..errors import RuntimeInputError
from ..events import Event, Failed, Finished
from ..text_display import get_logger
from .backend import Abilities, Backend, Full, Load
from .errors import RequestError, of_input
from .limits import Limits
from .metrics import Metrics
from .schemas import CompletionRequest, InfillRequest, InterpolationRequest

T = TypeVar("T")
logger = get_logger(__name__)


class Service:
    """State of a server: ``failure`` is what loading the model raised, ``in_flight`` the requests being answered."""

    def __init__(self, load: Callable[[], Backend], limits: Limits, num_workers: int = 1) -> None:
        self.limits, self.metrics = limits, Metrics(self.load)
        self.backend: Backend | None = None
        self.failure: Exception | None = None
        self.draining, self.in_flight = False, 0
        self._load = load
        self._workers = ThreadPoolExecutor(num_workers, "calls")  # of calls that are not rows of the engine
        self._num_calls = 0

    def start(self) -> None:
        """Loads the model in a thread of its own."""
        threading.Thread(target=self._loading, name="loading", daemon=True).start()

    def _loading(self) -> None:
        try:
            self.backend = self._load()
        except Exception as error:
            self.failure = error

    def load(self) -> Load:
        """How busy the model is; nothing before it is loaded."""
        return Load(0, 0, 0) if self.backend is None else self.backend.load()

    @property
    def ready(self) -> bool:
        return self.backend is not None and not self.draining

    def model(self) -> Backend:
        """The loaded model.

        Raises:
            RequestError: it is still being loaded, or the server is about to end.
        """
        if self.draining:
            raise RequestError(
                503, "The server is about to end; ask another one.", code="draining", retry_after=1
            )
        if self.backend is None:
            raise RequestError(
                503,
                "The model is still being loaded; ask again in a few seconds.",
                code="loading",
                retry_after=2,
            )
        return self.backend

    async def complete(self, request: CompletionRequest) -> "Job":
        """Submits a completion.

        Raises:
            RequestError: bad options, or too many requests wait.
        """
        job = Job(self._checked(request), request, self.limits.max_seconds)
        await job.begin()
        return job

    async def call(
        self, function: Callable[[Backend], T], request: InterpolationRequest | InfillRequest
    ) -> T:
        """The result of a function of the model, which runs in a thread after those that came before.

        Raises:
            RequestError: bad options, too many requests wait, or the time is over.
        """
        backend = self._checked(request)
        if self._num_calls >= self.limits.max_waiting:
            raise too_busy(self._num_calls)
        self._num_calls += 1
        try:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(self.limits.max_seconds):
                return await loop.run_in_executor(self._workers, function, backend)
        except RuntimeInputError as error:
            raise of_input(str(error), list(type(request).model_fields)) from error
        except TimeoutError as error:
            raise out_of_time(self.limits.max_seconds) from error
        finally:
            self._num_calls -= 1

    def _checked(self, request: CompletionRequest | InterpolationRequest | InfillRequest) -> Backend:
        backend = self.model()
        check_model(request.model, backend.abilities)
        self.limits.check(request)
        return backend

    def close(self) -> None:
        """Waits for what runs, and frees the model."""
        self._workers.shutdown(cancel_futures=True)
        if self.backend is not None:
            self.backend.close()


class Job:
    """A completion that runs: its events, brought into the event loop. ``cancel`` frees what it takes."""

    def __init__(self, backend: Backend, request: CompletionRequest, seconds: float) -> None:
        self.backend, self.request, self.seconds = backend, request, seconds
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + seconds
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._cancel: Callable[[], None] | None = None

    async def begin(self) -> None:
        """Submits it; errors are those of `Service.complete`."""
        try:
            self._cancel = await run_in_threadpool(self.backend.submit, self.request, self._arrived)
        except RuntimeInputError as error:
            raise of_input(str(error), list(CompletionRequest.model_fields)) from error
        except Full as error:
            raise too_busy(error.retry_after) from error

    def _arrived(self, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncIterator[Event]:
        """Everything until the last sample has finished.

        Raises:
            RequestError: the request failed or took too long.
        """
        left = self.request.num_texts
        while left:
            try:
                async with asyncio.timeout_at(self._deadline):
                    event = await self._events.get()
            except TimeoutError as error:
                raise out_of_time(self.seconds) from error
            if isinstance(event, Failed):
                raise RequestError(500, event.sentence)
            left -= isinstance(event, Finished)
            yield event

    def cancel(self) -> None:
        """Frees the rows of the engine; nothing happens to a completion that has ended."""
        if self._cancel is not None:
            self._cancel()


def check_model(name: str | None, abilities: Abilities) -> None:
    """Refuses the name of another model.

    Raises:
        RequestError: it is not the one that is served.
    """
    if name is not None and name != abilities.name:
        message = f"There is no model {name[:60]!r}; this server has {abilities.name}."
        raise RequestError(404, message, param="model", code="model_not_found")


def too_busy(retry_after: float) -> RequestError:
    return RequestError(
        429, "Too many requests wait; ask again later.", code="queue_full", retry_after=max(1.0, retry_after)
    )


def out_of_time(seconds: float) -> RequestError:
    return RequestError(
        504,
        f"The request took longer than {seconds:g} seconds, the limit of this server; ask for fewer texts or steps.",
        code="timeout",
    )
