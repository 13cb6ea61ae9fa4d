"""Reads local files through the exported runtime's readers (`export.runtime.text_files`), and compressed and Parquet
files through Arrow."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime import text_files
from ld4lg_fast.export.runtime.errors import RuntimeInputError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
PARQUET = ".parquet"
CHUNK_ROWS = 2**14
ENDINGS = (
    *text_files.EXTENSIONS,
    PARQUET,
    *(f"{ending}{compression}" for ending in text_files.EXTENSIONS for compression in COMPRESSIONS),
)

ENDINGS_IN_WORDS = f"{', '.join(text_files.EXTENSIONS)}, each perhaps with .gz or .zst after it, or {PARQUET}"


def format_of(path: Path) -> str | None:
    """The ending of a file's name, one of `ENDINGS` but for its case; None if it has none of them."""
    ending = "".join(path.suffixes[-2:]) if path.suffix.lower() in COMPRESSIONS else path.suffix
    return ending if ending.lower() in ENDINGS else None


@contextmanager
def as_data_errors() -> Iterator[None]:
    """Context manager that converts the readers' errors to ``DataError`` with the same message."""
    try:
        yield
    except RuntimeInputError as error:
        raise DataError(str(error)) from error


def read_table(path: Path) -> text_files.Table:
    """Rows of one file, see `text_files.read_table`, which may be compressed (.gz, .zst), or of a Parquet file.

    Raises:
        DataError: it cannot be read; the message says why and where.
    """
    import pyarrow.parquet

    kind, compression = _parts(path)
    if not kind and not path.is_fifo():
        raise DataError(f"{path} cannot be read as texts: its name must end in {ENDINGS_IN_WORDS}")
    if kind == PARQUET:
        with _damage_is_told(path, "Parquet"):
            return _table(path, pyarrow.parquet.read_table(path, partitioning=None), 1)
    with as_data_errors():
        if compression is None:
            return text_files.read_table(path)
        with _damage_is_told(path, compression):
            return text_files.read_open_table(lambda: _opened(path, compression), path, kind)


def read_in_chunks(path: Path) -> Iterator[text_files.Table]:
    """The rows of a file in tables of `CHUNK_ROWS`, so that they are never all in memory; those of a ``.json`` file
    that is one object are. The last table of other files than Parquet, without rows, has the notes.

    Raises:
        DataError: as `read_table`.
    """
    import pyarrow.parquet

    kind, compression = _parts(path)
    if kind == PARQUET:
        first = 1
        with _damage_is_told(path, "Parquet"), pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(CHUNK_ROWS):
                yield _table(path, batch, first)
                first += len(batch)
    elif kind and path.is_file():
        with as_data_errors(), _damage_is_told(path, compression or kind):
            yield from text_files.read_chunks(lambda: _opened(path, compression), path, kind, CHUNK_ROWS)
    else:
        yield read_table(path)


def _parts(path: Path) -> tuple[str, str | None]:
    """The ending of a file without that of its compression, and the compression."""
    ending, compression = (format_of(path) or "").lower(), COMPRESSIONS.get(path.suffix.lower())
    return ending if compression is None else ending.rpartition(".")[0], compression


def _opened(path: Path, compression: str | None) -> BufferedReader:
    import pyarrow

    file: Any = pyarrow.input_stream(str(path), compression=compression)
    return BufferedReader(file)


def _table(path: Path, rows: Any, first: int) -> text_files.Table:
    """Arrow's rows, the first of which has the number ``first`` in its file."""
    found = rows.to_pylist()
    return text_files.Table(str(path), found, range(first, first + len(found)), "row")


@contextmanager
def _damage_is_told(path: Path, kind: str) -> Iterator[None]:
    """Converts Arrow's errors about a file.

    Raises:
        DataError: it is missing, may not be read, or is damaged.
    """
    import pyarrow

    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"the file {path} does not exist: correct its path") from error
    except (OSError, pyarrow.ArrowException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as {kind} ({reason}): fetch or make it again, or leave it out"
        ) from error
