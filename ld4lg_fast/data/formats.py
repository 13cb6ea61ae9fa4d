"""Rows of local files, read as the exported runtime reads them (`export.runtime.text_files`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime import text_files
from ld4lg_fast.export.runtime.errors import RuntimeInputError


@contextmanager
def as_data_errors() -> Iterator[None]:
    """Raises what is wrong with a file or its rows as ``DataError``, in the same words."""
    try:
        yield
    except RuntimeInputError as error:
        raise DataError(str(error)) from error


def read_table(path: Path) -> text_files.Table:
    """The rows of one file: see `text_files.read_table`; ``DataError`` for one that cannot be read."""
    with as_data_errors():
        return text_files.read_table(path)
