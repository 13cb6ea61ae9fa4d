"""`Backend`: what the HTTP server needs of a model, and what it says of itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..events import Event
from .schemas import CompletionRequest, InfillRequest, InterpolationRequest

OnEvent = Callable[[Event], None]
"""Called from any thread, in the order of the events."""


class Full(Exception):
    """The list of waiting requests is full; ``retry_after`` is the estimated wait in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Abilities:
    """What a model can do; ``GET /v1/models`` shows it, and the page builds its form from it.

    Args:
        qualities: number of steps of each preset.
        takes: fields of a completion that depend on the model, such as ``prompt``, ``source``, ``length``, ``start``.
        can: routes beyond completions: ``interpolations``, ``infills``.
        classes: names of the classes. guides: values of each guide, empty for one that takes a number.
        max_tokens: most tokens of a text (of a block, for models that write documents).
    """

    name: str
    qualities: Mapping[str, int]
    samplers: Sequence[str]
    max_tokens: int
    takes: frozenset[str] = frozenset()
    can: frozenset[str] = frozenset()
    classes: Sequence[str] = ()
    guides: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """Samples that are being denoised and that wait to be; steps of all batches since the model was loaded."""

    running: int
    waiting: int
    steps: int


class Backend(Protocol):
    """A loaded model. Methods are called from several threads, and raise `RuntimeInputError` for bad options."""

    abilities: Abilities

    def submit(self, request: CompletionRequest, on_event: OnEvent) -> Callable[[], None]:
        """Accepts a completion and returns the function that cancels it.

        Samples of the prompt p are numbered from p·n. Each ends with `Finished`, or the request with `Failed`.

        Raises:
            RuntimeInputError: bad options.
            Full: too many requests wait.
        """
        ...

    def interpolate(self, request: InterpolationRequest) -> list[str]: ...

    def infill(self, request: InfillRequest) -> list[str]: ...

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens of all texts, special tokens not counted."""
        ...

    def load(self) -> Load: ...

    def close(self) -> None:
        """Finishes accepted requests and frees the model."""
        ...
