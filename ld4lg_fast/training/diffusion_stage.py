"""Stage two: trains the denoiser on the latents of the training texts.

Letters: B texts, N latents, d latent width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import TextDataset
from ld4lg_fast.diffusion.adaptive_schedule import EVERY
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.training.conditioned_latents import ConditionedLatents, to_device
from ld4lg_fast.training.derived_options import number_of_classes, source_limit
from ld4lg_fast.training.ema import Ema
from ld4lg_fast.training.seeding import StepBatches, step_generator, step_seed
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.train_step import Part
from ld4lg_fast.training.validation import ValidationSet, print_and_keep_samples, validation_loss

NAME = "diffusion"
STATISTICS_TEXTS = 4096  # texts for the latents' mean and scale in recipe v1 (as published: one batch)


def build_denoiser(
    config: Mapping, dataset: TextDataset, autoencoder: LanguageAutoencoder
) -> LatentDiffusion:
    """A new denoiser for the autoencoder's latents."""
    torch.manual_seed(step_seed(config["seed"], NAME, "weights"))
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
        # The autoencoder may come from another run: its own setting counts, not the config's.
        perceiver = autoencoder.perceiver
        recipe["l2_normalized"] = perceiver is not None and perceiver.config.l2_normalize
        limit = source_limit(config, dataset)
        if limit is not None:
            recipe["source_max_len"] = limit
            sizes["dim_context"] = autoencoder.language_model.width
        if "context_blocks" in recipe:
            sizes["dim_context"] = sizes["dim"]
    return LatentDiffusion.create(recipe, sizes)


class DiffusionStage:
    """Denoising of cached latents on shuffled batches; see `loop.Stage`.

    Args:
        training: latents and conditioning of the training texts.
        validation: None only if `validate` is never called.
    """

    name = NAME
    has_fixed_shapes = True

    def __init__(
        self,
        model: LatentDiffusion,
        training: ConditionedLatents,
        validation: ValidationSet | None,
        session: Session,
    ) -> None:
        self.session, self.options = session, session.options.diffusion
        self.module = self.trained = model.to(session.device)
        optional = (*(f"denoiser.{name}" for name in model.denoiser.OPTIONAL), "context_encoder")
        self.skipped = [name for name, _ in model.named_parameters() if name.startswith(optional)]
        if not model.diffusion.l2_normalized:
            rows = np.arange(len(training))
            if training.lengths is not None and len(training) > STATISTICS_TEXTS:
                rows = np.linspace(0, len(training) - 1, STATISTICS_TEXTS).astype(int)
            latents = training.latents.take(rows).to(session.device)
            mask = training.mask(rows)
            model.set_statistics(latents, None if mask is None else mask.to(session.device))
        self.ema = Ema(self.module, self.options.ema_decay)
        self.warp = model.time_warp
        if self.warp is not None:
            self.has_fixed_shapes = False
            self.ema.module.time_warp = self.warp  # shared: it has no parameters
        self.training = training
        self.validation: ValidationSet = validation  # type: ignore[assignment]  # None if `validate` is never called
        self.context_drop_prob = model.recipe.get("context_drop_prob", 0.0)
        self.batches = StepBatches(len(training), self.options.batch_size, session.seed)

    def batch(self, step: int, part: Part) -> tuple:
        session, whole = self.session, self.batches[step]
        latents, conditions = self._batch_of(step, part, whole)
        # Sampled for the whole batch, so that results do not depend on the number of its parts.
        like = torch.empty(1).expand(len(whole), *latents.shape[1:])
        draws = self.module.draw(like, step_generator(session.seed, NAME, step))
        draws = draws.map(lambda t: to_device(part.of(t), session.device))
        if self.warp is not None:
            if step and step % EVERY == 0 and part.index < session.world_size:  # the first part of the batch
                self.warp.fit()
            draws = replace(draws, t=self.warp(draws.t))
        return latents, draws, conditions

    def loss(self, model: nn.Module, batch: tuple) -> Tensor:
        latents, draws, conditions = batch
        output = model(latents, draws, **conditions)
        if self.warp is not None:
            with torch.no_grad():
                missed = output.prediction.x_start.float() - self.module.normalize(latents)
                sums = self.warp.sums(draws.t, missed.square().mean(dim=(1, 2)))
                sums = self.session.accelerator.reduce(sums, "sum")
                self.warp.record(sums, 1 / self.options.micro_batches)
        return output.loss

    def _batch_of(self, step: int, part: Part, whole: Sequence[int]) -> tuple[Tensor, dict[str, Any]]:
        """The latents of ``part`` of the texts ``whole``, and their conditions."""
        latents, conditions = self.training.batch(part.of(whole), self.session.device)
        if self._drops_context(step):
            conditions |= {"context": None, "context_mask": None}
        return latents, conditions

    def _drops_context(self, step: int) -> bool:
        """Whether this step drops the sources of the whole batch, as published (golden NOTES 26)."""
        if self.training.sources is None:
            return False
        coin = torch.rand((), generator=step_generator(self.session.seed, NAME, f"{step}/context"))
        return coin.item() < self.context_drop_prob

    def validate(self, step: int) -> None:
        known = self.validation
        with self.session.accelerator.autocast():
            loss = validation_loss(self.ema.module, known.texts, self.session)
        pipe = TextDiffusionPipeline(known.autoencoder, self.ema.module, known.statistics)
        print_and_keep_samples(pipe, step, loss, known.sources, self.session)
