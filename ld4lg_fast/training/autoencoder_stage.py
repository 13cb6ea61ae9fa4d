"""Stage one: the language autoencoder learns to reconstruct texts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.latent_augmentation import NO_AUGMENTATION, Augmentation, LatentAugmentation
from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.data import TextDataset, TokenizedTexts, collate
from ld4lg_fast.models.lm_attention import use_short_attention
from ld4lg_fast.pipeline.statistics import RunStatistics
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.autoencoder_model import NAME
from ld4lg_fast.training.conditioned_latents import SourceStates, to_device
from ld4lg_fast.training.decoder_tolerance import of_as_many_as_fit, stage_one_tolerance
from ld4lg_fast.training.reconstruction import BATCH, measure_reconstruction
from ld4lg_fast.training.seeding import StepBatches, step_generator
from ld4lg_fast.training.session import Session, on_main
from ld4lg_fast.training.time_budget import StageClock
from ld4lg_fast.training.train_step import Part


def write_statistics(tokens: TokenizedTexts, dataset: TextDataset, session: Session) -> RunStatistics:
    """Writes ``statistics.json``: the training texts' token lengths and class counts."""
    statistics = RunStatistics.of_texts(
        tokens.lengths,
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
    """Teacher-forced reconstruction on length-bucketed batches; see `loop.Stage`.

    ``states``: the frozen language model's of all texts, where they are not computed in every step.
    """

    name = NAME
    ema = None
    skipped: Sequence[str] = ()
    has_fixed_shapes = False

    def __init__(
        self,
        autoencoder: LanguageAutoencoder,
        tokens: TokenizedTexts,
        validation: TokenizedTexts | Sequence[list[int]],
        session: Session,
        augmentation: LatentAugmentation = NO_AUGMENTATION,
    ) -> None:
        self.session, self.options = session, getattr(session.options, self.name)
        self.module = autoencoder.to(session.device)
        use_short_attention(autoencoder.lm, session.device)
        self.trained: nn.Module = autoencoder
        if autoencoder.trains_perceiver_alone and autoencoder.perceiver is not None:
            self.trained = autoencoder.perceiver
        self.tokens, self.validation, self.augmentation = tokens, validation, augmentation
        self.states: SourceStates | None = None
        self.batches = StepBatches(len(tokens), self.options.batch_size, session.seed, lengths=tokens.lengths)

    def batch(self, step: int, part: Part) -> tuple:
        whole = self.batches[step]
        mine = part.of(whole)
        ids, mask = self._collate([self.tokens[index] for index in mine])
        # Weights the parts by their tokens, so that the loss is the mean over all tokens of the batch.
        lengths = self.tokens.lengths
        weight = float(part.count * lengths[mine].sum() / lengths[whole].sum())
        generator = step_generator(self.session.seed, self.name, step)
        augmentation = self.augmentation_of(mine, training=True)
        states = None if self.states is None else to_device(self.states.batch(mine)[0], self.session.device)
        return weight, (ids, mask, augmentation, generator, part.index, part.count, None, None, states)

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


def finish_autoencoder(
    autoencoder: LanguageAutoencoder,
    validation: TokenizedTexts | Sequence[list[int]],
    session: Session,
    clock: StageClock,
    step: int,
) -> None:
    """Measures and prints the reconstruction quality, and saves the autoencoder."""
    result = measure_reconstruction(autoencoder, validation, session, clock.is_over)

    def tolerance_of(count: int) -> dict[str, dict]:
        return stage_one_tolerance(autoencoder, [validation[row] for row in range(count)], session.device)

    def finish() -> None:
        if result is None:
            return
        tolerance = of_as_many_as_fit(tolerance_of, len(validation), clock)
        content = {"step": step} | result.as_dict() | {"decoder_tolerance": tolerance}
        write_json(session.run.reconstruction, content)
        console.print(result.table())
        for check in tolerance["checks"]:
            console.print(f"Of the decoder, {check['line']}.")
        for original, copy in result.examples[:2]:
            console.print(f"  text           {original}", f"  reconstruction {copy}", sep="\n")
        if (warning := result.warning()) is not None:
            console.print(warning)
        with fingerprint.renewed(session.run.path):
            autoencoder.save(session.run.autoencoder)

    on_main(session.accelerator, finish)
