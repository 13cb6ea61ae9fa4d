"""Rows of local files: .txt (a text a line), .jsonl, .json, .csv and .tsv, all UTF-8."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from ld4lg_fast.errors import DataError

Row = dict[str, object]

EXTENSIONS = (".jsonl", ".json", ".csv", ".tsv", ".txt")


def read_rows(path: Path) -> list[Row]:
    """The rows of one file as dicts; a row that is a bare string, or a list of one, becomes its ``text``.

    Raises ``DataError`` for a file that is missing, of another kind, not UTF-8 or not what its name promises.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise DataError(f"{path} cannot be read as texts: its name must end in {', '.join(EXTENSIONS)}")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return list(_READERS[path.suffix.lower()](file, path))
    except FileNotFoundError as error:
        raise DataError(f"the file {path} does not exist: correct dataset.files or dataset.root") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}): convert it, e.g. with iconv -t utf-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its permissions") from error


def _read_txt(file: TextIO, path: Path) -> Iterator[Row]:
    # Only line feeds end a line; other separators that str.splitlines knows may stand inside a text.
    return ({"text": line} for line in file.read().split("\n"))


def _read_csv(file: TextIO, path: Path) -> Iterator[Row]:
    return _read_table(file, path, ",")


def _read_tsv(file: TextIO, path: Path) -> Iterator[Row]:
    return _read_table(file, path, "\t")


def _read_table(file: TextIO, path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(file, delimiter=delimiter)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"line {reader.line_num} of {path} does not have as many columns as the first line "
                    f"({len(reader.fieldnames)}): quote fields that contain separators"
                )
            yield row
    except csv.Error as error:
        raise DataError(
            f"line {reader.line_num} of {path} is not a table row ({error}): repair or remove it"
        ) from error


def _read_json(file: TextIO, path: Path) -> Iterator[Row]:
    text = file.read()
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise DataError(
                f"line {error.lineno} of {path} is not JSON ({error.msg}): repair the file"
            ) from error
        # ROCStories: the name says .json, but each line is a document.
        return _json_lines(text.split("\n"), path)
    if not isinstance(rows, list):
        rows = [rows]
    return (_as_row(row, f"row {i} of {path}") for i, row in enumerate(rows, 1))


def _read_jsonl(file: TextIO, path: Path) -> Iterator[Row]:
    return _json_lines(file, path)


def _json_lines(lines: Iterable[str], path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"line {number} of {path} is not JSON ({error.msg}): repair or remove it"
                ) from error
            yield _as_row(row, f"line {number} of {path}")


def _as_row(value: object, where: str) -> Row:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        raise DataError(f"{where} is neither an object nor a text: write one JSON object or string a row")
    return value


_READERS = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
}
