"""Token states of a frozen language model, computed once for each text and kept on disk in bfloat16.

Training reads them at every pass over the corpus, and the second stage encodes the corpus from them. ``auto`` measures
one batch and keeps them where that is expected to take less time and the disk has room.

Letters: B texts, T tokens, W language model width.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple
from typing import Any

import torch

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.checkpoints.tensors import digest_of
from ld4lg_fast.data import TokenizedTexts
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.terminal.console import console
from ld4lg_fast.terminal.progress import duration
from ld4lg_fast.training.autoencoder_stage import AutoencoderStage
from ld4lg_fast.training.conditioned_latents import SourceStates
from ld4lg_fast.training.latent_cache import cached_sources
from ld4lg_fast.training.session import Session, on_main
from ld4lg_fast.training.shards import open_rows, shard_path, write_shard
from ld4lg_fast.training.time_budget import StageClock
from ld4lg_fast.training.train_step import Part

NAME = "states"
MEASURED = "measured_states"
MOST_OF_DISK = 0.5  # of what is free, above which ``auto`` keeps nothing


def why_not(config: Mapping, autoencoder: LanguageAutoencoder) -> str | None:
    """Why a text's states differ from step to step, as a clause; None if they do not."""
    masking = config["autoencoder"].get("token_masking", 0.0)
    if "context_blocks" in config["recipe"]:
        return "recipe=blocks cuts texts anew in every step"
    if autoencoder.perceiver is None:
        return "recipe=v1 has no Perceiver that would read them"
    if masking:
        return f"autoencoder.token_masking={masking} changes tokens in every step"
    if not autoencoder.trains_perceiver_alone:
        return "weights of the language model are trained"
    return None


def check_cache_states(config: Mapping, autoencoder: LanguageAutoencoder) -> None:
    """Refuses ``autoencoder.cache_states=true`` where states change.

    Raises:
        ConfigError: the reason and the remedy.
    """
    reason = why_not(config, autoencoder)
    if config["autoencoder"].get("cache_states") is True and reason is not None:
        raise ConfigError(
            f"autoencoder.cache_states=true keeps states that never change, and {reason}; give "
            "autoencoder.cache_states=auto or false."
        )


def cached_states(autoencoder: LanguageAutoencoder, tokens: TokenizedTexts, session: Session) -> SourceStates:
    """States of all texts (T, W) bfloat16 from ``cache/states/``, where the missing ones are written first.

    Call in all processes.

    Raises:
        ConfigError: the disk has no room for them.
    """

    def check_room() -> None:
        missing = _bytes(autoencoder, tokens) - _bytes_there(session)
        if missing > (free := _free(session)):
            raise ConfigError(
                f"autoencoder.cache_states needs {_megabytes(missing)} in {session.run.cache}, where "
                f"{_megabytes(free)} are free; free some space there, or give autoencoder.cache_states=false."
            )

    on_main(session.accelerator, check_room)

    def mark() -> str:
        digest = hashlib.sha256(digest_of(autoencoder.lm).encode())
        digest.update(repr((astuple(autoencoder.reading), autoencoder.language_model.start)).encode())
        tokens.hash_into(digest)
        return digest.hexdigest()

    return SourceStates(
        cached_sources(autoencoder, tokens, autoencoder.max_len, session, NAME, mark), tokens.offsets
    )


def kept_states(
    autoencoder: LanguageAutoencoder, tokens: TokenizedTexts, session: Session
) -> SourceStates | None:
    """`cached_states` if the first stage kept them."""
    there = on_main(session.accelerator, lambda: (session.run.cache / NAME).is_dir())
    return cached_states(autoencoder, tokens, session) if there else None


def drop_states(session: Session) -> None:
    """Deletes the states, which nothing reads once the latents are encoded."""
    on_main(session.accelerator, lambda: shutil.rmtree(session.run.cache / NAME, ignore_errors=True))


def chosen_states(
    config: Mapping, stage: AutoencoderStage, session: Session, clock: StageClock
) -> SourceStates | None:
    """The states that the first stage reads by ``autoencoder.cache_states``; None if it computes them.

    Call in all processes. A stage that goes on from a checkpoint keeps to what ``auto`` has decided before.

    Raises:
        ConfigError: ``true``, and the disk has no room for them.
    """
    autoencoder, setting = stage.module, config["autoencoder"].get("cache_states", False)
    if setting is False or why_not(config, autoencoder) is not None:
        return None
    kept = on_main(session.accelerator, lambda: (session.run.cache / NAME).is_dir())
    if setting is True or kept:
        return cached_states(autoencoder, stage.tokens, session)
    begun = on_main(session.accelerator, lambda: any(session.run.checkpoints(stage.name).glob("step_*")))
    if begun or not _is_faster(stage, session, clock):
        return None
    return cached_states(autoencoder, stage.tokens, session)


def _is_faster(stage: AutoencoderStage, session: Session, clock: StageClock) -> bool:
    """Whether states on disk take less time than computing them at every pass, by one batch; prints why."""
    autoencoder, tokens = stage.module, stage.tokens
    size, free = _bytes(autoencoder, tokens), on_main(session.accelerator, lambda: _free(session))
    once, again, write, read, step = session.summed(*session.interruptible(lambda: _measured(stage, session)))
    batches = len(tokens) / stage.options.batch_size
    # Parts of a batch in a pass of all processes, over which the seconds are summed.
    scale = batches * stage.options.micro_batches / session.world_size
    passes = stage.options.steps / batches
    if clock.end is not None:
        passes = min(passes, max(0.0, clock.end - clock.run.seconds()) / (scale * step))
    later = session.options.stage == "all"
    computed = scale * (passes * again + later * once)
    from_disk = scale * (once + write + (passes + later) * read)
    is_kept = from_disk < computed and size < MOST_OF_DISK * free
    console.print(
        f"autoencoder.cache_states=auto: in about {passes:.1f} passes, token states take {duration(computed)} if they "
        f"are computed each time, and {duration(from_disk)} with {_megabytes(size)} on disk ({_megabytes(free)} are "
        f"free): they are {'kept' if is_kept else 'computed'}."
    )
    return is_kept


def _measured(stage: AutoencoderStage, session: Session) -> tuple[float, ...]:
    """Seconds for a part of a batch: encoding in float32 and as in training, writing and reading the states, and a
    step of training without its update."""
    autoencoder, device = stage.module, session.device
    part = Part(session.rank, session.world_size * stage.options.micro_batches)
    _, (ids, mask, *_) = batch = stage.batch(0, part)
    path = shard_path(session.run.cache / f"{MEASURED}_{session.rank}", 0)

    @torch.no_grad()
    def encode() -> torch.Tensor:
        return autoencoder.language_model.encode(ids, mask)

    def encode_as_in_training() -> torch.Tensor:
        with session.accelerator.autocast():
            return encode()

    def train() -> None:
        with session.accelerator.autocast():
            loss = stage.loss(autoencoder, batch)
        loss.backward()

    states = encode()[mask].bfloat16().cpu()
    try:
        write = _seconds(lambda: write_shard(path, states, MEASURED), device)
        read = _seconds(lambda: open_rows(path.parent).span(0, len(states)).float().to(device), device)
    finally:
        shutil.rmtree(path.parent, ignore_errors=True)
    once, again, step = (_seconds(work, device) for work in (encode, encode_as_in_training, train))
    autoencoder.zero_grad(set_to_none=True)
    return once, again, write, read, step


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call after another one."""
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _bytes(autoencoder: LanguageAutoencoder, tokens: TokenizedTexts) -> int:
    return int(tokens.lengths.sum()) * autoencoder.language_model.width * torch.bfloat16.itemsize


def _bytes_there(session: Session) -> int:
    return sum(path.stat().st_size for path in (session.run.cache / NAME).glob("*.safetensors"))


def _free(session: Session) -> int:
    return shutil.disk_usage(session.run.cache).free


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
