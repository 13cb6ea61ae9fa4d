"""Columns of a corpus: lists, or Arrow's, which need not be in memory."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

_ROWS = 2**14  # that are in memory at once


T = TypeVar("T")


class Column(Sequence[T]):
    """An Arrow column, which is read where it is asked for; slices and selections are of the same column.

    Args:
        column: ``pyarrow.ChunkedArray``. key: stands for the content in fingerprints; "" if nothing does.
        order: the rows of the column that there are; None: all.
    """

    def __init__(self, column: Any, key: str = "", order: np.ndarray | None = None) -> None:
        self.key, self._column, self._order = key, column, order

    def __len__(self) -> int:
        return len(self._column if self._order is None else self._order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return (
                self.select(np.arange(len(self))[index])
                if index.step not in (None, 1)
                else self._slice(index)
            )
        return self._column[index if self._order is None else int(self._order[index])].as_py()

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), _ROWS):
            part = self._slice(slice(start, start + _ROWS))
            if part._order is None:
                yield from part._column.to_pylist()
            else:  # ``take`` of Arrow may copy the whole column
                yield from (part._column[place].as_py() for place in part._order.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def select(self, places: np.ndarray) -> Self:
        """The rows at ``places``, in that order."""
        return type(self)(self._column, order=places if self._order is None else self._order[places])

    def _slice(self, part: slice) -> Self:
        start, stop, _ = part.indices(len(self))
        if self._order is not None:
            return type(self)(self._column, order=self._order[start:stop])
        return type(self)(self._column.slice(start, max(0, stop - start)))


class Texts(Column[str]):
    """Texts that need not be in memory."""


class Labels(Column[int]):
    """Classes of texts by their numbers; NumPy's array of them has 4 bytes each."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        every = self._column.to_numpy()
        return (every if self._order is None else every[self._order]).astype(dtype or np.int32)


class ListWriter:
    """Columns as lists, written part by part; a context manager."""

    def __init__(self, columns: Mapping[str, type]) -> None:
        self.columns: dict[str, list] = {name: [] for name in columns}

    def __enter__(self) -> "ListWriter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, **columns: Sequence) -> None:
        """Appends rows: values of each column."""
        for name, values in self.columns.items():
            values += columns[name]


class ColumnWriter:
    """Arrow's columns, written part by part; a context manager.

    Args:
        columns: their names and types, ``str`` or ``int``.
        path: a file, which is memory-mapped; None: they stay in memory.
    """

    def __init__(self, columns: Mapping[str, type], path: Path | None = None) -> None:
        import pyarrow as pa

        kinds = {str: pa.large_string(), int: pa.int32()}
        self._schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
        self._path = path
        self._file = pa.BufferOutputStream() if path is None else pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)

    def __enter__(self) -> "ColumnWriter":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._writer.close()
        finally:
            if self._path is not None:
                self._file.close()

    def write(self, **columns: Sequence) -> None:
        """Appends rows: values of each column."""
        import pyarrow as pa

        arrays = [pa.array(columns[field.name], field.type) for field in self._schema]
        self._writer.write(pa.record_batch(arrays, schema=self._schema))

    @property
    def columns(self) -> Mapping[str, Any]:
        """The columns (``pyarrow.ChunkedArray``), when all is written."""
        return read_columns(self._file.getvalue() if self._path is None else self._path)


def read_columns(file: Any) -> Mapping[str, Any]:
    """The columns (``pyarrow.ChunkedArray``) of an Arrow file, memory-mapped, or of a buffer of one.

    Raises:
        OSError, pyarrow.ArrowException: a file is missing or damaged.
    """
    import pyarrow as pa

    whole = pa.ipc.open_file(pa.memory_map(str(file)) if isinstance(file, Path) else file).read_all()
    return {name: whole[name] for name in whole.column_names}
