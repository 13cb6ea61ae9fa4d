"""Shards of a cache of latents or source states: their texts and shapes, and what they were made from.

Nothing here knows who encodes them: the processes of a training, or the workers of a cluster (`ld4lg_fast.ray`).

Letters: B texts, N latents, d latent width.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.data import TokenizedTexts
from ld4lg_fast.data.corpus_cache import kept_folder
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.options.precisions import precision_name, torch_dtype
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.shards import shard_fault, shard_path, write_shard

BATCH = 256
SHARD_BYTES = 64 * 2**20


def fingerprint(autoencoder_directory: Path, tokens: TokenizedTexts) -> str:
    """SHA-256 of the autoencoder's files and the token ids, which determine the latents."""
    digest = hashlib.sha256()
    for path in sorted(autoencoder_directory.rglob("*")):
        if path.is_file():
            digest.update(os.fsencode(path.relative_to(autoencoder_directory)))
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    tokens.hash_into(digest)
    return digest.hexdigest()


def cache_folder(run: RunDirectory, name: str, dtype: torch.dtype, wanted: str, shares: bool) -> Path:
    """Where a run has rows with the fingerprint ``wanted``: in its cache, or with ``train.share_latents`` beside the
    kept corpora."""
    if not shares:
        return run.cache / name
    precision = precision_name(str(dtype).removeprefix("torch."))
    return kept_folder("latents") / f"{name}-{precision}-{wanted[:32]}"


@dataclass(frozen=True)
class CacheShards:
    """All shards of a cache. Shard i has the rows of ``texts[i]``, of shape ``shapes[i]``, stored in ``dtype``."""

    directory: Path
    shapes: Sequence[tuple[int, ...]]
    texts: Sequence[range]
    dtype: torch.dtype
    fingerprint: str

    def __len__(self) -> int:
        return len(self.texts)

    def fault(self, number: int) -> str | None:
        """See `shard_fault`."""
        return shard_fault(
            shard_path(self.directory, number), self.shapes[number], self.dtype, self.fingerprint
        )

    def lacking(self, numbers: Iterable[int]) -> list[int]:
        """Those of the shards ``numbers`` that have to be computed; says which of them are damaged."""
        found = []
        for number in numbers:
            fault = self.fault(number)
            if fault == "damaged":
                console.print(f"{shard_path(self.directory, number)} is damaged and is computed again.")
            if fault:
                found.append(number)
        return found

    def write(self, number: int, rows: Tensor) -> None:
        """Stores the rows of a shard.

        Raises:
            CheckpointError: the disk is full or cannot be written to.
            ConfigError: a number is too large for float16.
        """
        most, limit = rows.abs().max().item(), torch.finfo(self.dtype).max
        if self.dtype is torch.float16 and most > limit:
            raise ConfigError(
                f"train.latents_dtype=fp16 holds numbers up to {limit:.0f}, and a latent has {most:.3g}; use bf16."
            )
        write_shard(shard_path(self.directory, number), rows.to(self.dtype), self.fingerprint)


def latents_dtype(autoencoder: LanguageAutoencoder, asked: str) -> torch.dtype:
    """``train.latents_dtype``; ``auto`` is float32 for Perceiver latents and bfloat16 for larger hidden states."""
    if asked == "auto":
        asked = "bf16" if autoencoder.perceiver is None else "fp32"
    return torch_dtype(asked)


def latent_shards(
    autoencoder: LanguageAutoencoder, count: int, dtype: torch.dtype, directory: Path, wanted: str
) -> CacheShards:
    """The shards of the latents (B, N, d) of ``count`` texts, whose fingerprint is ``wanted``."""
    shape = (autoencoder.num_latents, autoencoder.dim_latent)
    per_shard = max(BATCH, SHARD_BYTES // (shape[0] * shape[1] * dtype.itemsize))
    texts = [range(start, min(start + per_shard, count)) for start in range(0, count, per_shard)]
    return CacheShards(directory, [(len(rows), *shape) for rows in texts], texts, dtype, wanted)
