"""Stage one: the language autoencoder learns to give texts back."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from ld4lg_fast.autoencoder import LanguageAutoencoder
from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.console import console
from ld4lg_fast.data import (
    LengthBucketedBatches,
    TextDataset,
    TokenizedTexts,
    collate,
    tokenize_texts,
    train_bpe_tokenizer,
)
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.lm_attention import use_short_attention
from ld4lg_fast.smoothing import NO_SMOOTHING, Smoothing
from ld4lg_fast.statistics import RunStatistics
from ld4lg_fast.training.clock import StageClock
from ld4lg_fast.training.conditioned_latents import to_device
from ld4lg_fast.training.conditions import source_limit
from ld4lg_fast.training.learner import Part
from ld4lg_fast.training.loop import TrainingLoop
from ld4lg_fast.training.options import StageOptions
from ld4lg_fast.training.randomness import StepBatches, step_generator, step_seed
from ld4lg_fast.training.reconstruction import BATCH, measure_reconstruction
from ld4lg_fast.training.session import Session, on_main
from ld4lg_fast.weights import write_json, writing

NAME = "autoencoder"


def check_batch(stage: str, options: StageOptions, num_texts: int, world_size: int) -> None:
    """Refuses a batch that cannot be made.

    Raises:
        ConfigError: more texts a batch than there are, or not a multiple of processes and micro-batches.
    """
    batch_size, parts = options.batch_size, world_size * options.micro_batches
    option = f"train.{stage}.batch_size={batch_size}"
    if batch_size > num_texts:
        raise ConfigError(f"{option} is more than the {num_texts} training texts; choose at most that many.")
    if batch_size % parts:
        raise ConfigError(
            f"{option} cannot be dealt to {world_size} processes in {options.micro_batches} micro-batches each; "
            f"choose a multiple of {parts}."
        )


def build_autoencoder(config: Mapping, dataset: TextDataset, session: Session) -> LanguageAutoencoder:
    """A new autoencoder as configured: a pretrained language model, or one from scratch with its tokenizer.

    A resumed run uses the tokenizer that it began with.
    """
    perceiver = None if config["recipe"]["version"] == "v1" else config["model"]["perceiver"]
    max_len, longest_source = config["dataset"]["max_len"], source_limit(config, dataset) or 0
    name = config["autoencoder"]["name_or_path"]
    torch.manual_seed(step_seed(session.seed, NAME, "weights"))
    if name is not None:
        freeze = config["autoencoder"]["freeze_lm"]
        autoencoder = LanguageAutoencoder.from_pretrained_lm(name, perceiver, max_len, freeze_lm=freeze)
        limit = getattr(autoencoder.lm.config, "max_position_embeddings", None)
        if limit is not None and limit < longest_source:
            raise ConfigError(
                f"{name} handles at most {limit} tokens; lower dataset.source_max_len={longest_source}."
            )
        return autoencoder
    lm = dict(config["model"]["language_model"])
    vocab_size = lm.pop("vocab_size")
    folder = session.run.cache / "tokenizer"

    def make_tokenizer() -> None:
        if folder.exists():
            return
        tokenizer, unfinished = (
            train_bpe_tokenizer(learned_texts(config, dataset), vocab_size),
            f"{folder}.unfinished",
        )
        with writing(folder):
            tokenizer.save_pretrained(unfinished)
            os.replace(unfinished, folder)

    on_main(session.accelerator, make_tokenizer)
    tokenizer, longest = AutoTokenizer.from_pretrained(folder, trust_remote_code=False), max(max_len, longest_source)
    return LanguageAutoencoder.from_scratch(tokenizer, lm, perceiver, max_len, max_positions=longest)


def learned_texts(config: Mapping, dataset: TextDataset) -> list[str]:
    """What the autoencoder learns: the training texts, and from scratch also the sources."""
    from_scratch = config["autoencoder"]["name_or_path"] is None
    if from_scratch and source_limit(config, dataset) is not None:
        return dataset.train.texts + dataset.train.sources
    return dataset.train.texts


def tokenize(
    autoencoder: LanguageAutoencoder, dataset: TextDataset, session: Session
) -> tuple[TokenizedTexts, TokenizedTexts]:
    """Training and validation texts as token ids, the latter only as many as are validated on."""

    arguments = (autoencoder.tokenizer, autoencoder.max_len, session.run.cache)
    validation = dataset.validation.texts[: session.options.validation_texts]
    # The others then read the main process's cache.
    with session.accelerator.main_process_first():
        return tokenize_texts(dataset.train.texts, *arguments), tokenize_texts(validation, *arguments)


def tokenize_sources(
    autoencoder: LanguageAutoencoder, dataset: TextDataset, max_len: int, session: Session
) -> tuple[TokenizedTexts, TokenizedTexts]:
    """`tokenize` for the source texts of both sets, cut to ``max_len`` tokens."""
    arguments = (autoencoder.tokenizer, max_len, session.run.cache)
    validation = dataset.validation.sources[: session.options.validation_texts]
    with session.accelerator.main_process_first():
        return tokenize_texts(dataset.train.sources, *arguments), tokenize_texts(validation, *arguments)


def write_statistics(tokens: TokenizedTexts, dataset: TextDataset, session: Session) -> RunStatistics:
    """``statistics.json``: how long the training texts are, and how many each class has."""
    statistics = RunStatistics.of_texts(
        tokens.lengths.tolist(),
        dataset.train.labels,
        dataset.class_names,
        dataset.origin,
        tokens.num_truncated,
    )
    if session.accelerator.is_main_process:
        with fingerprint.renewed(session.run.path):
            statistics.save(session.run.path)
    return statistics


class AutoencoderStage:
    """Teacher-forced reconstruction on batches of texts of like length; see `loop.Stage`."""

    name = NAME
    ema = None
    skipped: Sequence[str] = ()
    has_fixed_shapes = False

    def __init__(
        self,
        autoencoder: LanguageAutoencoder,
        tokens: TokenizedTexts,
        validation: Sequence[list[int]],
        session: Session,
        smoothing: Smoothing = NO_SMOOTHING,
    ) -> None:
        self.session, self.options = session, getattr(session.options, self.name)
        self.module = autoencoder.to(session.device)
        use_short_attention(autoencoder.lm, session.device)
        self.trained: nn.Module = autoencoder.perceiver if autoencoder.freeze_lm else autoencoder
        self.tokens, self.validation, self.smoothing = tokens, validation, smoothing
        check_batch(self.name, self.options, len(tokens), session.world_size)
        lengths = tokens.lengths
        self.batches = StepBatches(
            lambda epoch: LengthBucketedBatches(
                lengths, self.options.batch_size, seed=session.seed, epoch=epoch
            )
        )

    def batch(self, step: int, part: Part) -> tuple:
        whole = self.batches[step]
        mine = part.of(whole)
        ids, mask = self._collate([self.tokens[index] for index in mine])
        # The mean over the tokens of all parts, though each has texts of other lengths.
        lengths = self.tokens.lengths
        weight = float(part.count * lengths[mine].sum() / lengths[whole].sum())
        generator = step_generator(self.session.seed, self.name, step)
        smoothing = self.smoothing_of(mine, training=True)
        return weight, (ids, mask, smoothing, generator, part.index, part.count)

    def smoothing_of(self, rows: Sequence[int], training: bool) -> Smoothing:
        """What the latents of those texts go through, in a step of training or of validation."""
        return self.smoothing if training else NO_SMOOTHING

    def loss(self, model: nn.Module, batch: tuple) -> Tensor:
        weight, inputs = batch
        return weight * model(*inputs)

    def _collate(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        ids, mask = collate(ids, self.module.tokenizer.pad_token_id, max_len=self.module.max_len)
        return to_device(ids, self.session.device), to_device(mask, self.session.device)

    @torch.no_grad()
    def validate(self, step: int) -> None:
        self.module.eval()
        total, count = 0.0, 0
        mine = self.session.mine(range(len(self.validation)))
        for start in range(0, len(mine), BATCH):
            rows = mine[start : start + BATCH]
            ids, mask = self._collate([self.validation[i] for i in rows])
            tokens = int(mask.sum())
            unseen = self.smoothing_of(rows, training=False), step_generator(0, self.name, rows[0])
            with self.session.accelerator.autocast():
                total += tokens * self.module.loss(ids, mask, *unseen).item()
            count += tokens
        total, count = self.session.summed(total, count)
        loss = total / count
        seconds = round(self.session.clock.seconds(), 2)
        self.session.journal.write(self.name, step, validation_loss=loss, seconds=seconds)
        console.print(f"{self.name}, step {step}: validation loss {loss:.4f}", highlight=False)


def train_autoencoder(config: Mapping, dataset: TextDataset, session: Session, clock: StageClock) -> None:
    """Runs the stage; afterwards the run directory has ``autoencoder/`` and ``reconstruction.json``."""
    autoencoder = build_autoencoder(config, dataset, session)
    tokens, validation = tokenize(autoencoder, dataset, session)
    write_statistics(tokens, dataset, session)
    step = 0
    if autoencoder.freeze_lm and autoencoder.perceiver is None:
        autoencoder.to(session.device)
        console.print("The latents are the frozen language model's hidden states: there is nothing to train.")
    else:
        learned = learned_texts(config, dataset)
        if learned is not dataset.train.texts:
            with session.accelerator.main_process_first():
                tokens = tokenize_texts(
                    learned, autoencoder.tokenizer, autoencoder.max_len, session.run.cache
                )
        shares = {field.name: config["autoencoder"].get(field.name, 0.0) for field in fields(Smoothing)}
        stage = AutoencoderStage(autoencoder, tokens, validation, session, Smoothing(**shares))
        step = TrainingLoop(stage, session, clock).run().step
    finish_autoencoder(autoencoder, validation, session, clock, step)


def finish_autoencoder(
    autoencoder: LanguageAutoencoder,
    validation: TokenizedTexts,
    session: Session,
    clock: StageClock,
    step: int,
) -> None:
    """Measures how well texts are given back, prints it, and saves the autoencoder."""
    result = measure_reconstruction(autoencoder, validation, session, clock.is_over)

    def finish() -> None:
        write_json(session.run.reconstruction, {"step": step} | result.as_dict())
        console.print(result.table())
        for original, copy in result.examples[:2]:
            console.print(
                f"  text           {original}\n  reconstruction {copy}", markup=False, highlight=False
            )
        if (warning := result.warning()) is not None:
            console.print(warning, highlight=False)
        with fingerprint.renewed(session.run.path):
            autoencoder.save(session.run.autoencoder)

    on_main(session.accelerator, finish)
