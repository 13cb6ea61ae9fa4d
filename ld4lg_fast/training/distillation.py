"""Progressive distillation: one step of the student matches several DDIM steps of the teacher.

Salimans & Ho 2022, algorithm 2, with any number of teacher steps per student step instead of two.
Letters: B texts, N latents, d latent width, S steps of the student.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.process import prediction
from ld4lg_fast.errors import ConfigError, LD4LGError
from ld4lg_fast.export.runtime.similarity import words
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.training.diffusion_stage import DiffusionStage
from ld4lg_fast.training.reconstruction import exact_decoding
from ld4lg_fast.training.session import on_main
from ld4lg_fast.training.train_section import TrainOptions
from ld4lg_fast.training.train_step import Part
from ld4lg_fast.training.validation import document_tokens, validation_classes

COLLAPSE_TEXTS = 64
COLLAPSE_SHARE = 0.5  # share of the teacher's distinct texts or words below which a student has collapsed


class CollapsedError(LD4LGError):
    """The student's samples repeat each other."""


def load_teacher(options: TrainOptions) -> LatentDiffusion:
    """The denoiser of the run ``train.distill_from``.

    Raises:
        CheckpointError: the run has no denoiser.
        ConfigError: its times are discrete, or it samples on another schedule than it was trained on.
    """
    given = RunDirectory(str(options.distill_from))
    fingerprint.check(given.path)
    teacher = LatentDiffusion.load(given.denoiser)
    if teacher.diffusion.discrete or teacher.diffusion.sampling_schedule is not None:
        raise ConfigError(
            f"train.distill_from={options.distill_from} needs a model of continuous times that samples on the schedule "
            "of its training (recipe v2 or v3 with sampling_schedule=null)."
        )
    return teacher.requires_grad_(False)


def student_of(teacher: LatentDiffusion, num_steps: int) -> LatentDiffusion:
    """A trainable copy of the teacher whose recipe stores the number of steps.

    Raises:
        ConfigError: with this many steps, some start and end at the same noise level.
    """
    schedule = teacher.diffusion.schedule
    if not (schedule.alpha_sq(torch.linspace(1, 0, num_steps + 1, device="cpu")).diff() > 0).all():
        raise ConfigError(
            f"train.distill_steps={num_steps} is too many for the schedule {schedule.name}, some of whose noise levels "
            "are then the same; choose fewer."
        )
    student = copy.deepcopy(teacher).requires_grad_(True)
    student.recipe["distilled_steps"] = num_steps
    return student


def distinct_shares(texts: Sequence[str]) -> tuple[float, float]:
    """Share of distinct texts, and share of distinct words among all words."""
    written = [word for text in texts for word in words(text)]
    return len(set(texts)) / len(texts), len(set(written)) / max(1, len(written))


class DistillationStage(DiffusionStage):
    """`DiffusionStage` with the teacher's steps as the target; see `loop.Stage`."""

    has_fixed_shapes = False

    def __init__(self, teacher: LatentDiffusion, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.warp = None  # the student trains at the times of its own steps
        self.teacher = teacher.to(self.session.device)
        for model in (self.module, self.ema.module):
            model.latent_mean.copy_(teacher.latent_mean)
            model.latent_scale.copy_(teacher.latent_scale)
        options = self.session.options
        self.num_steps = options.distill_steps
        self.teacher_steps = options.distill_teacher_steps // self.num_steps  # per student step
        self._teachers_shares: tuple[float, float] | None = None

    def batch(self, step: int, part: Part) -> tuple:
        latents, draws, conditions = super().batch(step, part)
        places = (draws.t * self.num_steps).floor() + 1
        return latents, replace(draws, t=places / self.num_steps), conditions

    def loss(self, model: nn.Module, batch: tuple) -> Tensor:
        """Squared error of x_start, weighted by the signal-to-noise ratio where it is above 1."""
        latents, draws, conditions = batch
        output = model(latents, draws, **conditions)
        conditions = dict(conditions)
        if conditions["class_id"] is not None and draws.class_drop is not None:
            null = self.teacher.denoiser.config.null_class
            conditions["class_id"] = conditions["class_id"].masked_fill(draws.class_drop, null)
        target = self.target(output.z_t, draws.t, conditions)
        schedule = self.teacher.diffusion.schedule
        log_snr = schedule.log_snr(draws.t)  # type: ignore[union-attr]  # a teacher's is continuous
        weight = log_snr.exp().clamp(min=1)
        error = (output.prediction.x_start.float() - target).square().mean(dim=(1, 2))
        return (weight * error).mean()

    @torch.no_grad()
    def target(self, z_t: Tensor, t: Tensor, conditions: Mapping) -> Tensor:
        """The x_start (B, N, d) with which a DDIM step from ``z_t`` at times ``t`` (B,) gives the teacher's result."""
        schedule, objective = self.teacher.diffusion.schedule, self.teacher.diffusion.objective
        given = self.teacher.with_context(**conditions)
        z, x_start = z_t, None
        for k in range(self.teacher_steps):
            now, after = (t - (k + i) / (self.num_steps * self.teacher_steps) for i in (0, 1))
            level = schedule.alpha_sq(now)
            output = self.teacher.denoiser(z, level, x_self_cond=x_start, **given)
            pred = prediction(output.float(), z, level, objective)
            alpha, sigma = _levels(schedule.alpha_sq(after.clamp(min=0)))
            z, x_start = alpha * pred.x_start + sigma * pred.noise, pred.x_start
        before = _levels(schedule.alpha_sq(t))
        ratio = sigma / before[1]
        return (z - ratio * z_t) / (alpha - ratio * before[0])

    def validate(self, step: int) -> None:
        alarm = on_main(self.session.accelerator, lambda: self._collapse(step))
        super().validate(step)
        if alarm is not None:
            raise CollapsedError(alarm)

    def _collapse(self, step: int) -> str | None:
        """A sentence if the student's samples vary far less than the teacher's, else None; signals interrupt it."""
        with self.session.interrupts.immediately():
            if self._teachers_shares is None:
                self._teachers_shares = distinct_shares(
                    self._texts(self.teacher, self.num_steps * self.teacher_steps)
                )
            own = distinct_shares(self._texts(self.ema.module, self.num_steps))
        for kind, mine, wanted in zip(("texts", "words"), own, self._teachers_shares, strict=True):
            if mine < COLLAPSE_SHARE * wanted:
                return (
                    f"The student has collapsed: after step {step} {mine:.0%} of the {kind} in {COLLAPSE_TEXTS} of its "
                    f"samples are distinct, and {wanted:.0%} in the teacher's; try a lower "
                    "train.diffusion.learning_rate, more train.distill_steps, or fewer train.diffusion.steps."
                )
        return None

    def _texts(self, model: LatentDiffusion, num_steps: int) -> list[str]:
        known = self.validation
        pipe = TextDiffusionPipeline(known.autoencoder, model, known.statistics)
        sources = known.sources and [known.sources[i % len(known.sources)] for i in range(COLLAPSE_TEXTS)]
        return pipe(
            COLLAPSE_TEXTS,
            sampler="ddim",
            num_inference_steps=num_steps,
            class_id=validation_classes(COLLAPSE_TEXTS, model.denoiser.config.num_classes),
            source=sources,
            max_new_tokens=document_tokens(pipe),
            decoding=exact_decoding(known.autoencoder.max_len),
            seed=self.session.seed,
        ).texts


def _levels(alpha_sq: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma (B, 1, 1) of noise levels (B,)."""
    return alpha_sq.sqrt()[:, None, None], (1 - alpha_sq).sqrt()[:, None, None]
