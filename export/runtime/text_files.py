"""Reads files of texts, in the package and in the exported runtime. Uses the standard library only.

Files are UTF-8, with or without a byte order mark. Lines end with LF, CRLF or CR; other separators of
``str.splitlines`` may occur inside a text. ``.txt`` has one text per line, ``.jsonl`` and ``.json`` have rows of JSON
(`json_rows`), ``.csv`` and ``.tsv`` a table with a header (`delimited`).
"""

import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BufferedReader
from itertools import islice
from pathlib import Path

from .delimited import read_delimited
from .errors import RuntimeInputError
from .json_rows import Row, rows_of_documents, rows_of_lines
from .text_lines import Lines, counted

EXTENSIONS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
SOURCE_COLUMNS = {"source": ("source", "src", "text", "document"), "prompt": ("prompt", "text", "document")}
MISSING = object()

# A first line that is not a column name: a sentence, more than three words, or more than 40 characters.
_NO_NAME = re.compile(r".*[.!?…。！？]|\S+(?:\s+\S+){3,}|.{41,}", re.DOTALL)

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60


@dataclass(frozen=True)
class Table:
    """Rows in file order with the lines on which they start.

    ``num_blank``: lines without a row. ``notes``: clauses about inferred formats. ``has_header``: the first line has
    the names of the columns.
    """

    name: str
    rows: Sequence[Row]
    places: Sequence[int]
    unit: str = "line"
    num_blank: int = 0
    notes: tuple[str, ...] = ()
    has_header: bool = False

    def where(self, index: int) -> str:
        """The position of a row, counted from 1: ``line 7 of reviews.csv``."""
        return f"{self.unit} {self.places[index]} of {self.name}"

    def columns(self) -> list[str]:
        """The names of all columns of all rows."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def account(self, num_texts: int, *notes: str) -> str:
        """A summary: ``reviews.csv (12 texts; 2 blank rows left out)``."""
        num_blank = self.num_blank + len(self.rows) - num_texts
        left_out = (f"{counted(num_blank, 'blank row')} left out",) if num_blank else ()
        facts = (counted(num_texts, "text"), *left_out, *self.notes, *notes)
        return f"{self.name} ({'; '.join(filter(None, facts))})"


def read_table(path: Path) -> Table:
    """The rows of one file; a row that is a string, or a list of one, becomes an object with that ``text``.

    A pipe is read as ``.txt``. In ``.txt`` every line is a row, even a blank one; other formats skip blank lines.

    Raises:
        RuntimeInputError: a file that is missing, of another format, not UTF-8, or does not match its extension.
    """
    try:
        ending = ".txt" if path.is_fifo() else path.suffix.lower()
        if ending not in EXTENSIONS:
            raise RuntimeInputError(
                f"{path} cannot be read as texts: its name must end in {', '.join(EXTENSIONS)}"
            )
        return read_open_table(lambda: open(path, "rb"), path, ending)
    except FileNotFoundError as error:
        raise RuntimeInputError(f"the file {path} does not exist: correct its path") from error
    except OSError as error:
        raise RuntimeInputError(
            f"{path} cannot be read ({error.strerror}): name a file that you may read"
        ) from error


def read_open_table(opened: Callable[[], BufferedReader], path: Path, ending: str) -> Table:
    """`read_table` of a file that ``opened`` opens, whose format is that of ``ending``, one of `EXTENSIONS`."""
    *rows, end = read_chunks(opened, path, ending)
    return replace(rows[0], num_blank=rows[0].num_blank + end.num_blank, notes=end.notes) if rows else end


def read_chunks(
    opened: Callable[[], BufferedReader], path: Path, ending: str, num_rows: int | None = None
) -> Iterator[Table]:
    """The rows of a file in tables of ``num_rows`` lines or rows, or in one; the last table, without rows, has the
    notes.

    ``opened`` is called for every reading of the file; that of a table with separators takes several.
    """
    lines = Lines(opened, path)
    table, rows = _READERS[ending](lines, str(path))
    empty = replace(table, num_blank=0, notes=())
    while chunk := list(islice(rows, num_rows)):
        filled = [(place, row) for place, row in chunk if row is not None]
        yield replace(
            empty,
            rows=[row for _, row in filled],
            places=[place for place, _ in filled],
            num_blank=len(chunk) - len(filled),
        )
    yield replace(table, notes=(*lines.notes(), *table.notes))


_Reading = tuple[Table, Iterator[tuple[int, Row | None]]]
"""A table without its rows, and these with their places; None for a blank line."""


def _read_txt(lines: Lines, name: str) -> _Reading:
    def rows() -> Iterator[tuple[int, Row]]:
        number = 0
        for number, line in enumerate(lines, 1):
            yield number, {"text": line.rstrip("\r\n")}
        if not number:
            yield 1, {"text": ""}  # an empty file has one blank line

    return Table(name, (), ()), rows()


def _read_csv(lines: Lines, name: str, usual: str = ",") -> _Reading:
    found = read_delimited(lines, name, usual)
    rows = ((line, dict(zip(found.header, fields, strict=True))) for line, fields in found.records())
    return Table(name, (), (), num_blank=found.num_blank, notes=found.notes, has_header=True), rows


def _read_tsv(lines: Lines, name: str) -> _Reading:
    return _read_csv(lines, name, "\t")


def _read_jsonl(lines: Lines, name: str) -> _Reading:
    return Table(name, (), ()), rows_of_lines(lines, name)


def _read_json(lines: Lines, name: str) -> _Reading:
    rows, key = rows_of_documents(lines.pieces(), name)
    return Table(name, (), ()) if key is None else Table(f"{key!r} of {name}", (), (), unit="row"), rows


_READERS: Mapping[str, Callable[[Lines, str], _Reading]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
}


def lookup(row: Row, column: str) -> object:
    """The value under ``column``, or ``MISSING``; a dot descends into nested objects."""
    if column in row:
        return row[column]
    head, dot, rest = column.partition(".")
    inner = row.get(head)
    return lookup(inner, rest) if dot and isinstance(inner, Mapping) else MISSING


class Census:
    """Which of several names the rows of tables have, one table after another; of rows with none of them all names."""

    def __init__(self, candidates: Sequence[str]) -> None:
        self._have = dict.fromkeys(candidates, 0)
        self._columns: dict[str, None] = {}
        self._name, self._has_header = "", False

    def count(self, table: Table) -> None:
        """Adds the rows of a table."""
        self._name, self._has_header = table.name, table.has_header
        for name in self._have:
            self._have[name] += sum(lookup(row, name) is not MISSING for row in table.rows)
        if not any(self._have.values()):
            self._columns |= dict.fromkeys(table.columns())

    def chosen(self, remedy: str, lone: bool = True) -> tuple[str, str]:
        """The first of the names that most rows have; if no row has one, the only column if ``lone``.

        Names match regardless of case and surrounding blanks. Returns the name and a note if it was inferred.

        Raises:
            RuntimeInputError: there is no such column, or the only one's name looks like a text.
        """
        best = max(self._have, key=self._have.__getitem__)
        if self._have[best]:
            return best, ""
        candidates, columns = list(self._have), list(self._columns)
        for candidate in candidates:
            alike = [name for name in columns if name.strip().casefold() == candidate.strip().casefold()]
            if len(alike) == 1:
                return alike[0], ""
            if alike:
                raise RuntimeInputError(
                    f"{self._name} has the column {candidate} as {' and '.join(alike)}: write its name the same in "
                    f"every row, or {remedy}"
                )
        if not (lone and len(columns) == 1):
            shown = ", ".join(columns[:20]) + (", …" if len(columns) > 20 else "")
            raise RuntimeInputError(
                f"{self._name} has no column {' or '.join(candidates)}, its columns are {shown}: {remedy}"
            )
        [column] = columns
        if self._has_header and _NO_NAME.fullmatch(column):
            raise RuntimeInputError(
                f"the first line of {self._name}, {_repr.repr(column)}, should name its column: write the line "
                f"{candidates[0]} above it if it is a text, or {remedy}"
            )
        header = f"; write the line {candidates[0]} above it if that is a text" if self._has_header else ""
        return column, f"its only column, {column}, is taken for the {candidates[0]}{header}"


def choose_column(table: Table, candidates: Sequence[str], remedy: str, lone: bool = True) -> tuple[str, str]:
    """`Census.chosen` of one table."""
    census = Census(candidates)
    census.count(table)
    return census.chosen(remedy, lone)


def values_of(table: Table, column: str, kind: str) -> Iterator[object]:
    """The values of a column, one for each row.

    Raises:
        RuntimeInputError: a row has none.
    """
    for index, row in enumerate(table.rows):
        value = lookup(row, column)
        if value is MISSING or value is None:
            raise RuntimeInputError(
                f"{table.where(index)} has no {kind} in column {column}: complete or remove the row"
            )
        yield value


def texts_of(table: Table, column: str, kind: str, remedy: str) -> list[str]:
    """The stripped texts of a column, including blank ones.

    Raises:
        RuntimeInputError: a row without a text.
    """
    texts = []
    for index, value in enumerate(values_of(table, column, kind)):
        if not isinstance(value, str):
            raise RuntimeInputError(
                f"{table.where(index)} has {_repr.repr(value)} in column {column} where a {kind} should be: "
                f"write a text there, or {remedy}"
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RuntimeInputError(
                f"{table.where(index)} holds half a surrogate pair, which is no character: repair or remove the row"
            ) from error
        texts.append(value.strip())
    return texts


def read_sources(path: Path, kind: str = "source") -> tuple[list[str], str]:
    """The source texts of a file without blank ones, and a summary of what was left out or inferred, or "".

    Args:
        kind: ``source`` or ``prompt``, a key of `SOURCE_COLUMNS`, which has the names of the column; the only column
            may have any.

    Raises:
        RuntimeInputError: the file cannot be read, has no such column, or no text.
    """
    table = read_table(path)
    if table.rows:
        columns = SOURCE_COLUMNS[kind]
        remedy = f"call the column of the {kind}s {' or '.join(columns)}"
        column, note = choose_column(table, columns, remedy)
        texts = [text for text in texts_of(table, column, kind, remedy) if text]
        if texts:
            plain = len(texts) == len(table.rows) and not (table.num_blank or table.notes or note)
            return texts, "" if plain else table.account(len(texts), note)
    raise RuntimeInputError(f"{path} has no {'source text' if kind == 'source' else kind}: write one a line")
