"""Reads local files through the exported runtime's readers (`export.runtime.text_files`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime import text_files
from ld4lg_fast.export.runtime.errors import RuntimeInputError


@contextmanager
def as_data_errors() -> Iterator[None]:
    """Context manager that converts the readers' errors to ``DataError`` with the same message."""
    try:
        yield
    except RuntimeInputError as error:
        raise DataError(str(error)) from error


def read_table(path: Path) -> text_files.Table:
    """Rows of one file, see `text_files.read_table`; raises ``DataError`` if it cannot be read."""
    with as_data_errors():
        return text_files.read_table(path)
