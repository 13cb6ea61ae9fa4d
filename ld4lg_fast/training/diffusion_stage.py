"""Stage two: the denoiser learns the latents of the training texts.

Letters: B texts, N latents, d latent width.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ld4lg_fast.autoencoder import LanguageAutoencoder
from ld4lg_fast.data import ShuffledBatches, TextDataset, TokenizedTexts
from ld4lg_fast.diffusion import TrainingDraws
from ld4lg_fast.latent_diffusion import LatentDiffusion
from ld4lg_fast.pipeline import TextDiffusionPipeline
from ld4lg_fast.statistics import RunStatistics
from ld4lg_fast.training.autoencoder_stage import check_batch, tokenize, tokenize_sources, write_statistics
from ld4lg_fast.training.clock import StageClock
from ld4lg_fast.training.conditioned_latents import ConditionedLatents, SourceStates
from ld4lg_fast.training.conditions import number_of_classes, source_limit
from ld4lg_fast.training.ema import Ema
from ld4lg_fast.training.latent_cache import (
    cached_latents,
    cached_sources,
    encode_all,
    encode_all_sources,
    latents_path,
    sources_path,
)
from ld4lg_fast.training.loop import TrainingLoop
from ld4lg_fast.training.randomness import StepBatches, step_generator, step_seed
from ld4lg_fast.training.session import Session, on_main
from ld4lg_fast.training.validation import print_and_keep_samples, validation_loss

NAME = "diffusion"
STATISTICS_TEXTS = 4096  # of whose hidden states recipe v1 takes mean and scale (as published: one batch)


def build_denoiser(
    config: Mapping, dataset: TextDataset, autoencoder: LanguageAutoencoder, session: Session
) -> LatentDiffusion:
    """A new denoiser for the autoencoder's latents, as configured."""
    torch.manual_seed(step_seed(session.seed, NAME, "weights"))
    recipe = {key: value for key, value in config["recipe"].items() if key != "class_conditional"}
    sizes = dict(config["model"]["denoiser"]) | {
        "dim_latent": autoencoder.dim_latent,
        "max_len": autoencoder.num_latents,
        "num_classes": number_of_classes(config, dataset),
        "self_condition": recipe["self_condition_prob"] > 0,
    }
    if recipe["version"] == "v1":
        del sizes["num_dense_connections"]
    else:
        # What the autoencoder does decides, not what the config would have it do.
        recipe["l2_normalized"] = autoencoder.perceiver.config.l2_normalize
        limit = source_limit(config, dataset)
        if limit is not None:
            recipe["source_max_len"] = limit
            sizes["dim_context"] = autoencoder.lm.config.hidden_size
    return LatentDiffusion.create(recipe, sizes)


class DiffusionStage:
    """Denoising of cached latents on shuffled batches; see `loop.Stage`.

    Args:
        training, validation: the latents of the texts of both sets, with their conditions.
        sources: of the validation texts, for a sequence-to-sequence model.
    """

    name = NAME
    skips_parameters = True  # the learned start of the self-condition, whenever there is a self-condition

    def __init__(
        self,
        model: LatentDiffusion,
        autoencoder: LanguageAutoencoder,
        statistics: RunStatistics,
        training: ConditionedLatents,
        validation: ConditionedLatents,
        sources: Sequence[str] | None,
        session: Session,
    ) -> None:
        self.session, self.options = session, session.options.diffusion
        self.module = self.trained = model.to(session.device)
        if not model.diffusion.l2_normalized:
            rows: slice | np.ndarray = slice(None)
            if training.lengths is not None and len(training) > STATISTICS_TEXTS:
                rows = np.linspace(0, len(training) - 1, STATISTICS_TEXTS).astype(int)
            latents = torch.from_numpy(np.array(training.latents[rows], np.float32)).to(session.device)
            mask = training.mask(rows)
            model.set_statistics(latents, None if mask is None else mask.to(session.device))
        self.ema = Ema(self.module, self.options.ema_decay)
        self.pipeline = TextDiffusionPipeline(autoencoder, self.ema.module, statistics)
        self.training, self.validation, self.sources = training, validation, sources
        self.context_drop_prob = model.recipe.get("context_drop_prob", 0.0)
        check_batch(NAME, self.options.batch_size, len(training), session.world_size)
        self.batches = StepBatches(
            lambda epoch: ShuffledBatches(
                len(training), self.options.batch_size, seed=session.seed, epoch=epoch
            )
        )

    def loss(self, model: nn.Module, step: int) -> Tensor:
        session, whole = self.session, self.batches[step]
        mine = session.mine(whole)
        latents, conditions = self.training.batch(mine, session.device)
        if self._drops_context(step):
            conditions |= {"context": None, "context_mask": None}
        # Drawn for the batch of all processes, so that their number changes nothing.
        like = latents.new_empty(1).expand(len(whole), *latents.shape[1:])
        draws = self.module.draw(like, step_generator(session.seed, NAME, step))
        draws = TrainingDraws(
            t=session.mine(draws.t),
            noise=session.mine(draws.noise),
            self_condition=draws.self_condition,
            class_drop=None if draws.class_drop is None else session.mine(draws.class_drop),
        )
        return model(latents, draws, **conditions).loss

    def _drops_context(self, step: int) -> bool:
        """One coin a step for the sources of the whole batch, as published (golden NOTES 26)."""
        if self.training.sources is None:
            return False
        coin = torch.rand((), generator=step_generator(self.session.seed, NAME, f"{step}/context"))
        return coin.item() < self.context_drop_prob

    def validate(self, step: int) -> None:
        with self.session.accelerator.autocast():
            loss = validation_loss(self.ema.module, self.validation, self.session.seed)
        print_and_keep_samples(self.pipeline, step, loss, self.sources, self.session)


def _conditions(
    latents: np.ndarray,
    tokens: TokenizedTexts,
    labels: Sequence[int] | None,
    sources: SourceStates | None,
    model: LatentDiffusion,
) -> ConditionedLatents:
    return ConditionedLatents(
        latents,
        lengths=tokens.lengths if model.diffusion.discrete else None,
        labels=torch.tensor(labels[: len(latents)]) if model.denoiser.config.num_classes else None,
        sources=sources,
    )


def train_denoiser(config: Mapping, dataset: TextDataset, session: Session, clock: StageClock) -> None:
    """Runs the stage on the run directory's autoencoder; afterwards the directory has ``denoiser/``."""
    autoencoder = LanguageAutoencoder.load(session.run.autoencoder).to(session.device)
    tokens, validation_tokens = tokenize(autoencoder, dataset, session)
    statistics = write_statistics(tokens, dataset, session)
    on_main(session.accelerator, lambda: cached_latents(autoencoder, tokens, session))
    shape = (len(validation_tokens), autoencoder.num_latents, autoencoder.dim_latent)
    validation = np.empty(shape, dtype=np.float32)
    encode_all(autoencoder, validation_tokens, session, validation)
    sources, validation_sources = _source_states(config, dataset, autoencoder, session)
    model = build_denoiser(config, dataset, autoencoder, session)
    latents = np.load(latents_path(session), mmap_mode="r")
    stage = DiffusionStage(
        model,
        autoencoder,
        statistics,
        _conditions(latents, tokens, dataset.train.labels, sources, model),
        _conditions(validation, validation_tokens, dataset.validation.labels, validation_sources, model),
        dataset.validation.sources if model.is_seq2seq else None,
        session,
    )
    TrainingLoop(stage, session, clock).run()
    on_main(session.accelerator, lambda: stage.ema.module.save(session.run.denoiser))


def _source_states(
    config: Mapping, dataset: TextDataset, autoencoder: LanguageAutoencoder, session: Session
) -> tuple[SourceStates | None, SourceStates | None]:
    """Encoder states of the training sources (memory-mapped) and of the validation sources."""
    limit = source_limit(config, dataset)
    if limit is None:
        return None, None
    tokens, validation_tokens = tokenize_sources(autoencoder, dataset, limit, session)
    on_main(session.accelerator, lambda: cached_sources(autoencoder, tokens, limit, session))
    validation = np.empty((len(validation_tokens.flat), autoencoder.lm.config.hidden_size), np.float32)
    encode_all_sources(autoencoder, validation_tokens, limit, session, validation)
    training = SourceStates(np.load(sources_path(session), mmap_mode="r"), tokens.offsets)
    return training, SourceStates(validation, validation_tokens.offsets)
