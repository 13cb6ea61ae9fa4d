"""Rules of options beside those of `ld4lg_fast.export.runtime.option_checks`: unions, null, multiples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ld4lg_fast.export.runtime.option_checks import Rule, WholeNumber


class Exactly:
    """One of several values, of their types."""

    def __init__(self, *values: object) -> None:
        self.values = values

    def allows(self, value: Any) -> bool:
        return any(type(value) is type(known) and value == known for known in self.values)

    def __str__(self) -> str:
        *first, last = ("null" if value is None else str(value).lower() for value in self.values)
        return f"{', '.join(first)} or {last}" if first else last


class OneOf:
    """A value that at least one of several rules allows."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def allows(self, value: Any) -> bool:
        return any(rule.allows(value) for rule in self.rules)

    def __str__(self) -> str:
        return ", or ".join(map(str, self.rules))


@dataclass(frozen=True)
class Described:
    """A rule as a description in words and a function."""

    words: str
    allows: Callable[[Any], bool]

    def __str__(self) -> str:
        return self.words


class MultipleOf:
    """A whole number that ``divisor`` divides."""

    def __init__(self, divisor: int, most: int) -> None:
        self.divisor, self.size = divisor, WholeNumber(divisor, most)

    def allows(self, value: Any) -> bool:
        return self.size.allows(value) and value % self.divisor == 0

    def __str__(self) -> str:
        return f"a multiple of {self.divisor} up to {self.size.most}"


NULL = Exactly(None)
AUTO_OR_SWITCH = Exactly("auto", True, False)
NAME_OR_NULL = OneOf(Described("a name", lambda value: isinstance(value, str) and bool(value.strip())), NULL)
