"""Rows of a large tensor in memory-mapped shards on disk, written atomically and with checksums."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ld4lg_fast.checkpoints.files import write_atomically

NAME = "rows"


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


def _checksum(rows: Tensor) -> str:
    return hashlib.sha256(rows.contiguous().view(torch.uint8).numpy().data).hexdigest()


def write_shard(path: Path, rows: Tensor, fingerprint: str) -> None:
    """Writes a shard atomically; ``fingerprint`` identifies the inputs it was computed from."""
    metadata = {"fingerprint": fingerprint, "checksum": _checksum(rows)}
    write_atomically(path, safetensors.torch.save({NAME: rows.contiguous()}, metadata))


def shard_fault(path: Path, shape: tuple[int, ...], dtype: torch.dtype, fingerprint: str) -> str | None:
    """None for a valid shard, otherwise ``missing``, ``out of date`` or ``damaged``."""
    if not path.exists():
        return "missing"
    try:
        with safe_open(path, framework="pt") as file:
            metadata, rows = file.metadata() or {}, file.get_tensor(NAME)
    except (SafetensorError, OSError):
        return "damaged"
    if metadata.get("fingerprint") != fingerprint or rows.shape != shape or rows.dtype != dtype:
        return "out of date"
    return None if metadata.get("checksum") == _checksum(rows) else "damaged"


def open_rows(directory: Path) -> Rows:
    """All shards of a directory, memory-mapped."""
    return Rows([safetensors.torch.load_file(path)[NAME] for path in sorted(directory.glob("*.safetensors"))])


def remove_others(directory: Path, count: int) -> None:
    """Deletes all files but the first ``count`` shards, such as those of a longer corpus or unfinished ones."""
    wanted = {shard_path(directory, number) for number in range(count)}
    for path in set(directory.iterdir()) - wanted:
        path.unlink()
