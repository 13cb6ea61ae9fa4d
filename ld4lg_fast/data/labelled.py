"""Labelled texts of one file, as a guide learns from: a text and a class, or a number, in each row."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ld4lg_fast.data.catalogue import DATASETS
from ld4lg_fast.data.formats import as_data_errors, read_table
from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime.option_checks import elements, shown
from ld4lg_fast.export.runtime.text_files import MISSING, Table, choose_column, lookup, texts_of

Label = str | float | None


@dataclass(frozen=True)
class LabelledTexts:
    """``labels``: the name of each text's class, None for a text of none of them; or, ``numeric``, its number."""

    texts: list[str]
    labels: list[Label]
    numeric: bool = False
    sources: list[str] | None = None

    def repeated_sources(self, count: int) -> list[str]:
        """``count`` source texts, the given ones again and again."""
        given = self.sources or []
        return [given[number % len(given)] for number in range(count)]

    def fingerprint(self) -> str:
        """SHA-256 of texts and labels, in hexadecimal digits."""
        content = json.dumps([self.texts, self.labels], ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()


def read_labelled(
    path: Path | str,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    target_column: str | None = None,
    source_column: str | None = None,
) -> LabelledTexts:
    """Reads a .jsonl, .json, .csv or .tsv file; rows with a blank text are dropped.

    Args:
        text_column: None looks for the usual names.
        label_column: classes, names or whole numbers; a row without one (null, blank or missing) is of no class.
        target_column: numbers, in its place; a row without one is dropped.
        source_column: source texts; None: there are none.

    Raises:
        DataError: the file cannot be read, has no such column, or a value that is neither.
    """
    table = read_table(Path(path))
    numeric = label_column is None
    wanted = target_column if numeric else label_column
    assert wanted is not None  # the caller names one of them
    if not table.rows:
        raise DataError(f"{path} is empty; give a file with texts and a column {wanted}.")
    with as_data_errors():
        names = DATASETS["custom"].text if text_column is None else (text_column,)
        texts_in, _ = choose_column(table, names, "name the right one with --text-column", lone=False)
        texts = texts_of(table, texts_in, "text", "name the right one with --text-column")
        option = "--target-column" if numeric else "--label-column"
        sources = None
        if source_column is not None:
            remedy = "name the right one with --source-column"
            sources_in, _ = choose_column(table, (source_column,), remedy, lone=False)
            sources = texts_of(table, sources_in, "source", remedy)
        column, _ = choose_column(table, (wanted,), f"name the right one with {option}", lone=False)
    labels = [_label(table, row, column, numeric) for row in range(len(table.rows))]
    kept = [row for row, text in enumerate(texts) if text and not (numeric and labels[row] is None)]
    chosen = None if sources is None else [sources[row] for row in kept]
    return LabelledTexts([texts[row] for row in kept], [labels[row] for row in kept], numeric, chosen)


def checked_labels(texts: Sequence[str], labels: Sequence[Label], numeric: bool) -> LabelledTexts:
    """Texts and labels of a call, of the same types as those of a file.

    Raises:
        DataError: another number of labels than texts, or a label that is neither a name, a number nor None.
    """
    given = elements(labels)
    if given is None or len(given) != len(texts):
        raise DataError(f"labels is {shown(labels)}; give one for each of the {len(texts)} texts.")
    found = [_checked(label, f"labels[{row}]", numeric) for row, label in enumerate(given)]
    kept = [row for row, label in enumerate(found) if not (numeric and label is None)]
    return LabelledTexts([texts[row] for row in kept], [found[row] for row in kept], numeric)


def _label(table: Table, row: int, column: str, numeric: bool) -> Label:
    value = lookup(table.rows[row], column)
    return _checked(None if value is MISSING else value, f"{table.where(row)}, column {column},", numeric)


def _checked(value: object, where: str, numeric: bool) -> Label:
    """A class's name (a whole number as one), or a number; None for nothing.

    Raises:
        DataError: the value is neither.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if numeric:
        number = _number(value)
        if number is None:
            raise DataError(f"{where} is {shown(value)}; it must be a number from -1e9 to 1e9.")
        return number
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if not isinstance(value, str):
        raise DataError(
            f"{where} is {shown(value)}; it must be the name of a class, a whole number, or null."
        )
    return value.strip()


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # what is no number is refused
    except (TypeError, ValueError):
        return None
    return number if abs(number) <= 1e9 and not isinstance(value, bool) else None
