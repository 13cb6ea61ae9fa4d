"""The options ``guides`` and ``guide_scales``: names, targets and weights, checked; the package checks them likewise.

Uses the standard library only.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import RuntimeInputError
from .option_checks import Number, complaint, elements, folded, plain, shown

DEFAULT_SCALE = 3.0
SCALE = Number(-1000, 1000)
NUMBER = Number(-1e9, 1e9)
MOST_SHOWN = 12  # classes of a guide in a message
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

Classes = Mapping[str, Sequence[str] | None]
"""Guides by name: the names of their classes, or None for the guide of a number."""


@dataclass(frozen=True)
class Chosen:
    """What a guide leads each sample to: classes or numbers, and weights, one for each sample."""

    targets: list[float]
    scales: list[float]


def check_guides(known: Classes, guides: Any, scales: Any, num_samples: int) -> dict[str, Chosen]:
    """The guides that lead at least one sample, sorted by name, with a target and a weight for each.

    Args:
        known: the model's guides.
        guides: a value for each name: a class or a number, or a list with one for each sample (None: it is not led).
        scales: a weight for some of the names, or a list with one for each sample; by default `DEFAULT_SCALE`.

    Raises:
        RuntimeInputError: a guide or a class that does not exist (the sentence lists those that do), a value that is
            none, or another number of values than of samples.
    """
    for option, given in (("guides", guides), ("guide_scales", scales)):
        if given is not None and not isinstance(given, Mapping):
            raise RuntimeInputError(
                f"{option} is {shown(given)}; it must have a value for each guide, as in "
                + ("{'food': 'Italian'}." if option == "guides" else "{'food': 3.0}.")
            )
    guides, scales = guides or {}, scales or {}
    for name in scales:
        if name not in guides:
            raise RuntimeInputError(
                f"guide_scales has {shown(name)}, but guides has not; give guides[{shown(name)}], too."
            )
    found = {}
    for name, value in guides.items():
        if not isinstance(name, str) or name not in known:
            raise RuntimeInputError(f"There is no guide {shown(name)}; {describe_guides(known)}.")
        values = _for_each(f"guides[{name!r}]", value, num_samples)
        weights = _for_each(f"guide_scales[{name!r}]", scales.get(name, DEFAULT_SCALE), num_samples)
        for weight in weights:
            if sentence := complaint(f"guide_scales[{name!r}]", weight, SCALE):
                raise RuntimeInputError(sentence)
        chosen = Chosen(
            [0.0 if each is None else guide_target(name, each, known[name]) for each in values],
            [
                0.0 if each is None else float(plain(weight))
                for each, weight in zip(values, weights, strict=True)
            ],
        )
        if any(chosen.scales):
            found[name] = chosen
    return dict(sorted(found.items()))


def _for_each(option: str, value: Any, num_samples: int) -> list:
    given = None if isinstance(value, str) else elements(value)
    if given is None:
        return [value] * num_samples
    if len(given) != num_samples:
        raise RuntimeInputError(
            f"{option} has {len(given)} entries; give one value or {num_samples} of them."
        )
    return given


def guide_target(name: str, value: Any, classes: Sequence[str] | None) -> float:
    """The number of a class by its name, ignoring case, or a number.

    Raises:
        RuntimeInputError: there is no such class, or it is no number.
    """
    value = plain(value)
    if classes is None:
        number: Any = _number(value) if isinstance(value, str) else value  # a command line has texts
        if sentence := complaint(f"guides[{name!r}]", value if number is None else number, NUMBER):
            raise RuntimeInputError(sentence)
        return float(number)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    asked = folded(str(value)) if isinstance(value, str | int) else None
    names = [folded(known) for known in classes]
    if asked not in names:
        raise RuntimeInputError(
            f"There is no class {shown(value)} of the guide {name}; it has {_listed(classes)}."
        )
    return float(names.index(asked))


def describe_guides(known: Classes) -> str:
    """``this model has food (Italian, …) and length (a number)``."""
    if not known:
        return "this model has none: learn one with ld4lg guide RUN --data FILE --label-column COLUMN"
    listed = [
        f"{name} ({'a number' if classes is None else _listed(classes)})" for name, classes in known.items()
    ]
    return f"this model has {', '.join(listed)}"


def _listed(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - MOST_SHOWN} more" if len(classes) > MOST_SHOWN else ""
    return ", ".join(classes[:MOST_SHOWN]) + more


def parse_guides(words: Sequence[str]) -> tuple[dict[str, str], dict[str, float]]:
    """The options ``guides`` and ``guide_scales`` from words such as ``food=Italian:3`` and ``length=20``.

    Raises:
        RuntimeInputError: a word without a name or a value, or a name that is given twice.
    """
    guides: dict[str, str] = {}
    scales: dict[str, float] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        front, colon, end = value.rpartition(":")
        weight = _number(end) if colon else None
        if weight is not None:
            value = front
        if not (name and equals and value):
            raise RuntimeInputError(
                f"--guide is {shown(word)}; it must be NAME=VALUE or NAME=VALUE:WEIGHT, as food=Italian:3."
            )
        if name in guides:
            raise RuntimeInputError(f"--guide {name} was given twice; give each guide once.")
        guides[name] = value
        if weight is not None:
            scales[name] = weight
    return guides, scales


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
