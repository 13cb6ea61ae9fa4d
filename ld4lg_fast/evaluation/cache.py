"""Disk cache of expensive arrays, under a fingerprint of their inputs."""

import hashlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ld4lg_fast.checkpoints.files import size_of, write_atomically
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.text_display import get_logger

logger = get_logger("ld4lg_fast")


def fingerprint(parts: Iterable[str]) -> str:
    """A short hash of a sequence of strings."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode(errors="surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
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
        path = self.directory / f"{kind}_{fingerprint(parts)}.npy"
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


def _kept(path: Path) -> np.ndarray | None:
    """The array in a file; None if it is missing, damaged or not numeric."""
    try:
        size_of(path)
        array = np.array(np.lib.format.open_memmap(path, mode="r"))  # which holds no more than the file
    except (CheckpointError, OSError, ValueError, EOFError):
        return None
    return array if array.ndim and array.dtype.kind in "fiu" else None
