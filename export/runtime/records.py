"""JSON objects as frozen dataclasses: `key` declares a field's rule, `parse` checks them. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from .errors import RuntimeInputError
from .option_checks import Rule, Text, complaint, shown


@dataclass(frozen=True)
class Maybe:
    """A value or null."""

    of: "Shape"

    def __str__(self) -> str:
        return f"{describe(self.of)}, or null"


@dataclass(frozen=True)
class ListOf:
    """A list whose entries follow one rule; a tuple in Python."""

    of: "Shape"
    most: int
    least: int = 0

    def __str__(self) -> str:
        return f"a list of {self.least} to {self.most} entries"


@dataclass(frozen=True)
class TableOf:
    """An object with arbitrary keys, whose keys and values each follow one rule."""

    of: "Shape"
    most: int
    names: Rule = Text()

    def __str__(self) -> str:
        return f"an object of at most {self.most} entries"


# What a value may be: a rule, one of the above, or a dataclass whose fields are made by `key`.
Shape = Rule | Maybe | ListOf | TableOf | type


def key(shape: Shape, *, optional: bool = False, **settings: Any) -> Any:
    """A field of a dataclass with its rule; an ``optional`` key may be missing and needs a default."""
    return field(metadata={"shape": shape, "optional": optional}, **settings)


def describe(shape: Shape) -> str:
    """A rule in words."""
    return "an object" if isinstance(shape, type) else str(shape)


def parse(shape: Shape, value: Any, path: str) -> Any:
    """The value as dataclasses (objects) and tuples (lists).

    Raises:
        RuntimeInputError: a violation, with its ``path`` and the rule.
    """
    if isinstance(shape, type):
        return _parse_record(shape, value, path)
    if isinstance(shape, Maybe):
        return None if value is None else parse(shape.of, value, path)
    if isinstance(shape, ListOf):
        if not isinstance(value, list | tuple) or not shape.least <= len(value) <= shape.most:
            raise RuntimeInputError(_refusal(path, value, shape))
        return tuple(parse(shape.of, entry, f"{path}[{index}]") for index, entry in enumerate(value))
    if isinstance(shape, TableOf):
        if not isinstance(value, Mapping) or len(value) > shape.most:
            raise RuntimeInputError(_refusal(path, value, shape))
        for name in value:
            if not shape.names.allows(name):
                raise RuntimeInputError(f"{path} has the key {shown(name)}; a key must be {shape.names}.")
        return {name: parse(shape.of, entry, f"{path}.{name}") for name, entry in value.items()}
    if sentence := complaint(path, value, shape):
        raise RuntimeInputError(sentence)
    return value


def _parse_record(record: type, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise RuntimeInputError(_refusal(path or "its content", value, record))
    known = {entry.name: entry for entry in fields(record)}
    inside = f"{path}." if path else ""
    for name in value:
        if name not in known:
            raise RuntimeInputError(f"{inside}{_name(name)} is unknown; the keys are {', '.join(known)}.")
    given = {}
    for name, entry in known.items():
        if name in value:
            given[name] = parse(entry.metadata["shape"], value[name], inside + name)
        elif not entry.metadata["optional"]:
            raise RuntimeInputError(
                f"{inside}{name} is missing; it must be {describe(entry.metadata['shape'])}."
            )
    return record(**given)


def _refusal(path: str, value: Any, shape: Shape) -> str:
    size = f" with {len(value)} entries" if isinstance(value, list | tuple | Mapping) else ""
    return f"{path} is {shown(value)}{size}; it must be {describe(shape)}."


def _name(name: Any) -> str:
    return name if isinstance(name, str) and name.isidentifier() and len(name) < 60 else shown(name)


def as_json(value: Any) -> Any:
    """The inverse of `parse`; optional keys that are None are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        entries = {entry.name: (entry, getattr(value, entry.name)) for entry in fields(value)}
        return {
            name: as_json(content)
            for name, (entry, content) in entries.items()
            if not (content is None and entry.metadata["optional"])
        }
    if isinstance(value, Mapping):
        return {name: as_json(content) for name, content in value.items()}
    return [as_json(entry) for entry in value] if isinstance(value, list | tuple) else value
