"""Cache of the training set's latents and source states on disk.

Each process encodes its own shards. Intact shards of the same autoencoder and tokens are reused, so that an interrupted
encoding continues where it stopped; all others are computed again.

Letters: B texts, N latents, d latent width, T tokens of all sources, W language model width.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import TokenizedTexts
from ld4lg_fast.pipeline.sources import source_states
from ld4lg_fast.terminal.console import console, progress_bar
from ld4lg_fast.training.reconstruction import encode_texts, texts_at_once
from ld4lg_fast.training.session import Session, on_main
from ld4lg_fast.training.shards import Rows, open_rows, remove_others, shard_fault, shard_path, write_shard

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


@torch.no_grad()
def encode_latents(
    autoencoder: LanguageAutoencoder, tokens: TokenizedTexts, session: Session, texts: Sequence[int]
) -> Tensor:
    """Latents (len(texts), N, d) float32 of the texts with indices ``texts``, encoded in length-sorted batches."""
    out = torch.empty(len(texts), autoencoder.num_latents, autoencoder.dim_latent)
    for places in _batches_by_length(tokens, texts, session, texts_at_once(autoencoder, BATCH)):
        latents, _ = encode_texts(autoencoder, [tokens[texts[place]] for place in places], session.device)
        out[places] = latents.float().cpu()
    return out


@torch.no_grad()
def encode_sources(
    autoencoder: LanguageAutoencoder,
    tokens: TokenizedTexts,
    max_len: int,
    session: Session,
    texts: Sequence[int],
) -> Tensor:
    """Encoder states (tokens of ``texts``, W) float32, concatenated without padding."""
    found: list[Tensor] = [torch.empty(0)] * len(texts)
    for places in _batches_by_length(tokens, texts, session, BATCH):
        ids = [tokens[texts[place]] for place in places]
        states, mask = source_states(autoencoder, ids, max_len, session.device)
        for place, row, real in zip(places, states.float().cpu(), mask.cpu(), strict=True):
            found[place] = row[real]
    return torch.cat(found)


def _batches_by_length(
    tokens: TokenizedTexts, texts: Sequence[int], session: Session, batch_size: int
) -> Iterator[list[int]]:
    order = np.argsort(tokens.lengths[texts], kind="stable")
    for start in range(0, len(order), batch_size):
        session.interrupts.check()
        yield order[start : start + batch_size].tolist()


def encoding_seconds(
    encode: Callable[[Sequence[int]], Tensor], tokens: TokenizedTexts, session: Session
) -> float:
    """Estimated seconds of ``encode`` for all texts, measured on a few texts of median length."""
    order = np.argsort(tokens.lengths, kind="stable")
    count = min(BATCH, -(-len(order) // 32))
    middle = order[(len(order) - count) // 2 :][:count].tolist()
    encode(middle)  # warm-up
    start = time.perf_counter()
    encode(middle)
    return (time.perf_counter() - start) * len(tokens) / len(middle) / session.world_size


def cached_latents(
    autoencoder: LanguageAutoencoder, tokens: TokenizedTexts, session: Session, name: str = "latents"
) -> Rows:
    """Latents (B, N, d) of ``tokens``, read from the folder ``name`` of the run's cache or computed and stored there.

    Call in all processes. Perceiver latents are stored in float32, the larger hidden states in bfloat16.
    """
    shape = (autoencoder.num_latents, autoencoder.dim_latent)
    dtype = torch.bfloat16 if autoencoder.perceiver is None else torch.float32
    per_shard = max(BATCH, SHARD_BYTES // (shape[0] * shape[1] * dtype.itemsize))
    starts = range(0, len(tokens), per_shard)
    shards = [range(start, min(start + per_shard, len(tokens))) for start in starts]
    return _cached(
        session.run.cache / name,
        [((len(texts), *shape), texts) for texts in shards],
        lambda texts: encode_latents(autoencoder, tokens, session, texts),
        dtype,
        tokens,
        session,
    )


def cached_sources(
    autoencoder: LanguageAutoencoder, tokens: TokenizedTexts, max_len: int, session: Session
) -> Rows:
    """The same for the sources' encoder states (T, W) bfloat16, without padding, in ``cache/sources/``."""
    width = autoencoder.language_model.width
    # A text that would overflow a shard starts the next one.
    tokens_per_shard = max(1, SHARD_BYTES // (2 * width))
    firsts = np.flatnonzero(np.diff(tokens.offsets[:-1] // tokens_per_shard, prepend=-1))
    shards = [range(a, b) for a, b in zip(firsts, [*firsts[1:], len(tokens)], strict=True)]
    return _cached(
        session.run.cache / "sources",
        [((int(tokens.lengths[texts].sum()), width), texts) for texts in shards],
        lambda texts: encode_sources(autoencoder, tokens, max_len, session, texts),
        torch.bfloat16,
        tokens,
        session,
    )


def _cached(
    directory: Path,
    shards: Sequence[tuple[tuple[int, ...], range]],
    encode: Callable[[range], Tensor],
    dtype: torch.dtype,
    tokens: TokenizedTexts,
    session: Session,
) -> Rows:
    """Rows of all shards, encoding the missing ones; ``shards`` gives each one's shape and texts."""

    def fill() -> None:
        wanted = fingerprint(session.run.autoencoder, tokens)
        lacking = []
        for number, (shape, texts) in session.mine(list(enumerate(shards))):
            path = shard_path(directory, number)
            fault = shard_fault(path, shape, dtype, wanted)
            if fault == "damaged":
                console.print(f"{path} is damaged and is computed again.")
            if fault:
                lacking.append((path, texts))
        with progress_bar() as bar:
            task = bar.add_task(f"encoding the {directory.name}", total=len(lacking))
            for path, texts in lacking:
                write_shard(path, encode(texts).to(dtype), wanted)
                bar.advance(task)

    session.interruptible(fill)
    on_main(session.accelerator, lambda: remove_others(directory, len(shards)))
    return open_rows(directory)
