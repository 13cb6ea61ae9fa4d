"""The training set's latents and source states, computed once and kept on disk.

Letters: B texts, N latents, d latent width, T tokens of all sources, W language model width.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from ld4lg_fast.autoencoder import LanguageAutoencoder
from ld4lg_fast.console import progress_bar
from ld4lg_fast.data import TokenizedTexts
from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.source import source_states
from ld4lg_fast.training.reconstruction import encode_texts
from ld4lg_fast.training.session import Session
from ld4lg_fast.weights import read_json, write_json

BATCH = 256


def fingerprint(autoencoder_directory: Path, tokens: TokenizedTexts) -> str:
    """SHA-256 over the autoencoder's files and the token ids: everything that the latents depend on."""
    digest = hashlib.sha256()
    for path in sorted(autoencoder_directory.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(autoencoder_directory)).encode())
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(tokens.flat.tobytes())
    digest.update(tokens.offsets.tobytes())
    return digest.hexdigest()


@torch.no_grad()
def encode_all(
    autoencoder: LanguageAutoencoder,
    tokens: Sequence[list[int]] | TokenizedTexts,
    session: Session,
    out: np.ndarray,
) -> None:
    """Writes the latents of all texts to ``out`` (B, N, d), in batches of texts of like length."""
    for rows in _batches_by_length(tokens, "encoding the training texts", session):
        latents, _ = encode_texts(autoencoder, [tokens[i] for i in rows], session.device)
        out[rows] = latents.float().cpu().numpy()


@torch.no_grad()
def encode_all_sources(
    autoencoder: LanguageAutoencoder, tokens: TokenizedTexts, max_len: int, session: Session, out: np.ndarray
) -> None:
    """Writes the encoder states of all sources to ``out`` (T, W), text i at ``tokens.offsets[i]``."""
    for rows in _batches_by_length(tokens, "encoding the sources", session):
        states, mask = source_states(autoencoder, [tokens[i] for i in rows], max_len, session.device)
        for i, row, real in zip(rows, states.float().cpu(), mask.cpu(), strict=True):
            out[tokens.offsets[i] : tokens.offsets[i + 1]] = row[real].numpy()


def _batches_by_length(
    tokens: Sequence[list[int]] | TokenizedTexts, title: str, session: Session
) -> Iterator[list[int]]:
    """Numbers of texts of like length, under a progress bar."""
    order = np.argsort([len(tokens[i]) for i in range(len(tokens))], kind="stable")
    with progress_bar() as bar:
        task = bar.add_task(title, total=len(order))
        for start in range(0, len(order), BATCH):
            session.interrupts.check()
            rows = order[start : start + BATCH].tolist()
            yield rows
            bar.advance(task, len(rows))


def cached_latents(autoencoder: LanguageAutoencoder, tokens: TokenizedTexts, session: Session) -> None:
    """Makes sure that the run's ``cache/`` holds the latents of ``tokens``; call in the main process.

    A cache of another autoencoder or corpus, or an unfinished one, is replaced.
    """
    shape = (len(tokens), autoencoder.num_latents, autoencoder.dim_latent)
    # Hidden states are many and need no more than half precision.
    dtype = np.float16 if autoencoder.perceiver is None else np.float32
    _fill_cache(
        latents_path(session),
        shape,
        dtype,
        tokens,
        session,
        lambda out: encode_all(autoencoder, tokens, session, out),
    )


def cached_sources(
    autoencoder: LanguageAutoencoder, tokens: TokenizedTexts, max_len: int, session: Session
) -> None:
    """Likewise for the states of the sources ``tokens``, in half precision and without padding."""
    shape = (len(tokens.flat), autoencoder.lm.config.hidden_size)
    _fill_cache(
        sources_path(session),
        shape,
        np.float16,
        tokens,
        session,
        lambda out: encode_all_sources(autoencoder, tokens, max_len, session, out),
    )


def _fill_cache(
    path: Path,
    shape: tuple[int, ...],
    dtype: type,
    tokens: TokenizedTexts,
    session: Session,
    fill: Callable[[np.ndarray], None],
) -> None:
    facts = path.with_suffix(".json")
    wanted = {"fingerprint": fingerprint(session.run.autoencoder, tokens)}
    if path.exists() and facts.exists() and _read(facts) == wanted:
        return
    facts.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    out = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    fill(out)
    out.flush()
    # Written last, so that an interrupted cache is never taken for a whole one.
    write_json(facts, wanted)


def latents_path(session: Session) -> Path:
    return session.run.cache / "latents.npy"


def sources_path(session: Session) -> Path:
    return session.run.cache / "sources.npy"


def _read(path: Path) -> dict | None:
    try:
        return read_json(path, "a latent cache")
    except LD4LGError:
        return None
