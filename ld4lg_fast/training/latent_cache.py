"""Cache of the training set's latents and source states on disk.

Each process encodes its own shards. Whole shards of the same autoencoder and tokens are reused, so that an interrupted
encoding continues where it stopped; all others are computed again. With ``train.share_latents`` the cache lies beside
the kept corpora (`ld4lg_fast.data.corpus_cache`), in a folder for each autoencoder, tokens and dtype, for all runs.

Letters: B texts, N latents, d latent width, T tokens of all sources, W language model width.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import TokenizedTexts
from ld4lg_fast.data.corpus_cache import alone
from ld4lg_fast.pipeline.sources import source_states
from ld4lg_fast.terminal.console import progress_bar
from ld4lg_fast.training.conditioned_latents import SourceStates
from ld4lg_fast.training.interrupts import Interrupts
from ld4lg_fast.training.latent_shards import (
    BATCH,
    SHARD_BYTES,
    CacheShards,
    cache_folder,
    fingerprint,
    latent_shards,
    latents_dtype,
)
from ld4lg_fast.training.reconstruction import encode_texts, texts_at_once
from ld4lg_fast.training.session import Session, on_main
from ld4lg_fast.training.shards import Rows, open_rows, remove_others


@torch.no_grad()
def encode_latents(
    autoencoder: LanguageAutoencoder,
    tokens: TokenizedTexts,
    device: torch.device,
    texts: Sequence[int],
    states: SourceStates | None = None,
    interrupts: Interrupts | None = None,
) -> Tensor:
    """Latents (len(texts), N, d) float32 of the texts with indices ``texts``, encoded in length-sorted batches.

    ``states``: the language model's of all texts, if they are known. ``interrupts``: may end it after any batch.
    """
    out = torch.empty(len(texts), autoencoder.num_latents, autoencoder.dim_latent)
    for places in _batches_by_length(tokens, texts, texts_at_once(autoencoder, BATCH), interrupts):
        rows = [texts[place] for place in places]
        ids = [tokens[row] for row in rows]
        known = () if states is None else (states.batch(rows)[0],)
        latents, _ = encode_texts(autoencoder, ids, device, *known)
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
    for places in _batches_by_length(tokens, texts, BATCH, session.interrupts):
        ids = [tokens[texts[place]] for place in places]
        states, mask = source_states(autoencoder, ids, max_len, session.device)
        for place, row, real in zip(places, states.float().cpu(), mask.cpu(), strict=True):
            found[place] = row[real]
    return torch.cat(found)


def _batches_by_length(
    tokens: TokenizedTexts, texts: Sequence[int], batch_size: int, interrupts: Interrupts | None
) -> Iterator[list[int]]:
    order = np.argsort(tokens.lengths[texts], kind="stable")
    for start in range(0, len(order), batch_size):
        if interrupts is not None:
            interrupts.check()
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
    stored: Path | None = None,
) -> Rows:
    """Latents (B, N, d) of ``tokens``, read from the folder ``name`` of the cache or computed and stored there.

    Call in all processes. They are stored in ``train.latents_dtype``; ``auto`` is float32 for Perceiver latents and
    bfloat16 for the larger hidden states. ``stored``: where the autoencoder lies; None: in the run.

    Raises:
        CheckpointError: the disk is full or cannot be written to; shards that were finished are kept.
        ConfigError: a latent is too large for fp16.
    """
    dtype = latents_dtype(autoencoder, session.options.latents_dtype)
    return _cached(
        name,
        lambda wanted, shares: latent_shards(
            autoencoder, len(tokens), dtype, cache_folder(session.run, name, dtype, wanted, shares), wanted
        ),
        lambda texts: encode_latents(autoencoder, tokens, session.device, texts, states, session.interrupts),
        lambda: fingerprint(stored or session.run.autoencoder, tokens),
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
    shapes = [(int(tokens.lengths[texts].sum()), width) for texts in shards]
    dtype = torch.bfloat16
    return _cached(
        name,
        lambda wanted, shares: CacheShards(
            cache_folder(session.run, name, dtype, wanted, shares), shapes, shards, dtype, wanted
        ),
        lambda texts: encode_sources(autoencoder, tokens, max_len, session, texts),
        mark or (lambda: fingerprint(session.run.autoencoder, tokens)),
        session,
        session.options.share_latents and mark is None,
    )


def _cached(
    name: str,
    shards_of: Callable[[str, bool], CacheShards],
    encode: Callable[[range], Tensor],
    mark: Callable[[], str],
    session: Session,
    shares: bool,
) -> Rows:
    """Rows of all shards, encoding the missing ones; ``shards_of``: the shards with a fingerprint, shared or not."""
    shards = shards_of(session.interruptible(mark), shares)

    def fill(numbers: Iterable[int]) -> None:
        if not (lacking := shards.lacking(numbers)):
            return
        with progress_bar() as bar:
            task = bar.add_task(f"encoding the {name}", total=len(lacking))
            for number in lacking:
                shards.write(number, encode(shards.texts[number]))
                bar.advance(task)

    with ExitStack() as stack:
        if shares:
            session.in_main(lambda: stack.enter_context(alone(shards.directory)))
        session.interruptible(lambda: fill(session.mine(range(len(shards)))))
        if shares:
            # Machines whose kept corpora lie on disks of their own lack what the others have encoded.
            session.interruptible(lambda: fill(session.mine_here(range(len(shards)))))
    if not shares:
        on_main(session.accelerator, lambda: remove_others(shards.directory, len(shards)))
    return open_rows(shards.directory)


def uncached_latents(
    autoencoder: LanguageAutoencoder, tokens: TokenizedTexts, session: Session, _name: str = ""
) -> Rows:
    """Latents that are not kept on disk, and so have no use for a name."""
    every = range(len(tokens))
    return session.interruptible(
        lambda: Rows([encode_latents(autoencoder, tokens, session.device, every, None, session.interrupts)])
    )
