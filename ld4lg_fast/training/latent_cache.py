"""Cache of the training set's latents and source states on disk.

Each process encodes its own shards. Whole shards of the same autoencoder and tokens are reused, so that an interrupted
encoding continues where it stopped; all others are computed again. With ``train.share_latents`` the cache lies beside
the kept corpora (`ld4lg_fast.data.corpus_cache`), in a folder for each autoencoder, tokens and dtype, for all runs.

Letters: B texts, N latents, d latent width, T tokens of all sources, W language model width.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import TokenizedTexts
from ld4lg_fast.data.corpus_cache import alone, kept_folder
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.options.precisions import precision_name, torch_dtype
from ld4lg_fast.pipeline.sources import source_states
from ld4lg_fast.terminal.console import console, progress_bar
from ld4lg_fast.training.conditioned_latents import SourceStates
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
    autoencoder: LanguageAutoencoder,
    tokens: TokenizedTexts,
    session: Session,
    texts: Sequence[int],
    states: SourceStates | None = None,
) -> Tensor:
    """Latents (len(texts), N, d) float32 of the texts with indices ``texts``, encoded in length-sorted batches.

    ``states``: the language model's of all texts, if they are known.
    """
    out = torch.empty(len(texts), autoencoder.num_latents, autoencoder.dim_latent)
    for places in _batches_by_length(tokens, texts, session, texts_at_once(autoencoder, BATCH)):
        rows = [texts[place] for place in places]
        ids = [tokens[row] for row in rows]
        known = () if states is None else (states.batch(rows)[0],)
        latents, _ = encode_texts(autoencoder, ids, session.device, *known)
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
    autoencoder: LanguageAutoencoder,
    tokens: TokenizedTexts,
    session: Session,
    name: str = "latents",
    states: SourceStates | None = None,
) -> Rows:
    """Latents (B, N, d) of ``tokens``, read from the folder ``name`` of the cache or computed and stored there.

    Call in all processes. They are stored in ``train.latents_dtype``; ``auto`` is float32 for Perceiver latents and
    bfloat16 for the larger hidden states.

    Raises:
        CheckpointError: the disk is full or cannot be written to; shards that were finished are kept.
        ConfigError: a latent is too large for fp16.
    """
    shape = (autoencoder.num_latents, autoencoder.dim_latent)
    asked = session.options.latents_dtype
    if asked == "auto":
        asked = "bf16" if autoencoder.perceiver is None else "fp32"
    dtype = torch_dtype(asked)
    per_shard = max(BATCH, SHARD_BYTES // (shape[0] * shape[1] * dtype.itemsize))
    starts = range(0, len(tokens), per_shard)
    shards = [range(start, min(start + per_shard, len(tokens))) for start in starts]
    return _cached(
        name,
        [((len(texts), *shape), texts) for texts in shards],
        lambda texts: encode_latents(autoencoder, tokens, session, texts, states),
        dtype,
        lambda: fingerprint(session.run.autoencoder, tokens),
        session,
        session.options.share_latents,
    )


def cached_sources(
    autoencoder: LanguageAutoencoder,
    tokens: TokenizedTexts,
    max_len: int,
    session: Session,
    name: str = "sources",
    mark: Callable[[], str] | None = None,
) -> Rows:
    """The same for the sources' encoder states (T, W), always bfloat16, without padding.

    ``mark``: identifies the inputs of states that the run keeps to itself; None: `fingerprint` of its autoencoder.
    """
    width = autoencoder.language_model.width
    # A text that would overflow a shard starts the next one.
    tokens_per_shard = max(1, SHARD_BYTES // (2 * width))
    firsts = np.flatnonzero(np.diff(tokens.offsets[:-1] // tokens_per_shard, prepend=-1))
    shards = [range(a, b) for a, b in zip(firsts, [*firsts[1:], len(tokens)], strict=True)]
    return _cached(
        name,
        [((int(tokens.lengths[texts].sum()), width), texts) for texts in shards],
        lambda texts: encode_sources(autoencoder, tokens, max_len, session, texts),
        torch.bfloat16,
        mark or (lambda: fingerprint(session.run.autoencoder, tokens)),
        session,
        session.options.share_latents and mark is None,
    )


def _cached(
    name: str,
    shards: Sequence[tuple[tuple[int, ...], range]],
    encode: Callable[[range], Tensor],
    dtype: torch.dtype,
    mark: Callable[[], str],
    session: Session,
    shares: bool,
) -> Rows:
    """Rows of all shards, encoding the missing ones; ``shards`` gives each one's shape and texts."""

    wanted = session.interruptible(mark)
    directory = session.run.cache / name
    if shares:
        precision = precision_name(str(dtype).removeprefix("torch."))
        directory = kept_folder("latents") / f"{name}-{precision}-{wanted[:32]}"

    def fill() -> None:
        lacking = []
        for number, (shape, texts) in session.mine(list(enumerate(shards))):
            path = shard_path(directory, number)
            fault = shard_fault(path, shape, dtype, wanted)
            if fault == "damaged":
                console.print(f"{path} is damaged and is computed again.")
            if fault:
                lacking.append((path, texts))
        with progress_bar() as bar:
            task = bar.add_task(f"encoding the {name}", total=len(lacking))
            for path, texts in lacking:
                write_shard(path, _stored(encode(texts), dtype), wanted)
                bar.advance(task)

    with ExitStack() as stack:
        if shares:
            session.in_main(lambda: stack.enter_context(alone(directory)))
        session.interruptible(fill)
    if not shares:
        on_main(session.accelerator, lambda: remove_others(directory, len(shards)))
    return open_rows(directory)


def _stored(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows in the dtype that they are stored in; raises ``ConfigError`` if one is too large for float16."""
    most, limit = rows.abs().max().item(), torch.finfo(dtype).max
    if dtype is torch.float16 and most > limit:
        raise ConfigError(
            f"train.latents_dtype=fp16 holds numbers up to {limit:.0f}, and a latent has {most:.3g}; use bf16."
        )
    return rows.to(dtype)
