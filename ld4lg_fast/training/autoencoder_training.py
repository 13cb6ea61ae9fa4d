"""Stage one from the corpus to a saved language autoencoder."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.latent_augmentation import LatentAugmentation
from ld4lg_fast.autoencoder.lora import merge
from ld4lg_fast.data import TextDataset, TokenizedTexts, tokenize_texts
from ld4lg_fast.models.lm_attention import set_attention
from ld4lg_fast.terminal.console import console
from ld4lg_fast.terminal.progress import duration
from ld4lg_fast.training.autoencoder_model import (
    build_from_scratch,
    make_tokenizer,
    nothing_to_train,
    tokenize,
    tokenized,
    training_texts,
)
from ld4lg_fast.training.autoencoder_stage import AutoencoderStage, finish_autoencoder, write_statistics
from ld4lg_fast.training.block_stages import BlockAutoencoderStage, block_tokens, dataset_of_blocks, not_blank
from ld4lg_fast.training.derived_options import source_limit
from ld4lg_fast.training.latent_cache import encode_latents, encode_sources, encoding_seconds
from ld4lg_fast.training.latent_shards import BATCH as ENCODED
from ld4lg_fast.training.loop import TrainingLoop
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.state_cache import chosen_states
from ld4lg_fast.training.time_budget import StageClock

LONG_ENCODING = 0.1  # share of the time limit above which the encoding time is announced


def train_autoencoder(
    pretrained: LanguageAutoencoder | None,
    config: Mapping,
    dataset: TextDataset,
    session: Session,
    clock: StageClock,
) -> None:
    """Runs the stage, which writes ``autoencoder/`` and ``reconstruction.json`` to the run directory.

    Args:
        pretrained: the result of `load_pretrained`.
    """
    autoencoder = pretrained
    if autoencoder is None:
        autoencoder = build_from_scratch(config, dataset, make_tokenizer(config, dataset, session))
    documents = "context_blocks" in config["recipe"]
    if documents:
        dataset = dataset_of_blocks(dataset, autoencoder, session)
    tokens, held_out = tokenize(autoencoder, dataset, session)
    validation: Any = held_out
    write_statistics(tokens, dataset, session)
    step = 0
    if nothing_to_train(config):
        autoencoder.to(session.device)
        console.print("The latents are the frozen language model's hidden states: there is nothing to train.")
    else:
        learned, learned_tokens = training_texts(config, dataset), tokens
        if learned is not dataset.train.texts:
            learned_tokens = tokenized(learned, autoencoder, autoencoder.max_len, session)
        shares = {
            field.name: config["autoencoder"].get(field.name, 0.0) for field in fields(LatentAugmentation)
        }
        augmentation = LatentAugmentation(**shares)
        if documents:
            blocks = block_tokens(dataset.train, tokens, autoencoder)
            validation = not_blank(validation, dataset.validation.texts)
            stage: AutoencoderStage = BlockAutoencoderStage(
                blocks, config["recipe"], autoencoder, validation, session, augmentation
            )
        else:
            stage = AutoencoderStage(autoencoder, learned_tokens, validation, session, augmentation)
        stage.states = chosen_states(config, stage, session, clock)
        limit = clock.run.limit
        if clock.end is not None and limit is not None and session.options.stage == "all":
            seconds = session.interruptible(
                lambda: _encoding_seconds(stage, tokens, dataset, config, session)
            )
            seconds *= 1 + 2 * config["recipe"].get("cut_share", 0.0)  # both parts of blocks that are cut
            clock.make_room(seconds)
            if seconds > LONG_ENCODING * limit:
                console.print(f"Encoding the corpus between the stages is going to take {duration(seconds)}.")
        chosen = session.options.attn_implementation
        if chosen != "auto":
            set_attention(autoencoder, chosen)
        step = TrainingLoop(stage, session, clock).run().step
        merge(autoencoder.lm)
        if chosen != "auto":  # what follows computes in float32
            set_attention(autoencoder, "auto")
    finish_autoencoder(autoencoder, validation, session, clock, step)


def _encoding_seconds(
    stage: AutoencoderStage,
    tokens: TokenizedTexts,
    dataset: TextDataset,
    config: Mapping,
    session: Session,
) -> float:
    """Estimated seconds that the second stage spends on encoding before its first step."""
    autoencoder = stage.module.eval()
    seconds = encoding_seconds(
        lambda texts: encode_latents(
            autoencoder, tokens, session.device, texts, stage.states, session.interrupts
        ),
        tokens,
        session,
    )
    limit = source_limit(config, dataset)
    if limit is not None:
        some = tokenize_texts((dataset.train.sources or [])[:ENCODED], autoencoder.tokenizer, limit)
        of_some = encoding_seconds(
            lambda texts: encode_sources(autoencoder, some, limit, session, texts), some, session
        )
        seconds += of_some * len(tokens) / len(some)
    return seconds
