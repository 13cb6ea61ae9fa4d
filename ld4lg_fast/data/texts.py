"""A column of texts that need not be in memory."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_ROWS = 2**14  # that are in memory at once


class Texts(Sequence[str]):
    """Texts of an Arrow column, which is read where it is asked for; slices and selections are of the same column.

    Args:
        column: ``pyarrow.ChunkedArray`` of strings. key: stands for the content in fingerprints; "" if nothing does.
        order: the rows of the column that are the texts; None: all.
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

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _ROWS):
            part = self._slice(slice(start, start + _ROWS))
            if part._order is None:
                yield from part._column.to_pylist()
            else:  # ``take`` of Arrow may copy the whole column
                yield from (part._column[place].as_py() for place in part._order.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def select(self, places: np.ndarray) -> "Texts":
        """The texts at ``places``, in that order."""
        return Texts(self._column, order=places if self._order is None else self._order[places])

    def _slice(self, part: slice) -> "Texts":
        start, stop, _ = part.indices(len(self))
        if self._order is not None:
            return Texts(self._column, order=self._order[start:stop])
        return Texts(self._column.slice(start, max(0, stop - start)))


class ColumnWriter:
    """An Arrow file of columns, written part by part; a context manager.

    Args:
        columns: their names and types, ``str`` or ``int``.
    """

    def __init__(self, path: Path, columns: Mapping[str, type]) -> None:
        import pyarrow as pa

        kinds = {str: pa.large_string(), int: pa.int32()}
        self._schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)

    def __enter__(self) -> "ColumnWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._writer.close()

    def write(self, **columns: Sequence) -> None:
        """Appends rows: values of each column."""
        import pyarrow as pa

        arrays = [pa.array(columns[field.name], field.type) for field in self._schema]
        self._writer.write(pa.record_batch(arrays, schema=self._schema))


def read_columns(paths: Sequence[Path]) -> Mapping[str, Any]:
    """The columns (``pyarrow.ChunkedArray``) of Arrow files one after another, memory-mapped.

    Raises:
        OSError, pyarrow.ArrowException: a file is missing or damaged.
    """
    import pyarrow as pa

    tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths]
    whole = pa.concat_tables(tables)
    return {name: whole[name] for name in whole.column_names}
