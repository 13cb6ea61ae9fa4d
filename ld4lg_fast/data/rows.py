"""Rows to splits: chooses the columns of texts, labels and source texts, and maps labels to classes."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ld4lg_fast.data.catalogue import DatasetSpec
from ld4lg_fast.data.corpus import TextSplit, clean_up_spaces, joined
from ld4lg_fast.data.formats import as_data_errors, format_of
from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.export.runtime.text_files import MISSING, Table, choose_column, lookup, texts_of, values_of

_NAMED = 8  # files of a split that are described one by one
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")

Tables = Mapping[str, Sequence[Table]]


@dataclass(frozen=True)
class Columns:
    """Columns chosen by the user; None: those of the corpus's description."""

    text: str | None = None
    label: str | None = None
    source: str | None = None


def splits_from_rows(
    spec: DatasetSpec, found: Tables, asked: Columns, first_label: int = 0
) -> tuple[dict[str, TextSplit], tuple[str, ...] | None, list[str]]:
    """The splits in file order, the class names if there are labels, and a description of each table.

    Columns are chosen per table. Labels are read if a row of the first split has one; they are required if the user
    named the column. ``first_label`` is the smallest class label of the corpus.

    Raises:
        DataError: an empty file, a missing column, or a value that is no text or no label.
    """
    for tables in found.values():
        refuse_empty(tables)
    label_column = _label_column(spec, found, asked)
    splits: dict[str, TextSplit] = {}
    labels: dict[str, list[object]] = {}
    accounts: list[str] = []
    with as_data_errors():
        for split, tables in found.items():
            parts, notes = [], []
            for table in tables:
                part, note, _ = texts_and_sources(table, spec, asked)
                parts.append(part)
                notes.append(note)
            splits[split] = joined(parts)
            accounts += accounts_of(tables, [len(part.filled()) for part in parts], notes)
            if label_column is not None:
                labels[split] = [label for table in tables for label in _labels(table, label_column)]
    if label_column is None:
        return splits, None, accounts
    index, class_names = _classes(spec, found, labels, first_label)
    for split, part in splits.items():
        splits[split] = replace(part, labels=[index(value) for value in labels[split]])
    return splits, class_names, accounts


def refuse_empty(tables: Sequence[Table]) -> None:
    """Refuses the files of a split that have no row.

    Raises:
        DataError: the sentence names them.
    """
    if not any(table.rows for table in tables):
        names = ", ".join(table.name for table in tables)
        raise DataError(f"{names} is empty: give a file with at least one text")


def of_files(tables: Sequence[Table]) -> str:
    """The names of tables, or of many the first, the last and their number."""
    if len(tables) <= _NAMED:
        return ", ".join(table.name for table in tables)
    return f"{len(tables)} files {tables[0].name} … {tables[-1].name}"


def accounts_of(tables: Sequence[Table], counts: Sequence[int], notes: Sequence[str]) -> list[str]:
    """A description of each table; of many with nothing to note one of all."""
    if len(tables) <= _NAMED:
        return [table.account(count, note) for table, count, note in zip(tables, counts, notes, strict=True)]
    plain = [not (table.notes or note) for table, note in zip(tables, notes, strict=True)]
    num_rows = sum(table.num_blank + len(table.rows) for table in tables)
    every = Table(of_files(tables), (), (), num_blank=num_rows)
    facts = zip(tables, counts, notes, plain, strict=True)
    return [
        every.account(sum(counts)),
        *(table.account(count, note) for table, count, note, dull in facts if not dull),
    ]


def _label_column(spec: DatasetSpec, found: Tables, asked: Columns) -> str | None:
    if asked.label is not None or spec.label is None:
        return asked.label
    first = next(iter(found.values()))
    has_labels = any(lookup(row, spec.label) is not MISSING for table in first for row in table.rows)
    return spec.label if has_labels else None


def separated(spec: DatasetSpec, table: Table) -> Table:
    """The table of a .txt file with what follows the corpus's separator as its texts; others as they are.

    Raises:
        DataError: a line has no separator.
    """
    if spec.separator is None or not (format_of(Path(table.name)) or "").lower().startswith(".txt"):
        return table
    texts = []
    for index, row in enumerate(table.rows):
        _, separator, text = str(row["text"]).partition(spec.separator)
        if not separator and str(row["text"]).strip():
            raise DataError(
                f"{table.where(index)} has no {spec.separator}: write each line as "
                f"meta{spec.separator}text, or read plain lines with dataset=custom"
            )
        texts.append({"text": text})
    return replace(table, rows=texts)


def texts_and_sources(table: Table, spec: DatasetSpec, asked: Columns) -> tuple[TextSplit, str, list[str]]:
    """One table's texts and sources, if it has any; a note on how the text column was found; and the columns.

    Raises:
        DataError: a missing column, or a value that is no text.
    """
    chosen: list[str] = []

    def column_of(candidates: Sequence[str], kind: str, lone: bool) -> tuple[list[str], str]:
        if not table.rows:
            return [], ""
        column, note = choose_column(table, candidates, _remedy(kind), lone)
        chosen.append(column)
        texts = texts_of(table, column, kind, _remedy(kind))
        return list(map(clean_up_spaces, texts)) if spec.clean else texts, note

    with as_data_errors():
        texts, note = column_of(
            spec.text if asked.text is None else (asked.text,), "text", asked.text is None
        )
        candidates = spec.source if asked.source is None else (asked.source,)
        sources = column_of(candidates, "source", False)[0] if candidates else None
    return TextSplit(texts, None, sources), note, chosen


def _labels(table: Table, column: str) -> Iterator[object]:
    if table.rows:
        column, _ = choose_column(table, (column,), _remedy("label"), lone=False)
        yield from values_of(table, column, "label")


def _remedy(kind: str) -> str:
    return f"name the right one with dataset.{kind}_column=..."


def _classes(
    spec: DatasetSpec, found: Tables, labels: Mapping[str, list], first_label: int
) -> tuple[Callable[[Any], int], tuple[str, ...]]:
    """A function from label values to class indices, and the class names."""
    values: set[str | float] = set()
    for split, column in labels.items():
        places = ((table, index) for table in found[split] for index in range(len(table.rows)))
        for (table, index), value in zip(places, column, strict=True):
            known = isinstance(value, str | int | float)
            if known and value in values:
                continue
            problem = _problem(spec, value, first_label) if known else "which is neither name nor number"
            if problem:
                raise DataError(
                    f"{table.where(index)} has the label {shown(value)}, {problem}: "
                    "correct it, or name another column with dataset.label_column=..."
                )
            values.add(value)
    if spec.label_threshold is not None:
        threshold = spec.label_threshold
        return lambda value: int(float(value) >= threshold), spec.class_names or ()
    if spec.class_names is not None:
        return lambda value: int(float(value)) - first_label, spec.class_names
    names = {value: _class_name(value) for value in values}
    distinct = set(names.values())
    numeric = all(map(_WHOLE_NUMBER.fullmatch, distinct))
    # Also by name: 1 and 01 are two classes.
    ordered = sorted(distinct, key=lambda name: (int(name) if numeric else 0, name))
    numbers = {name: i for i, name in enumerate(ordered)}
    return lambda value: numbers[names[value]], tuple(ordered)


def _class_name(value: str | float) -> str:
    return value.strip() if isinstance(value, str) else str(int(value))


def _problem(spec: DatasetSpec, value: object, first_label: int) -> str | None:
    """A clause about an invalid label value, or None."""
    number = _number(value)
    if spec.label_threshold is not None:
        return None if number is not None and 0 <= number <= 1 else "which is no score between 0 and 1"
    if spec.class_names is not None:
        last = first_label + len(spec.class_names) - 1
        inside = number is not None and number == int(number) and first_label <= number <= last
        return None if inside else f"which is not an integer from {first_label} to {last}"
    if isinstance(value, str):
        return None if value.strip() else "which is blank"
    return None if number is not None and number == int(number) else "which is neither a name nor an integer"


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < 2**53 else None
