"""Events in which the texts of a request arrive, whatever answers it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Partial:
    """The ``text`` of a sample as it is after ``step`` steps, from 1.

    Of a document it is all that has been written, and steps are counted over all blocks; every block but the last one
    gives a `Partial`.
    """

    sample: int
    step: int
    text: str


@dataclass(frozen=True)
class Finished:
    """A sample's ``text``; ``finish_reason`` is ``stop``, or ``length`` if it was cut off at its most tokens."""

    sample: int
    text: str
    finish_reason: str


@dataclass(frozen=True)
class Failed:
    """The request has ended without the texts that are missing; ``sentence`` says why."""

    sentence: str


Event = Partial | Finished | Failed
