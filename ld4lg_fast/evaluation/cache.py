"""Disk cache of expensive arrays, under a fingerprint of their inputs."""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import numpy as np

from ld4lg_fast.checkpoints.files import size_of, unfinished, write_atomically
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.text_display import get_logger

logger = get_logger("ld4lg_fast")

_CHUNK = 4096  # strings that are hashed by one call


def fingerprint(parts: Iterable[str]) -> str:
    """A short hash of a sequence of strings."""
    digest, rest = hashlib.sha256(), (part.encode(errors="surrogatepass") for part in parts)
    while chunk := list(islice(rest, _CHUNK)):
        digest.update(b"".join(len(content).to_bytes(8, "little") + content for content in chunk))
    return digest.hexdigest()[:24]


class ArrayCache:
    """``.npy`` files in a directory; no cache if ``directory`` is None."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory

    def get(
        self, kind: str, parts: Iterable[str], compute: Callable[[], np.ndarray], rows: int | None = None
    ) -> np.ndarray:
        """The cached array for ``kind`` and ``parts``, or the result of ``compute``, which is then cached.

        ``rows``: expected number of rows; None: any.
        """
        if self.directory is None:
            return compute()
        path = self._path(self.directory, kind, parts)
        if (kept := _kept(path)) is not None and rows in (None, len(kept)):
            return kept
        array = compute()
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        try:
            write_atomically(path, content.getvalue())
        except CheckpointError as error:
            logger.warning("What was computed is not kept: %s", error)
        return array

    def mapped(
        self, kind: str, parts: Iterable[str], compute: Callable[[], Iterator[np.ndarray]]
    ) -> np.ndarray:
        """As `get`, of a one-dimensional array that is computed and written chunk by chunk and memory-mapped.

        Without a directory that can be written to, it is in memory.
        """
        if self.directory is not None:
            path = self._path(self.directory, kind, parts)
            if (kept := _mapped(path)) is not None:
                return kept
            try:
                _write_chunks(path, compute())
                return np.lib.format.open_memmap(path, mode="r")
            except OSError as error:
                logger.warning(
                    "What was computed is not kept: %s cannot be written (%s).", path, error.strerror
                )
        return np.concatenate([*compute()])

    @staticmethod
    def _path(directory: Path, kind: str, parts: Iterable[str]) -> Path:
        return directory / f"{kind}_{fingerprint(parts)}.npy"


def _write_chunks(path: Path, chunks: Iterator[np.ndarray]) -> None:
    """Writes a ``.npy`` file of one dimension atomically, without having all of it in memory."""
    temporary = unfinished(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(temporary, "wb") as file:
            first = next(chunks)
            header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False}
            length = 0
            # NumPy leaves room in the header for a longer array.
            np.lib.format.write_array_header_1_0(file, header | {"shape": (length,)})
            for chunk in chain([first], chunks):
                file.write(chunk.data)
                length += len(chunk)
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, header | {"shape": (length,)})
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _kept(path: Path) -> np.ndarray | None:
    """The array in a file; None if it is missing, damaged or not numeric."""
    mapped = _mapped(path)
    return None if mapped is None else np.array(mapped)  # which holds no more than the file


def _mapped(path: Path) -> np.memmap | None:
    """The array in a file, memory-mapped; None as for `_kept`."""
    try:
        size_of(path)
        array = np.lib.format.open_memmap(path, mode="r")
    except (CheckpointError, OSError, ValueError, EOFError):
        return None
    return array if array.ndim and array.dtype.kind in "fiu" else None
