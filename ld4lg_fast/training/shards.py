"""Rows of a large tensor in memory-mapped shards on disk, written atomically.

A shard never changes: it is compared with what is on the disk when it is written, and known by its size afterwards.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ld4lg_fast.checkpoints.files import write_atomically
from ld4lg_fast.errors import CheckpointError

NAME = "rows"
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # by their names in safetensors


class Rows:
    """A tensor (R, …) as a list of consecutive, possibly memory-mapped parts."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def row_shape(self) -> torch.Size:
        return self.parts[0].shape[1:]

    def take(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Rows ``indices`` (len(indices), …) float32, copied."""
        rows = np.asarray(indices, dtype=np.int64)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        taken = torch.empty(len(rows), *self.row_shape)
        for number in np.unique(numbers):
            places = torch.from_numpy(np.flatnonzero(numbers == number))
            within = torch.from_numpy(rows[numbers == number] - self._starts[number])
            taken[places] = self.parts[number][within].float()
        return taken

    def span(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, which must lie in one part; a view."""
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        return self.parts[number][start - self._starts[number] : stop - self._starts[number]]


def shard_path(directory: Path, number: int) -> Path:
    return directory / f"{number:05}.safetensors"


def write_shard(path: Path, rows: Tensor, fingerprint: str) -> None:
    """Writes a shard atomically; ``fingerprint`` identifies the inputs it was computed from.

    Raises:
        CheckpointError: the disk is full, cannot be written to, or does not give the shard back.
    """
    content = safetensors.torch.save({NAME: rows.contiguous()}, {"fingerprint": fingerprint})
    write_atomically(path, content)
    if _read_from_disk(path) != content:
        path.unlink()
        raise CheckpointError(
            f"{path} does not hold what was written to it; check that disk, or choose a directory on another one."
        )


def _read_from_disk(path: Path) -> bytes:
    """A file's bytes, without the system's copy of them in memory where it lets go of it."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def shard_fault(path: Path, shape: tuple[int, ...], dtype: torch.dtype, fingerprint: str) -> str | None:
    """None for a whole shard, otherwise ``missing``, ``out of date`` or ``damaged``; its rows are not read."""
    if not path.exists():
        return "missing"
    try:
        with safe_open(path, framework="pt") as file:
            metadata, rows = file.metadata() or {}, file.get_slice(NAME)
            found = (metadata.get("fingerprint"), tuple(rows.get_shape()), rows.get_dtype())
    except (SafetensorError, OSError):
        return "damaged"
    return None if found == (fingerprint, shape, DTYPES[dtype]) else "out of date"


def open_rows(directory: Path) -> Rows:
    """All shards of a directory, memory-mapped."""
    return Rows([safetensors.torch.load_file(path)[NAME] for path in sorted(directory.glob("*.safetensors"))])


def remove_others(directory: Path, count: int) -> None:
    """Deletes all files but the first ``count`` shards, such as those of a longer corpus or unfinished ones."""
    wanted = {shard_path(directory, number) for number in range(count)}
    for path in set(directory.iterdir()) - wanted:
        path.unlink()
