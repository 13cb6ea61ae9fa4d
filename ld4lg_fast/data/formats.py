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
    ending, compression = (format_of(path) or "").lower(), COMPRESSIONS.get(path.suffix.lower())
    if not ending and not path.is_fifo():
        raise DataError(f"{path} cannot be read as texts: its name must end in {ENDINGS_IN_WORDS}")
    if ending == PARQUET:
        return _read_parquet(path)
    with as_data_errors():
        if compression is None:
            return text_files.read_table(path)
        return _read_compressed(path, ending.rpartition(".")[0], compression)


def read_in_chunks(path: Path) -> Iterator[text_files.Table]:
    """The rows of a file in tables of `CHUNK_ROWS`, so that they are never all in memory; of ``.json``, ``.csv`` and
    ``.tsv``, whose format shows in the whole file, in one.

    Lines in errors are counted in each table: read the file by `read_table` for those of the file.

    Raises:
        DataError: the file cannot be read.
    """
    ending = (format_of(path) or "").lower()
    compression = COMPRESSIONS.get(path.suffix.lower())
    kind = ending if compression is None else ending.rpartition(".")[0]
    if ending == PARQUET:
        yield from _chunks_of_parquet(path)
    elif kind in (".txt", ".jsonl") and path.is_file():
        with as_data_errors(), _damage_is_told(path, compression or kind), _opened(path, compression) as file:
            yield from text_files.read_chunks(file, path, kind, CHUNK_ROWS)
    else:
        yield read_table(path)


def _chunks_of_parquet(path: Path) -> Iterator[text_files.Table]:
    import pyarrow.parquet

    first = 1
    with _damage_is_told(path, "Parquet"), pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(CHUNK_ROWS):
            rows = batch.to_pylist()
            yield text_files.Table(str(path), rows, range(first, first + len(rows)), "row")
            first += len(rows)


def _opened(path: Path, compression: str | None) -> BufferedReader:
    import pyarrow

    file: Any = pyarrow.input_stream(str(path), compression=compression)
    return BufferedReader(file)


def _read_compressed(path: Path, ending: str, compression: str) -> text_files.Table:
    with _damage_is_told(path, compression), _opened(path, compression) as file:
        return text_files.read_open_table(file, path, ending)


def _read_parquet(path: Path) -> text_files.Table:
    import pyarrow.parquet

    with _damage_is_told(path, "Parquet"):
        rows = pyarrow.parquet.read_table(path, partitioning=None).to_pylist()
    return text_files.Table(str(path), rows, range(1, len(rows) + 1), "row")


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
