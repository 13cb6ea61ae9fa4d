"""Classes of label values: names, numbers, or scores."""

import re
from typing import Any

import numpy as np

from ld4lg_fast.data.catalogue import DatasetSpec
from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.export.runtime.text_files import Table

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")


class Classes:
    """Numbers of label values, and the classes that these are when all are known."""

    def __init__(self, spec: DatasetSpec, first_label: int) -> None:
        self._spec, self._first = spec, first_label
        self._seen: dict[Any, int] = {}
        self.names: tuple[str, ...] = spec.class_names or ()

    def number(self, value: Any, table: Table, row: int) -> int:
        """The number of a row's value, one for each value, in the order in which they come.

        Raises:
            DataError: it is no label.
        """
        known = isinstance(value, str | int | float)
        if known and value in self._seen:
            return self._seen[value]
        if problem := self._problem(value) if known else "which is neither name nor number":
            raise DataError(
                f"{table.where(row)} has the label {shown(value)}, {problem}: "
                "correct it, or name another column with dataset.label_column=..."
            )
        return self._seen.setdefault(value, len(self._seen))

    def numbers(self) -> np.ndarray:
        """The class of each number, int32; sets ``names`` if the corpus has not given them."""
        values, threshold = list(self._seen), self._spec.label_threshold
        if threshold is not None:
            found = [int(float(value) >= threshold) for value in values]
        elif self._spec.class_names is not None:
            found = [int(float(value)) - self._first for value in values]
        else:
            named = list(map(_class_name, values))
            numeric = all(map(_WHOLE_NUMBER.fullmatch, named))
            # Also by name: 1 and 01 are two classes.
            self.names = tuple(sorted(set(named), key=lambda name: (int(name) if numeric else 0, name)))
            places = {name: place for place, name in enumerate(self.names)}
            found = [places[name] for name in named]
        return np.array(found, dtype=np.int32)

    def _problem(self, value: str | float) -> str | None:
        """A clause about an invalid label value, or None."""
        number = _number(value)
        if self._spec.label_threshold is not None:
            return None if number is not None and 0 <= number <= 1 else "which is no score between 0 and 1"
        if self._spec.class_names is not None:
            last = self._first + len(self._spec.class_names) - 1
            inside = number is not None and number == int(number) and self._first <= number <= last
            return None if inside else f"which is not an integer from {self._first} to {last}"
        if isinstance(value, str):
            return None if value.strip() else "which is blank"
        return (
            None if number is not None and number == int(number) else "which is neither a name nor an integer"
        )


def _class_name(value: str | float) -> str:
    return value.strip() if isinstance(value, str) else str(int(value))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < 2**53 else None
