"""Stage one from the corpus to a saved language autoencoder."""

from collections.abc import Mapping
from dataclasses import fields

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.latent_augmentation import Smoothing
from ld4lg_fast.data import TextDataset, TokenizedTexts, tokenize_texts
from ld4lg_fast.terminal.console import console
from ld4lg_fast.terminal.progress import duration
from ld4lg_fast.training.autoencoder_model import (
    build_from_scratch,
    learned_texts,
    learns_nothing,
    make_tokenizer,
    tokenize,
    tokenized,
)
from ld4lg_fast.training.autoencoder_stage import AutoencoderStage, finish_autoencoder, write_statistics
from ld4lg_fast.training.block_stages import BlockAutoencoderStage, block_tokens, dataset_of_blocks, not_blank
from ld4lg_fast.training.derived_options import source_limit
from ld4lg_fast.training.latent_cache import BATCH as ENCODED
from ld4lg_fast.training.latent_cache import encode_latents, encode_sources, encoding_seconds
from ld4lg_fast.training.loop import TrainingLoop
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.time_budget import StageClock

LONG_ENCODING = 0.1  # of the run's time limit, above which it is announced


def train_autoencoder(
    pretrained: LanguageAutoencoder | None,
    config: Mapping,
    dataset: TextDataset,
    session: Session,
    clock: StageClock,
) -> None:
    """Runs the stage; afterwards the run directory has ``autoencoder/`` and ``reconstruction.json``.

    Args:
        pretrained: what `load_pretrained` gave.
    """
    autoencoder = pretrained
    if autoencoder is None:
        autoencoder = build_from_scratch(config, dataset, make_tokenizer(config, dataset, session))
    documents = "context_blocks" in config["recipe"]
    if documents:
        dataset = dataset_of_blocks(dataset, autoencoder, session)
    tokens, validation = tokenize(autoencoder, dataset, session)
    write_statistics(tokens, dataset, session)
    step = 0
    if learns_nothing(config):
        autoencoder.to(session.device)
        console.print("The latents are the frozen language model's hidden states: there is nothing to train.")
    else:
        limit = clock.run.limit
        if clock.end is not None and limit is not None and session.options.stage == "all":
            seconds = session.alone(lambda: _encoding_seconds(autoencoder, tokens, dataset, config, session))
            seconds *= 3 if documents else 1  # heads and tails, too
            clock.make_room(seconds)
            if seconds > LONG_ENCODING * limit:
                console.print(f"Encoding the corpus between the stages is going to take {duration(seconds)}.")
        learned = learned_texts(config, dataset)
        if learned is not dataset.train.texts:
            tokens = tokenized(learned, autoencoder, autoencoder.max_len, session)
        shares = {field.name: config["autoencoder"].get(field.name, 0.0) for field in fields(Smoothing)}
        smoothing = Smoothing(**shares)
        if documents:
            blocks = block_tokens(dataset.train, tokens, autoencoder)
            validation = not_blank(validation, dataset.validation.texts)
            stage: AutoencoderStage = BlockAutoencoderStage(
                blocks, config["recipe"], autoencoder, validation, session, smoothing
            )
        else:
            stage = AutoencoderStage(autoencoder, tokens, validation, session, smoothing)
        step = TrainingLoop(stage, session, clock).run().step
    finish_autoencoder(autoencoder, validation, session, clock, step)


def _encoding_seconds(
    autoencoder: LanguageAutoencoder,
    tokens: TokenizedTexts,
    dataset: TextDataset,
    config: Mapping,
    session: Session,
) -> float:
    """How long the second stage is going to take before its first step."""
    autoencoder.to(session.device).eval()
    seconds = encoding_seconds(
        lambda texts: encode_latents(autoencoder, tokens, session, texts), tokens, session
    )
    limit = source_limit(config, dataset)
    if limit is not None:
        some = tokenize_texts((dataset.train.sources or [])[:ENCODED], autoencoder.tokenizer, limit)
        of_some = encoding_seconds(
            lambda texts: encode_sources(autoencoder, some, limit, session, texts), some, session
        )
        seconds += of_some * len(tokens) / len(some)
    return seconds
