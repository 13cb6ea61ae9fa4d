"""Reads files of texts, in the package and in the exported runtime. Uses the standard library only.

Files are UTF-8, with or without a byte order mark. Lines end with LF, CRLF or CR; other separators of
``str.splitlines`` may occur inside a text. ``.txt`` has one text per line, ``.jsonl`` and ``.json`` have rows of JSON
(`json_rows`), ``.csv`` and ``.tsv`` a table with a header (`delimited`).
"""

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BufferedReader
from itertools import islice
from pathlib import Path

from .delimited import read_delimited
from .errors import RuntimeInputError
from .json_rows import rows_of_documents, rows_of_lines

Row = Mapping[str, object]

EXTENSIONS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
SOURCE_COLUMNS = {"source": ("source", "src", "text", "document"), "prompt": ("prompt", "text", "document")}
MISSING = object()

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
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


def counted(number: int, noun: str) -> str:
    """``1 row`` or ``2 rows``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
        with open(path, "rb") as file:
            return read_open_table(file, path, ending)
    except FileNotFoundError as error:
        raise RuntimeInputError(f"the file {path} does not exist: correct its path") from error
    except OSError as error:
        raise RuntimeInputError(
            f"{path} cannot be read ({error.strerror}): name a file that you may read"
        ) from error


def read_open_table(file: BufferedReader, path: Path, ending: str) -> Table:
    """`read_table` of an open file, whose format is that of ``ending``, one of `EXTENSIONS`."""
    lines = _Lines(file, path)
    table = _READERS[ending](lines, str(path))
    return replace(table, notes=(*lines.notes(), *table.notes))


def read_chunks(file: BufferedReader, path: Path, ending: str, num_lines: int) -> Iterator[Table]:
    """The rows of an open ``.txt`` or ``.jsonl`` file in tables of ``num_lines`` lines.

    ``places``, and the lines in errors, are counted in each table. The last one, without rows, has the notes.
    """
    lines = _Lines(file, path)
    rest = iter(lines)
    chunk = list(islice(rest, num_lines))
    while True:
        yield _READERS[ending](chunk, str(path))
        if not (chunk := list(islice(rest, num_lines))):
            break
    yield Table(str(path), (), (), notes=lines.notes())


class _Lines:
    """The lines of an open file, with their ends."""

    def __init__(self, file: BufferedReader, path: Path) -> None:
        self._file, self._path = file, path
        self._feeds = self._returns = 0

    def __iter__(self) -> Iterator[str]:
        _refuse_utf_16(self._file.peek(4096)[:4096], self._path)
        number, start = 0, 0
        # In UTF-8 the byte of a line feed is never part of another character.
        for raw in self._file:
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                ends = raw[: error.start].replace(b"\r\n", b"\n").count(b"\r")
                raise RuntimeInputError(
                    f"{self._path} is not UTF-8 text (byte {start + error.start}) in line {number + ends + 1}: "
                    "convert it, e.g. with iconv -t utf-8"
                ) from error
            start += len(raw)
            for line in _LINE.findall(text) if "\r" in text else (text,):
                number += 1
                self._feeds += line.endswith("\n")
                self._returns += line.endswith("\r")
                # Concatenated files have byte order marks inside.
                yield line.lstrip("\ufeff")

    def notes(self) -> tuple[str, ...]:
        """A note about mixed line ends."""
        if not (self._feeds and self._returns):
            return ()
        return (f"a carriage return alone ends {counted(self._returns, 'line')}",)


def _refuse_utf_16(head: bytes, path: Path) -> None:
    """Detects UTF-16 by its byte order mark, or by zeros in every second byte."""
    zeros = max(head[0::2].count(0), head[1::2].count(0))
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff"))
    if marked or (zeros >= 8 and 4 * zeros > len(head)):
        raise RuntimeInputError(
            f"{path} is UTF-16 text, or no text at all: save it as UTF-8, e.g. with iconv -f utf-16 -t utf-8"
        )


def _read_txt(lines: Iterable[str], name: str) -> Table:
    texts = [line.rstrip("\r\n") for line in lines] or [""]  # an empty file has one blank line
    return Table(name, [{"text": text} for text in texts], range(1, len(texts) + 1))


def _read_csv(lines: Iterable[str], name: str, usual: str = ",") -> Table:
    found = read_delimited(list(lines), name, usual)
    rows = [dict(zip(found.header, fields, strict=True)) for _, fields in found.records]
    places = [line for line, _ in found.records]
    return Table(name, rows, places, num_blank=found.num_blank, notes=found.notes, has_header=True)


def _read_tsv(lines: Iterable[str], name: str) -> Table:
    return _read_csv(lines, name, "\t")


def _read_jsonl(lines: Iterable[str], name: str) -> Table:
    rows, num_blank = rows_of_lines(lines, name)
    return Table(name, [row for _, row in rows], [line for line, _ in rows], num_blank=num_blank)


def _read_json(lines: Iterable[str], name: str) -> Table:
    rows, key = rows_of_documents("".join(line.rstrip("\r\n") + "\n" for line in lines), name)
    table = Table(name, [row for _, row in rows], [line for line, _ in rows])
    if key is None:
        return table
    return replace(table, name=f"{key!r} of {name}", unit="row")


_READERS: Mapping[str, Callable[[Iterable[str], str], Table]] = {
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


def choose_column(table: Table, candidates: Sequence[str], remedy: str, lone: bool = True) -> tuple[str, str]:
    """The first of ``candidates`` that most rows have; if no row has one, the only column if ``lone``.

    Names match regardless of case and surrounding blanks. Returns the name and a note if it was inferred.

    Raises:
        RuntimeInputError: there is no such column, or the only one's name looks like a text.
    """
    present = [name for name in candidates if any(lookup(row, name) is not MISSING for row in table.rows)]
    if len(present) > 1:
        have = {name: sum(lookup(row, name) is not MISSING for row in table.rows) for name in present}
        return max(present, key=have.__getitem__), ""
    if present:
        return present[0], ""
    columns = table.columns()
    for candidate in candidates:
        alike = [name for name in columns if name.strip().casefold() == candidate.strip().casefold()]
        if len(alike) == 1:
            return alike[0], ""
        if alike:
            raise RuntimeInputError(
                f"{table.name} has the column {candidate} as {' and '.join(alike)}: write its name the same in "
                f"every row, or {remedy}"
            )
    if not (lone and len(columns) == 1):
        shown = ", ".join(columns[:20]) + (", …" if len(columns) > 20 else "")
        raise RuntimeInputError(
            f"{table.name} has no column {' or '.join(candidates)}, its columns are {shown}: {remedy}"
        )
    [column] = columns
    if table.has_header and _NO_NAME.fullmatch(column):
        raise RuntimeInputError(
            f"the first line of {table.name}, {_repr.repr(column)}, should name its column: write the line "
            f"{candidates[0]} above it if it is a text, or {remedy}"
        )
    header = f"; write the line {candidates[0]} above it if that is a text" if table.has_header else ""
    return column, f"its only column, {column}, is taken for the {candidates[0]}{header}"


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
