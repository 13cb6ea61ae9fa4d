"""From rows to splits: which column is the text, the label, the source text, and what its values mean."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ld4lg_fast.data.catalogue import DatasetSpec
from ld4lg_fast.data.corpus import TextSplit, clean_up_spaces
from ld4lg_fast.data.formats import Row
from ld4lg_fast.errors import DataError

_MISSING = object()


@dataclass(frozen=True)
class FoundRows:
    """Rows of one split, and in words where they were found."""

    rows: Sequence[Row]
    where: str


@dataclass(frozen=True)
class Columns:
    """The columns that a user asked for by name; None leaves the choice to the corpus's own."""

    text: str | None = None
    label: str | None = None
    source: str | None = None


def splits_from_rows(
    spec: DatasetSpec, found: Mapping[str, FoundRows], asked: Columns, first_label: int = 0
) -> tuple[dict[str, TextSplit], tuple[str, ...] | None]:
    """The splits in file order, and the names of the classes where there are labels.

    Labels are read where the first split has their column; asking for them by name makes them required.
    ``first_label`` is the smallest class label of a corpus that counts from there.
    Raises ``DataError`` for an empty file, a missing column, and a value that is no text or no label.
    """
    for part in found.values():
        if not part.rows:
            raise DataError(f"{part.where} is empty: give a file with at least one text")
    first = next(iter(found.values()))
    label_column = asked.label
    if label_column is None and spec.label and _lookup(first.rows[0], spec.label) is not _MISSING:
        label_column = spec.label
    with_sources = bool(asked.source or spec.source)

    splits, labels = {}, {}
    for split, part in found.items():
        texts = _texts(part, _text_candidates(spec, asked, part), "text", spec.clean)
        sources = None
        if with_sources:
            candidates = (asked.source,) if asked.source else spec.source
            sources = _texts(part, candidates, "source", spec.clean)
        splits[split] = TextSplit(texts, None, sources)
        if label_column:
            labels[split] = _labels(part, label_column)
    if not label_column:
        return splits, None
    index, class_names = _classes(spec, found, labels, first_label)
    return {
        split: TextSplit(part.texts, [index(value) for value in labels[split]], part.sources)
        for split, part in splits.items()
    }, class_names


def _lookup(row: Row, column: str) -> object:
    """The value under ``column``; a dot descends into nested objects."""
    if column in row:
        return row[column]
    head, dot, rest = column.partition(".")
    inner = row.get(head)
    return _lookup(inner, rest) if dot and isinstance(inner, dict) else _MISSING


def _choose(part: FoundRows, candidates: Sequence[str], kind: str) -> str:
    for column in candidates:
        if _lookup(part.rows[0], column) is not _MISSING:
            return column
    raise DataError(
        f"{part.where} has no column {' or '.join(candidates)}, its columns are {', '.join(part.rows[0])}: "
        f"name the right one with dataset.{kind}_column=..."
    )


def _text_candidates(spec: DatasetSpec, asked: Columns, part: FoundRows) -> Sequence[str]:
    if asked.text:
        return (asked.text,)
    only = tuple(part.rows[0]) if len(part.rows[0]) == 1 else ()
    return spec.text + only


def _values(part: FoundRows, column: str, kind: str):
    for number, row in enumerate(part.rows, 1):
        value = _lookup(row, column)
        if value is _MISSING or value is None:
            raise DataError(
                f"row {number} of {part.where} has no {kind} in column {column}: complete or remove the row"
            )
        yield number, value


def _texts(part: FoundRows, candidates: Sequence[str], kind: str, clean: bool) -> list[str]:
    column = _choose(part, candidates, kind)
    texts = []
    for number, value in _values(part, column, kind):
        if not isinstance(value, str):
            raise DataError(
                f"row {number} of {part.where} has {value!r} in column {column} where a {kind} should be: "
                f"name the right column with dataset.{kind}_column=..."
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"row {number} of {part.where} holds half a surrogate pair, which is no character: "
                "repair or remove the row"
            ) from error
        value = value.strip()
        texts.append(clean_up_spaces(value) if clean else value)
    return texts


def _labels(part: FoundRows, column: str) -> list[object]:
    column = _choose(part, (column,), "label")
    return [value for _, value in _values(part, column, "label")]


def _classes(
    spec: DatasetSpec, found: Mapping[str, FoundRows], labels: Mapping[str, list], first_label: int
) -> tuple[Callable[[object], int], tuple[str, ...]]:
    """A function that gives each value in ``labels`` its class index, and the class names."""
    values: set[str | float] = set()
    for split, column in labels.items():
        for number, value in enumerate(column, 1):
            known = isinstance(value, str | int | float)
            if known and value in values:
                continue
            problem = _problem(spec, value, first_label) if known else "which is neither name nor number"
            if problem:
                raise DataError(
                    f"row {number} of {found[split].where} has the label {value!r}, {problem}: "
                    "correct it, or name another column with dataset.label_column=..."
                )
            values.add(value)
    if spec.label_threshold is not None:
        return lambda value: int(float(value) >= spec.label_threshold), spec.class_names
    if spec.class_names is not None:
        return lambda value: int(value) - first_label, spec.class_names
    names = {value: _class_name(value) for value in values}
    distinct = set(names.values())
    numeric = all(name.lstrip("-").isdigit() for name in distinct)
    ordered = sorted(distinct, key=int if numeric else None)
    index = {name: i for i, name in enumerate(ordered)}
    return lambda value: index[names[value]], tuple(ordered)


def _class_name(value: object) -> str:
    return value.strip() if isinstance(value, str) else str(int(value))


def _problem(spec: DatasetSpec, value: object, first_label: int) -> str | None:
    """What is wrong with a label value, as a clause, or None."""
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


def _number(value: object) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < 2**53 else None
