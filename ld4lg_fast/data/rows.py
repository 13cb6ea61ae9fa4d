"""Rows to splits: chooses the columns of texts, labels and source texts, and maps labels to classes.

Rows come in tables, one of which is in memory at a time, and go into writers of columns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ld4lg_fast.data.catalogue import DatasetSpec
from ld4lg_fast.data.classes import Classes
from ld4lg_fast.data.corpus import TextSplit, clean_up_spaces
from ld4lg_fast.data.formats import as_data_errors, format_of
from ld4lg_fast.data.texts import ColumnWriter, Labels, ListWriter, Texts
from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime.documents import tidied
from ld4lg_fast.export.runtime.text_files import MISSING, Census, Table, lookup, texts_of, values_of

_NAMED = 8  # files of a split that are described one by one

Tables = Callable[[], Iterable[Table]]
"""The tables of a file, read anew at each call."""
Writer = ListWriter | ColumnWriter
Chosen = dict[str, tuple[str, str]]
"""By kind the column of a file, and a note on how it was found."""


@dataclass(frozen=True)
class Columns:
    """Columns chosen by the user; None: those of the corpus's description. ``documents``: white space is tidied."""

    text: str | None = None
    label: str | None = None
    source: str | None = None
    documents: bool = False


@dataclass(frozen=True)
class Rows:
    """The splits in file order, the class names if there are labels, a description of each file, and their names."""

    splits: dict[str, TextSplit]
    class_names: tuple[str, ...] | None
    accounts: list[str]
    names: str


@dataclass(frozen=True)
class _Kind:
    """A kind of column: ``text``, ``source`` or ``label``; ``lone``: the only column may be it, whatever its name."""

    name: str
    candidates: tuple[str, ...]
    lone: bool = False

    @property
    def remedy(self) -> str:
        return f"name the right one with dataset.{self.name}_column=..."


@dataclass(frozen=True)
class _File:
    """A file that was read. Of ``table.rows`` only the number is used; ``num_filled`` have no blank text or source."""

    table: Table
    num_filled: int
    note: str
    columns: Mapping[str, Any]


def rows_of(
    spec: DatasetSpec,
    found: Mapping[str, Sequence[Tables]],
    asked: Columns,
    writer: Callable[[str, Mapping[str, type]], Writer],
    first_label: int = 0,
) -> Rows:
    """Reads the files of each split.

    Columns are chosen per file. Labels are read if a row of the first split has one; they are required if the user
    named the column.

    Args:
        writer: makes the writer of a file's columns; it gets a name that no other file has, and their types.
        first_label: the smallest class label of the corpus.

    Raises:
        DataError: a split without rows, a missing column, or a value that is no text or no label.
        OSError: the disk is full.
    """
    kinds = _kinds(spec, found, asked)
    columns: dict[str, type] = {kind.name: int if kind.name == "label" else str for kind in kinds}
    classes = Classes(spec, first_label) if "label" in columns else None
    read: dict[str, list[_File]] = {}
    for split, files in found.items():
        read[split] = []
        for number, tables in enumerate(files):
            make = partial(writer, f"{split}-{number}", columns)
            read[split].append(_read(spec, asked, partial(_separated, spec, tables), kinds, classes, make))
        if not any(file.table.rows for file in read[split]):
            names = ", ".join(file.table.name for file in read[split])
            raise DataError(f"{names} is empty: give a file with at least one text")
    numbers = None if classes is None else classes.numbers()
    return Rows(
        {split: _split_of([file.columns for file in files], numbers) for split, files in read.items()},
        None if classes is None else classes.names,
        [account for files in read.values() for account in _accounts(files)],
        ", ".join(_of_files([file.table for file in files]) for files in read.values()),
    )


def _kinds(spec: DatasetSpec, found: Mapping[str, Sequence[Tables]], asked: Columns) -> list[_Kind]:
    """The kinds of columns that are read."""
    texts = spec.text if asked.text is None else (asked.text,)
    sources = spec.source if asked.source is None else (asked.source,)
    label = asked.label or spec.label
    if asked.label is None and label is not None:
        first = (row for tables in next(iter(found.values())) for table in tables() for row in table.rows)
        if all(lookup(row, label) is MISSING for row in first):
            label = None
    kinds = [_Kind("text", texts, asked.text is None), _Kind("source", sources)]
    kinds.append(_Kind("label", () if label is None else (label,)))
    return [kind for kind in kinds if kind.candidates]


def _read(
    spec: DatasetSpec,
    asked: Columns,
    tables: Tables,
    kinds: Sequence[_Kind],
    classes: Classes | None,
    make: Callable[[], Writer],
) -> _File:
    """Reads a file: once, if all of its tables have the columns of the first.

    Otherwise, or if there is an error, all rows are read to choose the columns, and then again.
    """
    try:
        return _write(spec, asked, tables, kinds, None, classes, make)
    except DataError:
        return _write(spec, asked, tables, kinds, _choose(kinds, tables()), classes, make)


def _choose(kinds: Sequence[_Kind], tables: Iterable[Table]) -> Chosen:
    """The columns of the rows of tables.

    Raises:
        DataError: there is none of a kind.
    """
    counted = [Census(kind.candidates) for kind in kinds]
    for table in tables:
        for census in counted:
            census.count(table)
    with as_data_errors():
        return {
            kind.name: census.chosen(kind.remedy, kind.lone)
            for kind, census in zip(kinds, counted, strict=True)
        }


def _write(
    spec: DatasetSpec,
    asked: Columns,
    tables: Tables,
    kinds: Sequence[_Kind],
    chosen: Chosen | None,
    classes: Classes | None,
    make: Callable[[], Writer],
) -> _File:
    """Writes the columns of a file, those of ``chosen`` or, with None, of its first rows.

    Raises:
        DataError: a row lacks one, or other rows have others.
    """
    num_rows = num_blank = num_filled = 0
    name, guessed = "", chosen is None
    notes: list[str] = []
    with make() as writer:
        for table in tables():
            name, num_blank = table.name, num_blank + table.num_blank
            notes += table.notes
            if not table.rows:
                continue
            if guessed:
                found = _choose(kinds, [table])
                if chosen not in (None, found):
                    raise DataError(f"{name} has other columns in its first rows than in later ones")
                chosen = found
            assert chosen is not None  # they are those of this table
            values = _values(spec, asked, table, kinds, chosen, classes)
            writer.write(**values)
            num_rows += len(table.rows)
            num_filled += sum(
                map(all, zip(values["text"], values.get("source", values["text"]), strict=True))
            )
    rows: Any = range(num_rows)
    table = Table(name, rows, (), num_blank=num_blank, notes=tuple(notes))
    return _File(table, num_filled, chosen["text"][1] if chosen and num_rows else "", writer.columns)


def _values(
    spec: DatasetSpec,
    asked: Columns,
    table: Table,
    kinds: Sequence[_Kind],
    chosen: Chosen,
    classes: Classes | None,
) -> dict[str, list]:
    """The columns of a table: texts, and numbers of labels.

    Raises:
        DataError: a value that is no text or no label; the sentence names its row.
    """
    columns: dict[str, list] = {}
    with as_data_errors():
        for kind in kinds:
            column, _ = chosen[kind.name]
            if kind.name == "label":
                assert classes is not None  # there are labels
                values = values_of(table, column, kind.name)
                columns["label"] = [classes.number(value, table, row) for row, value in enumerate(values)]
                continue
            texts = texts_of(table, column, kind.name, kind.remedy)
            if spec.clean:
                texts = list(map(clean_up_spaces, texts))
            columns[kind.name] = (
                list(map(tidied, texts)) if asked.documents and kind.name == "text" else texts
            )
    return columns


def _split_of(files: Sequence[Mapping[str, Any]], numbers: np.ndarray | None) -> TextSplit:
    """The columns of all files of a split; ``numbers``: of classes, by those of labels."""
    import pyarrow as pa

    columns = {name: [file[name] for file in files] for name in files[0]}
    if isinstance(columns["text"][0], list):
        lists = {name: list(chain.from_iterable(parts)) for name, parts in columns.items()}
        labels = None if numbers is None else numbers[lists["label"]].tolist()
        return TextSplit(lists["text"], labels, lists.get("source"))
    arrays = {
        name: pa.chunked_array([c for part in parts for c in part.chunks]) for name, parts in columns.items()
    }
    if numbers is not None:
        arrays["label"] = pa.chunked_array([numbers[arrays["label"].to_numpy()]], pa.int32())
    return TextSplit(
        Texts(arrays["text"]),
        Labels(arrays["label"]) if "label" in arrays else None,
        Texts(arrays["source"]) if "source" in arrays else None,
    )


def _of_files(tables: Sequence[Table]) -> str:
    """The names of tables, or of many the first, the last and their number."""
    if len(tables) <= _NAMED:
        return ", ".join(table.name for table in tables)
    return f"{len(tables)} files {tables[0].name} … {tables[-1].name}"


def _accounts(files: Sequence[_File]) -> list[str]:
    """A description of each file; of many with nothing to note one of all."""
    if len(files) <= _NAMED:
        return [file.table.account(file.num_filled, file.note) for file in files]
    num_rows = sum(file.table.num_blank + len(file.table.rows) for file in files)
    every = Table(_of_files([file.table for file in files]), (), (), num_blank=num_rows)
    noted = [file for file in files if file.table.notes or file.note]
    return [
        every.account(sum(file.num_filled for file in files)),
        *(file.table.account(file.num_filled, file.note) for file in noted),
    ]


def _separated(spec: DatasetSpec, tables: Tables) -> Iterable[Table]:
    """Tables of a .txt file with what follows the corpus's separator as their texts; others as they are.

    Raises:
        DataError: a line has no separator.
    """
    for table in tables():
        if spec.separator is None or not (format_of(Path(table.name)) or "").lower().startswith(".txt"):
            yield table
            continue
        texts = []
        for index, row in enumerate(table.rows):
            _, separator, text = str(row["text"]).partition(spec.separator)
            if not separator and str(row["text"]).strip():
                raise DataError(
                    f"{table.where(index)} has no {spec.separator}: write each line as "
                    f"meta{spec.separator}text, or read plain lines with dataset=custom"
                )
            texts.append({"text": text})
        yield replace(table, rows=texts)
