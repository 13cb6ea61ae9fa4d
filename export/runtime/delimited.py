"""Reads delimited tables (``.csv``, ``.tsv``) and infers separator and quoting. Uses the standard library only.

By convention a ``.csv`` file has commas and quotes fields that contain one, a line break or a quote (doubled), and a
``.tsv`` file has tabs and no quotes. Programs also write semicolons (where the comma is the decimal separator) and
quotes in ``.tsv``. A reading fits if every row has as many fields as the header. The conventional one is preferred,
then others; if none fits, the error names the line.

Lines are read again for every reading that is tried and once more for the rows, none of which is kept: they may be
those of a file of any size.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from .errors import RuntimeInputError

SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}

_SEP_LINE = re.compile(r'"?sep=([^"\r\n])"?\s*', re.IGNORECASE)
_QUOTES_KEPT = "its quotes are characters of the texts"
_WRAPPED = "its lines are quoted as a whole"
_WRAPPED_NAMES = re.compile(r'"[^\s",;|]+([,;|\t])[^\s",;|]+(?:\1[^\s",;|]+)*"')
_PROPERLY_QUOTED = re.compile(r'"(?:[^"]|"")*"')

_Spans = Iterable[tuple[int, int, list[str]]]  # fields, with the lines on which the row starts and ends


@dataclass(frozen=True)
class Delimited:
    """A table's header and its rows, each of as many fields."""

    header: list[str]
    spans: Callable[[], _Spans]
    num_records: int
    num_blank: int
    notes: tuple[str, ...] = ()

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """The fields of each row, with the line on which it starts."""
        filled = ((start, fields) for start, _, fields in self.spans() if any(map(str.strip, fields)))
        return ((start, fields[: len(self.header)]) for start, fields in islice(filled, 1, None))


class _Misfit(Exception):
    """A reading that does not fit: its line, and the reason as the end of a sentence."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def read_delimited(lines: Iterable[str], name: str, usual: str) -> Delimited:
    """Reads lines with their ends, which can be iterated again; ``usual``: the separator of the file's extension.

    Raises:
        RuntimeInputError: rows of different width, quotes that are not closed, or two columns of one name.
    """
    lines, usual, head, num_declared = _opening(lines, usual)
    table = _unwrapped(lines, usual, head) or _best_reading(lines, usual, head, name)
    repeated = next((column for column in table.header if column and table.header.count(column) > 1), None)
    if repeated is not None:
        raise RuntimeInputError(f"{name} has two columns called {repeated}: rename one")
    return replace(table, num_blank=table.num_blank - num_declared)


def _best_reading(lines: Iterable[str], usual: str, head: str, name: str) -> Delimited:
    """The table with the usual separator if that fits, else with another one in the header's line ``head``.

    Raises:
        RuntimeInputError: none fits.
    """
    others = [separator for separator in SEPARATORS if separator != usual and separator in head]
    tables: dict[str, Delimited] = {}
    misfits: dict[str, _Misfit] = {}
    for separator in (usual, *others):
        try:
            tables[separator] = _read(lines, separator)
        except _Misfit as misfit:
            misfits[separator] = misfit
        else:
            if len(tables[separator].header) > 1:
                break
    wide = [separator for separator, table in tables.items() if len(table.header) > 1]
    if wide:
        chosen = wide[0]
    elif usual in head or not misfits.keys() - {usual}:
        chosen = usual
    else:  # the header suggests another one
        chosen = next(separator for separator in misfits if separator != usual)
    unusual = "" if chosen == usual else f"its separator is {SEPARATORS[chosen]}"
    if chosen in misfits:
        problem = misfits[chosen]
        raise RuntimeInputError(
            f"line {problem.line} of {name} {problem}{unusual and f', as {unusual}'}: quote fields that contain "
            "separators or line breaks, and double the quotes in them"
        )
    table = tables[chosen]
    return replace(table, notes=(unusual, *table.notes)) if unusual else table


def _unwrapped(lines: Iterable[str], usual: str, head: str) -> Delimited | None:
    """The table of lines that are quoted as a whole (``"text;label"``, ``"a;1"``); None if they are not."""
    found = _WRAPPED_NAMES.fullmatch(head.strip())
    if found is None:
        return None
    separator = found[1]
    try:
        if any(len(fields) > 1 for _, _, fields in _parsed(lines, usual, lenient=False)):
            return None
        table = _fitted(
            lambda: (
                (start, end, fields)
                for start, end, line in _parsed(lines, usual, lenient=False)
                for _, _, fields in _parsed(line or [""], separator, lenient=False)
            )
        )
    except _Misfit:
        return None
    return replace(table, notes=(_WRAPPED, *table.notes)) if table.num_records else None


class _Blanked:
    """Lines of which one is blank."""

    def __init__(self, lines: Iterable[str], number: int) -> None:
        self._lines, self._number = lines, number

    def __iter__(self) -> Iterator[str]:
        return ("\n" if number == self._number else line for number, line in enumerate(self._lines))


def _opening(lines: Iterable[str], usual: str) -> tuple[Iterable[str], str, str, int]:
    """The separator that Excel's line ``sep=;`` declares, with that line blanked, else the usual one; and the header.

    Returns the lines, the separator, the header's line and the number of lines that are blanked.
    """
    filled = list(islice(((number, line) for number, line in enumerate(lines) if line.strip()), 2))
    declared = _SEP_LINE.fullmatch(filled[0][1]) if filled else None
    if declared is not None:
        lines, usual, filled = _Blanked(lines, filled[0][0]), declared[1], filled[1:]
    return lines, usual, filled[0][1] if filled else "", int(declared is not None)


def _read(lines: Iterable[str], separator: str) -> Delimited:
    """The table with one separator and the quoting that fits.

    Raises:
        _Misfit: none does.
    """
    if not any('"' in line for line in lines):
        return _fitted(lambda: _split(lines, separator))
    return _read_tabs(lines) if separator == "\t" else _read_quoted(lines, separator)


def _read_quoted(lines: Iterable[str], separator: str) -> Delimited:
    misfits: list[_Misfit] = []
    for lenient in (True, False):  # a blank before a quote, as in `1, "Yes, he said"`
        try:
            return _fitted(partial(_parsed, lines, separator, lenient))
        except _Misfit as misfit:
            misfits.append(misfit)
    try:
        plain = _fitted(lambda: _split(lines, separator))
    except _Misfit:
        raise misfits[0] from None
    if any(field[0] == field[-1] == '"' for _, fields in plain.records() for field in fields if field):
        raise misfits[0]
    return replace(plain, notes=(_QUOTES_KEPT,))


def _read_tabs(lines: Iterable[str]) -> Delimited:
    plain: Delimited | None = None
    problem: _Misfit | None = None
    try:
        plain = _fitted(lambda: _split(lines, "\t"))
    except _Misfit as misfit:
        problem = misfit
    # A single column fits however the lines are cut.
    if plain is None or len(plain.header) == 1:
        try:
            quoted = _fitted(lambda: _parsed(lines, "\t", lenient=False))
        except _Misfit as misfit:
            if plain is None:
                raise problem or misfit from None
        else:
            if plain is None or quoted.num_records < plain.num_records:
                return quoted
    if _is_quoted(plain, lines):
        return _fitted(lambda: _parsed(lines, "\t", lenient=False))
    return replace(plain, notes=(_QUOTES_KEPT,))


def _is_quoted(plain: Delimited, lines: Iterable[str]) -> bool:
    """Whether quotes around fields are quoting by a program, and not part of the texts.

    A program also quotes the header or an empty field, or doubles quotes in a field, or quotes exactly the fields with
    commas (Excel); and it leaves no other quote in the file.
    """

    def fields(sign: str = "") -> Iterator[str]:
        return (field for line in lines for field in line.rstrip("\r\n").split("\t") if sign in field)

    if not all(map(_PROPERLY_QUOTED.fullmatch, fields('"'))):
        return False
    header = any('"' in name for name in plain.header)
    doubled = any(field == '""' or '""' in field[1:-1] for field in fields('"'))
    return header or doubled or all(("," in field) == ('"' in field) for field in fields())


def _split(lines: Iterable[str], separator: str) -> _Spans:
    for number, line in enumerate(lines, 1):
        yield number, number, line.rstrip("\r\n").split(separator)


def _parsed(lines: Iterable[str], separator: str, lenient: bool) -> _Spans:
    # Process-wide, so never lowered again.
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=lenient)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _Misfit(start, "has a quote that is not closed, or not doubled in its field") from error
        yield start, reader.line_num, fields


def _fitted(spans: Callable[[], _Spans]) -> Delimited:
    """Header and rows; blank fields beyond the header's are dropped.

    Raises:
        _Misfit: a row of another width.
    """
    header: list[str] = []
    num_records = num_blank = num_high = most = 0
    for start, end, fields in spans():
        if not any(map(str.strip, fields)):
            num_blank += 1
        elif not header:
            header = [name.strip() for name in fields]
            while not header[-1]:
                header.pop()
        elif len(fields) < len(header) or any(map(str.strip, fields[len(header) :])):
            raise _Misfit(start, f"does not have as many columns as the first line ({len(header)})")
        else:
            num_records += 1
            if end > start:
                num_high, most = num_high + 1, max(most, end - start + 1)
    rows = "1 row spans" if num_high == 1 else f"{num_high} rows span up to"
    return Delimited(header, spans, num_records, num_blank, (f"{rows} {most} lines",) if num_high else ())
