"""Stage one: the language autoencoder learns to reconstruct texts."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.latent_augmentation import NO_AUGMENTATION, Augmentation, LatentAugmentation
from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.data import TextDataset, TokenizedTexts, collate, tokenize_texts
from ld4lg_fast.models.lm_attention import set_attention, use_short_attention
from ld4lg_fast.pipeline.statistics import RunStatistics
from ld4lg_fast.terminal.console import console
from ld4lg_fast.terminal.progress import duration
from ld4lg_fast.training.autoencoder_model import (
    NAME,
    build_from_scratch,
    make_tokenizer,
    nothing_to_train,
    tokenize,
    tokenized,
    training_texts,
)
from ld4lg_fast.training.conditioned_latents import to_device
from ld4lg_fast.training.derived_options import source_limit
from ld4lg_fast.training.latent_cache import BATCH as ENCODED
from ld4lg_fast.training.latent_cache import encode_latents, encode_sources, encoding_seconds
from ld4lg_fast.training.loop import TrainingLoop
from ld4lg_fast.training.reconstruction import BATCH, measure_reconstruction
from ld4lg_fast.training.seeding import StepBatches, step_generator
from ld4lg_fast.training.session import Session, on_main
from ld4lg_fast.training.time_budget import StageClock
from ld4lg_fast.training.train_step import Part

LONG_ENCODING = 0.1  # share of the time limit above which the encoding time is announced


def write_statistics(tokens: TokenizedTexts, dataset: TextDataset, session: Session) -> RunStatistics:
    """Writes ``statistics.json``: the training texts' token lengths and class counts."""
    statistics = RunStatistics.of_texts(
        tokens.lengths.tolist(),
        dataset.train.labels,
        dataset.class_names,
        dataset.origin,
        tokens.num_truncated,
    )

    def save() -> None:
        with fingerprint.renewed(session.run.path):
            statistics.save(session.run.path)

    on_main(session.accelerator, save)
    return statistics


class AutoencoderStage:
    """Teacher-forced reconstruction on length-bucketed batches; see `loop.Stage`."""

    name = NAME
    ema = None
    skipped: Sequence[str] = ()
    has_fixed_shapes = False

    def __init__(
        self,
        autoencoder: LanguageAutoencoder,
        tokens: TokenizedTexts,
        validation: TokenizedTexts,
        session: Session,
        augmentation: LatentAugmentation = NO_AUGMENTATION,
    ) -> None:
        self.session, self.options = session, getattr(session.options, self.name)
        self.module = autoencoder.to(session.device)
        use_short_attention(autoencoder.lm, session.device)
        self.trained: nn.Module = autoencoder
        if autoencoder.freeze_lm and autoencoder.perceiver is not None:
            self.trained = autoencoder.perceiver
        self.tokens, self.validation, self.augmentation = tokens, validation, augmentation
        self.batches = StepBatches(len(tokens), self.options.batch_size, session.seed, tokens.lengths)

    def batch(self, step: int, part: Part) -> tuple:
        whole = self.batches[step]
        mine = part.of(whole)
        ids, mask = self._collate([self.tokens[index] for index in mine])
        # Weights the parts by their tokens, so that the loss is the mean over all tokens of the batch.
        lengths = self.tokens.lengths
        weight = float(part.count * lengths[mine].sum() / lengths[whole].sum())
        generator = step_generator(self.session.seed, self.name, step)
        augmentation = self.augmentation_of(mine, training=True)
        return weight, (ids, mask, augmentation, generator, part.index, part.count)

    def augmentation_of(self, rows: Sequence[int], training: bool) -> Augmentation:
        """The augmentation of the texts ``rows`` in a training or a validation step."""
        return self.augmentation if training else NO_AUGMENTATION

    def loss(self, model: nn.Module, batch: tuple) -> Tensor:
        weight, inputs = batch
        return weight * model(*inputs)

    def _collate(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        input_ids, mask = collate(ids, self.module.tokenizer.pad_token_id, max_len=self.module.max_len)
        return to_device(input_ids, self.session.device), to_device(mask, self.session.device)

    @torch.no_grad()
    def validate(self, step: int) -> None:
        self.module.eval()
        total, count = self.session.summed(*self.session.interruptible(self._validation_sums))
        seconds = round(self.session.clock.seconds(), 2)
        self.session.metrics_log.write(self.name, step, validation_loss=total / count, seconds=seconds)
        console.print(f"{self.name}, step {step}: validation loss {total / count:.4f}")

    def _validation_sums(self) -> tuple[float, int]:
        """Loss of this process's validation texts, summed over their tokens, and the number of tokens."""
        total, count = 0.0, 0
        mine = self.session.mine(range(len(self.validation)))
        for start in range(0, len(mine), BATCH):
            rows = mine[start : start + BATCH]
            ids, mask = self._collate([self.validation[i] for i in rows])
            tokens = int(mask.sum())
            unseen = self.augmentation_of(rows, training=False), step_generator(0, self.name, rows[0])
            with self.session.accelerator.autocast():
                total += tokens * self.module.loss(ids, mask, *unseen).item()
            count += tokens
        return total, count


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
    tokens, validation = tokenize(autoencoder, dataset, session)
    write_statistics(tokens, dataset, session)
    step = 0
    if nothing_to_train(config):
        autoencoder.to(session.device)
        console.print("The latents are the frozen language model's hidden states: there is nothing to train.")
    else:
        limit = clock.run.limit
        if clock.end is not None and limit is not None and session.options.stage == "all":
            seconds = session.interruptible(
                lambda: _encoding_seconds(autoencoder, tokens, dataset, config, session)
            )
            clock.make_room(seconds)
            if seconds > LONG_ENCODING * limit:
                console.print(f"Encoding the corpus between the stages is going to take {duration(seconds)}.")
        learned = training_texts(config, dataset)
        if learned is not dataset.train.texts:
            tokens = tokenized(learned, autoencoder, autoencoder.max_len, session)
        shares = {
            field.name: config["autoencoder"].get(field.name, 0.0) for field in fields(LatentAugmentation)
        }
        stage = AutoencoderStage(autoencoder, tokens, validation, session, LatentAugmentation(**shares))
        chosen = session.options.attn_implementation
        if chosen != "auto":
            set_attention(autoencoder, chosen)
        step = TrainingLoop(stage, session, clock).run().step
        if chosen != "auto":  # what follows computes in float32
            set_attention(autoencoder, "auto")
    finish_autoencoder(autoencoder, validation, session, clock, step)


def _encoding_seconds(
    autoencoder: LanguageAutoencoder,
    tokens: TokenizedTexts,
    dataset: TextDataset,
    config: Mapping,
    session: Session,
) -> float:
    """Estimated seconds that the second stage spends on encoding before its first step."""
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


def finish_autoencoder(
    autoencoder: LanguageAutoencoder,
    validation: TokenizedTexts,
    session: Session,
    clock: StageClock,
    step: int,
) -> None:
    """Measures and prints the reconstruction quality, and saves the autoencoder."""
    result = measure_reconstruction(autoencoder, validation, session, clock.is_over)

    def finish() -> None:
        if result is None:
            return
        write_json(session.run.reconstruction, {"step": step} | result.as_dict())
        console.print(result.table())
        for original, copy in result.examples[:2]:
            console.print(f"  text           {original}", f"  reconstruction {copy}", sep="\n")
        if (warning := result.warning()) is not None:
            console.print(warning)
        with fingerprint.renewed(session.run.path):
            autoencoder.save(session.run.autoencoder)

    on_main(session.accelerator, finish)
