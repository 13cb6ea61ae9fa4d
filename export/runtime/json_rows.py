"""Rows of JSON: a value a line (``.jsonl``), or a list of rows or one row after another (``.json``).

A row is an object; a string, or a list of one, becomes an object with that ``text``. Uses the standard library only.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .errors import RuntimeInputError
from .json_files import every_key_once

Placed = list[tuple[int, Mapping[str, object]]]  # rows with the lines on which they start

_TEXT_COLUMNS = ("text", "sentence", "document", "summary")
_WHITE = re.compile(r"[ \t\n\r]*")


def rows_of_lines(lines: Iterable[str], name: str) -> tuple[Placed, int]:
    """The rows of a ``.jsonl`` file, and the number of its blank lines, which are skipped.

    Raises:
        RuntimeInputError: a line that is not a row.
    """
    rows: Placed = []
    number = 0
    for number, line in enumerate(lines, 1):
        if line := line.strip():
            where = f"line {number} of {name}"
            try:
                value = _DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                remedy = "write one JSON object or string a line, without commas between them"
                raise RuntimeInputError(f"{where} {_problem(error)}: {remedy}") from error
            rows.append((number, _as_row(value, where)))
    return rows, number - len(rows)


def rows_of_documents(text: str, name: str) -> tuple[Placed, str | None]:
    """The rows of a ``.json`` file and, if it is one object that has them under a key, that key.

    Rows under a key have their number in place of a line.

    Raises:
        RuntimeInputError: not JSON, or not rows.
    """
    documents = list(_Documents(text, name))
    if len(documents) == 1:
        _, value = documents[0]
        if isinstance(value, _Elements):
            documents = value.placed
        elif isinstance(value, dict) and (key := _key_of_rows(value, name)) is not None:
            rows = enumerate(value[key], 1)
            return [(i, _as_row(row, f"row {i} of {key!r} in {name}")) for i, row in rows], key
    return [(line, _as_row(value, f"line {line} of {name}")) for line, value in documents], None


def _as_row(value: object, where: str) -> Mapping[str, object]:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        raise RuntimeInputError(
            f"{where} is neither an object nor a text: write one JSON object or string a row"
        )
    return value


def _key_of_rows(value: Mapping[str, Any], name: str) -> str | None:
    """The key of an object that has all rows, as in ``{"version": 1, "data": [{…}, …]}``; None: the object is a row.

    An object with a text column is a row, even if it has lists.
    """
    if any(isinstance(value.get(column), str) for column in _TEXT_COLUMNS):
        return None
    lists = {key: rows for key, rows in value.items() if isinstance(rows, list) and rows}
    of_objects = [key for key, rows in lists.items() if all(isinstance(row, dict) for row in rows)]
    if len(of_objects) == 1:
        return of_objects[0]
    if of_objects or len(lists) == len(value) > 1:
        raise RuntimeInputError(
            f"{name} is one object with the lists {', '.join(lists)[:200]}: write one list with an object a row, "
            "or one object a line"
        )
    return next(iter(lists)) if len(lists) == len(value) == 1 else None


_DECODER = json.JSONDecoder(object_pairs_hook=every_key_once)


def _problem(error: Exception) -> str:
    # Other errors: a duplicate key, a number with thousands of digits, thousands of brackets.
    return f"is not JSON ({error.msg if isinstance(error, json.JSONDecodeError) else error})"


class _Elements(list):
    """A JSON list that knows on which line each element starts."""

    def __init__(self, placed: list[tuple[int, Any]]) -> None:
        super().__init__(value for _, value in placed)
        self.placed = placed


class _Documents:
    """The JSON values of a text, one after another, with the line on which each starts."""

    def __init__(self, text: str, name: str) -> None:
        self._text, self._name = text, name
        self._at, self._line, self._counted = 0, 1, 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        while self._skip_white() < len(self._text):
            line = self._line_number()
            yield line, self._list() if self._takes("[") else self._value()

    def _list(self) -> _Elements:
        placed: list[tuple[int, Any]] = []
        while not self._takes("]"):
            if placed and not self._takes(","):
                line = self._line_number()
                raise RuntimeInputError(
                    f"line {line} of {self._name} is not JSON (a comma or ] is missing): repair the file"
                )
            self._skip_white()
            placed.append((self._line_number(), self._value()))
        return _Elements(placed)

    def _skip_white(self) -> int:
        self._at = _WHITE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches everywhere
        return self._at

    def _takes(self, sign: str) -> bool:
        found = self._text.startswith(sign, self._skip_white())
        self._at += found
        return found

    def _value(self) -> Any:
        try:
            value, self._at = _DECODER.raw_decode(self._text, self._at)
            return value
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else self._line_number()
            raise RuntimeInputError(
                f"line {line} of {self._name} {_problem(error)}: repair the file"
            ) from error

    def _line_number(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line
