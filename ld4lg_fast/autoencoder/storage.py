"""The language autoencoder on disk: ``autoencoder.json``, the Perceiver, the tokenizer, and the language model or its
name and hash."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ld4lg_fast.autoencoder.pretrained import Origin, fetched
from ld4lg_fast.checkpoints.files import write_json, writing
from ld4lg_fast.checkpoints.language_model import load_language_model
from ld4lg_fast.checkpoints.schemas import AutoencoderFile, read
from ld4lg_fast.checkpoints.tensors import build_and_load, digest_of, save_weights
from ld4lg_fast.checkpoints.tokenizer import load_tokenizer
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.models.language_models import Reading, cast_weights, language_model
from ld4lg_fast.models.perceiver import Perceiver, PerceiverConfig

LM = "language_model"


@dataclass(frozen=True)
class Parts:
    """What is stored of a `LanguageAutoencoder`, by the names of its arguments."""

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    perceiver: Perceiver | None
    max_len: int
    freeze_lm: bool
    reading: Reading
    origin: Origin | None


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Disables transformers' progress bars."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def save(parts: Parts, directory: Path) -> None:
    """Writes a folder; a language model whose origin has a hash is not stored.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written to.
    """
    with without_progress_bars(), writing(directory):
        if parts.origin is None or parts.origin.sha256 is None:
            parts.lm.save_pretrained(directory / LM, save_original_format=False)  # names as in the modules
        else:
            shutil.rmtree(directory / LM, ignore_errors=True)
        parts.tokenizer.save_pretrained(directory / "tokenizer")
    if parts.perceiver is not None:
        save_weights(parts.perceiver, directory / "perceiver.safetensors")
    write_json(
        directory / "autoencoder.json",
        {
            "format": 1,
            "max_len": parts.max_len,
            "freeze_lm": parts.freeze_lm,
            "perceiver": None if parts.perceiver is None else asdict(parts.perceiver.config),
            "reading": asdict(parts.reading),
            "origin": None if parts.origin is None else asdict(parts.origin),
        },
    )


def load(directory: Path, trust_remote_code: bool, dtype: torch.dtype | None) -> Parts:
    """Reads the result of `save`; ``trust_remote_code``: see `fetched`, for a language model that is not stored.

    ``dtype``: of the language model; None: float32.

    Raises:
        CheckpointError: the folder holds no autoencoder, is damaged, or has another format; or the language model that
            it names is not found or has other weights.
    """
    path = directory / "autoencoder.json"
    file = read(AutoencoderFile, path, "a saved autoencoder")
    origin = None if file.origin is None else Origin(**file.origin.model_dump())
    with without_progress_bars():
        if origin is None or origin.sha256 is None:
            lm = load_language_model(directory / LM, dtype)
        else:
            lm = cast_weights(_named_model(origin, path, trust_remote_code), dtype)
        tokenizer = load_tokenizer(directory / "tokenizer", lm)
    reading = Reading(**file.reading.model_dump())
    try:
        model = language_model(lm, reading)
    except ConfigError as error:
        raise CheckpointError(f"{path} does not fit the language model: {error}") from error
    sizes = file.perceiver
    states = 0 if sizes is None else PerceiverConfig(**sizes.model_dump()).num_states
    limit = model.most_tokens(states)
    if limit is not None and limit < file.max_len:
        raise CheckpointError(
            f"{path} says max_len {file.max_len}, but the language model beside it handles {limit} tokens; they "
            "belong to different runs."
        )
    perceiver = None
    if sizes is not None:
        if sizes.dim_lm != model.width:
            raise CheckpointError(
                f"{path} says dim_lm {sizes.dim_lm}, but the language model beside it is "
                f"{model.width} wide; they belong to different runs."
            )
        perceiver = build_and_load(
            lambda: Perceiver(PerceiverConfig(**sizes.model_dump())),
            path,
            directory / "perceiver.safetensors",
        )
    elif not lm.config.is_encoder_decoder:
        raise CheckpointError(f"{path} has no Perceiver, which a language model without an encoder needs.")
    return Parts(lm, tokenizer, perceiver, file.max_len, file.freeze_lm, reading, origin)


def _named_model(origin: Origin, path: Path, trust_remote_code: bool) -> PreTrainedModel:
    """The language model of a run that does not store it, with the weights that it had."""
    lm = fetched(origin.name_or_path, trust_remote_code).lm
    if digest_of(lm) != origin.sha256:
        raise CheckpointError(
            f"{path} names the language model {origin.name_or_path!r}, whose weights are others now; restore those "
            "that the run was trained with."
        )
    return lm
