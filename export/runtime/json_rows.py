"""Rows of JSON: a value a line (``.jsonl``), or a list of rows or one row after another (``.json``).

A row is an object; a string, or a list of one, becomes an object with that ``text``. Rows are read one by one, from a
file of any size; a ``.json`` file that is one object is held in memory as a whole. Uses the standard library only.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from .errors import RuntimeInputError
from .json_files import every_key_once

Row = Mapping[str, object]
Placed = tuple[int, Row]  # a row with the line on which it starts

_TEXT_COLUMNS = ("text", "sentence", "document", "summary")
_WHITE = re.compile(r"[ \t\n\r]*")
_LONGEST_WORD = 16  # characters: -Infinity, an escaped character


def rows_of_lines(lines: Iterable[str], name: str) -> Iterator[tuple[int, Row | None]]:
    """The rows of a ``.jsonl`` file with their lines; None for a blank one.

    Raises:
        RuntimeInputError: a line that is not a row.
    """
    for number, line in enumerate(lines, 1):
        if line := line.strip():
            where = f"line {number} of {name}"
            try:
                value = _DECODER.decode(line)
            except (ValueError, RecursionError) as error:
                remedy = "write one JSON object or string a line, without commas between them"
                raise RuntimeInputError(f"{where} {_problem(error)}: {remedy}") from error
            yield number, _as_row(value, where)
        else:
            yield number, None


def rows_of_documents(pieces: Iterable[str], name: str) -> tuple[Iterator[Placed], str | None]:
    """The rows of a ``.json`` file and, if it is one object that has them under a key, that key.

    Rows under a key have their number in place of a line.

    Args:
        pieces: the file's text, with line feeds at the ends of lines.

    Raises:
        RuntimeInputError: not JSON, or not rows; also while the rows are read.
    """
    documents = _Documents(pieces, name)
    if documents.starts_list():
        return documents.rows_of_list(), None
    whole = list(islice(documents, 2))
    if len(whole) == 1 and isinstance(value := whole[0][1], dict):
        key = _key_of_rows(value, name)
        if key is not None:
            rows = enumerate(value[key], 1)
            return ((i, _as_row(row, f"row {i} of {key!r} in {name}")) for i, row in rows), key
    every = chain(whole, documents)
    return ((line, _as_row(value, f"line {line} of {name}")) for line, value in every), None


def _as_row(value: object, where: str) -> Row:
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


class _Documents:
    """The JSON values of a text that comes in pieces, one after another, with the line on which each starts."""

    def __init__(self, pieces: Iterable[str], name: str) -> None:
        self._pieces, self._name = iter(pieces), name
        self._text, self._at = "", 0  # what was read and not yet dropped, and the place in it
        self._line, self._counted = 1, 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        while not self._is_over():
            yield self._line_number(), self._value()

    def starts_list(self) -> bool:
        """Whether the first value is a list."""
        return not self._is_over() and self._text[self._at] == "["

    def rows_of_list(self) -> Iterator[Placed]:
        """The elements of the list that comes next as rows; of a list before other values itself, if it has one."""
        start = self._line_number()
        elements = self._elements()
        first = list(islice(elements, 2))
        rows: Iterable[tuple[int, Any]] = chain(first, elements)
        if len(first) < 2 and not self._is_over():
            rows = chain([(start, [value for _, value in first])], self)
        for line, value in rows:
            yield line, _as_row(value, f"line {line} of {self._name}")
        for _ in self:
            _as_row([None, None], f"line {start} of {self._name}")  # a list of several before it is no row

    def _elements(self) -> Iterator[tuple[int, Any]]:
        self._at += 1
        number = 0
        while not self._takes("]"):
            if number and not self._takes(","):
                line = self._line_number()
                raise RuntimeInputError(
                    f"line {line} of {self._name} is not JSON (a comma or ] is missing): repair the file"
                )
            self._is_over()
            yield self._line_number(), self._value()
            number += 1

    def _is_over(self) -> bool:
        """Skips white space; whether nothing comes after it."""
        while True:
            self._at = _WHITE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches everywhere
            if self._at < len(self._text) or not self._more():
                return self._at == len(self._text)

    def _takes(self, sign: str) -> bool:
        found = not self._is_over() and self._text[self._at] == sign
        self._at += found
        return found

    def _value(self) -> Any:
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if self._is_cut(error) and self._more():
                    continue
                line = self._line_number()
                if isinstance(error, json.JSONDecodeError):
                    line += self._text.count("\n", self._at, error.pos)
                raise RuntimeInputError(
                    f"line {line} of {self._name} {_problem(error)}: repair the file"
                ) from error
            if end < len(self._text) or not self._more():  # else a number may go on
                self._at = end
                return value

    def _is_cut(self, error: Exception) -> bool:
        """Whether what comes next may be what is missing: of a string, or of a word or number."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST_WORD

    def _more(self) -> bool:
        """Reads as much as there is already of the value at hand, at least a piece; whether there was any."""
        wanted, size, parts = len(self._text) - self._at, 0, []
        while size <= wanted and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            size += len(piece)
        if size:
            self._line_number()
            self._text, self._at, self._counted = "".join([self._text[self._at :], *parts]), 0, 0
        return size > 0

    def _line_number(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line
