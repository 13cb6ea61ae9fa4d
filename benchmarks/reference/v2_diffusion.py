"""The official release's diffusion process: predictions, training loss, the three samplers.

Letters: B batch, N latent positions, M context length, d latent width, S sampling steps.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference import v2_schedules as schedules

LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}


@dataclass(frozen=True)
class Prediction:
    """One evaluation in all views, each (B, N, d); no v where the network predicts noise."""

    noise: Tensor
    x_start: Tensor
    v: Tensor | None


@dataclass(frozen=True)
class Loss:
    """A training step's loss and what led to it; ``class_id`` are the ids after dropping."""

    loss: Tensor
    z_t: Tensor
    x_start: Tensor
    x_self_cond: Tensor | None
    class_id: Tensor | None


def on_sphere(x: Tensor) -> Tensor:
    """Every vector scaled to norm √d."""
    return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5


def ddim_step(z_t: Tensor, pred: Prediction, alpha: Tensor, alpha_next: Tensor, noise: None) -> Tensor:
    return alpha_next.sqrt() * pred.x_start + (1 - alpha_next).sqrt() * pred.noise


def ddpm_step(z_t: Tensor, pred: Prediction, alpha: Tensor, alpha_next: Tensor, noise: Tensor) -> Tensor:
    ratio = alpha / alpha_next
    mean = (z_t - (1 - ratio) / (1 - alpha).sqrt() * pred.noise) / ratio.sqrt()
    return mean + (1 - ratio).sqrt() * noise


def dpmpp_step(z_t: Tensor, pred: Prediction, alpha: Tensor, alpha_next: Tensor, noise: None) -> Tensor:
    """First order: the history of the second-order branch is never filled."""
    half_log_snr, half_log_snr_next = (0.5 * torch.log(a / (1 - a)) for a in (alpha, alpha_next))
    sigma_ratio = (1 - alpha_next).sqrt() / (1 - alpha).sqrt()
    growth = torch.expm1(half_log_snr - half_log_snr_next)
    return sigma_ratio * z_t - alpha_next.sqrt() * growth * pred.x_start


STEPS = {"ddim": ddim_step, "ddpm": ddpm_step, "dpmpp": dpmpp_step}


class GaussianDiffusion(nn.Module):
    """Trains and samples a denoiser; the arguments carry the release's own names.

    Args:
        model: called as ``model(x, mask, time, x_self_cond, class_id, seq2seq_cond, seq2seq_mask)``.
        l2_normalize: latents are l2-normalised, so training projects the self-condition.
        using_latent_model: all positions are real and lengths are ignored.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_seq_len: int,
        sampling_timesteps: int = 250,
        objective: str = "pred_v",
        loss_type: str = "l2",
        sampler: str = "ddpm",
        train_schedule: str = "cosine",
        sampling_schedule: str | None = None,
        scale: float = 1.0,
        train_prob_self_cond: float = 0.5,
        l2_normalize: bool = False,
        using_latent_model: bool = True,
    ) -> None:
        super().__init__()
        self.diffusion_model = model
        self.max_seq_len, self.sampling_timesteps = max_seq_len, sampling_timesteps
        self.objective, self.loss_type, self.sampler = objective, loss_type, sampler
        self.train_schedule, self.sampling_schedule = train_schedule, sampling_schedule or train_schedule
        self.scale, self.train_prob_self_cond = scale, train_prob_self_cond
        self.l2_normalize, self.using_latent_model = l2_normalize, using_latent_model
        self.register_buffer("latent_mean", torch.zeros(model.latent_dim))
        self.register_buffer("latent_scale", torch.ones(()))

    def alpha(self, t: Tensor, sampling: bool = False) -> Tensor:
        """Squared signal level at times t, under the training or the sampling schedule."""
        name = self.sampling_schedule if sampling else self.train_schedule
        return schedules.alpha_at(name, t, self.scale)

    def normalize_latent(self, x: Tensor) -> Tensor:
        return (x - self.latent_mean) / self.latent_scale.clamp(min=1e-5)

    def unnormalize_latent(self, x: Tensor) -> Tensor:
        return x * self.latent_scale.clamp(min=1e-5) + self.latent_mean

    def model_predictions(
        self,
        z_t: Tensor,
        mask: Tensor,
        t: Tensor,
        *,
        x_self_cond: Tensor | None = None,
        class_id: Tensor | None = None,
        seq2seq_cond: Tensor | None = None,
        seq2seq_mask: Tensor | None = None,
        sampling: bool = False,
        cls_free_guidance: float = 1.0,
        l2_normalize: bool = False,
    ) -> Prediction:
        """Runs the network at times t (B,), twice where guidance differs from 1, and reads its output."""
        level = self.alpha(t, sampling)
        output = self.diffusion_model(z_t, mask, level, x_self_cond, class_id, seq2seq_cond, seq2seq_mask)
        if cls_free_guidance != 1.0:
            null = None if class_id is None else torch.full_like(class_id, self.diffusion_model.num_classes)
            unconditional = self.diffusion_model(z_t, mask, level, x_self_cond, null, None, None)
            output = cls_free_guidance * output + (1 - cls_free_guidance) * unconditional

        alpha, v = level[:, None, None], None
        if self.objective == "pred_noise":
            noise, x_start = output, schedules.start_from_noise(z_t, output, alpha)
        elif self.objective == "pred_x0":
            x_start, noise = output, schedules.noise_from_start(z_t, output, alpha)
            v = schedules.v_from_start_and_noise(x_start, noise, alpha)
        elif self.objective == "pred_v":
            v = output
            x_start, noise = schedules.start_from_v(z_t, v, alpha), schedules.noise_from_v(z_t, v, alpha)
        else:
            raise ValueError(f"unknown objective {self.objective!r}")
        if l2_normalize:
            x_start = on_sphere(x_start)
            noise = schedules.noise_from_start(z_t, x_start, alpha)
            v = schedules.v_from_start_and_noise(x_start, noise, alpha)
        return Prediction(noise, x_start, v)

    def forward(
        self,
        txt_latent: Tensor,
        mask: Tensor,
        class_id: Tensor | None = None,
        seq2seq_cond: Tensor | None = None,
        seq2seq_mask: Tensor | None = None,
        *,
        times: Tensor | None = None,
        noise: Tensor | None = None,
        coin: float | None = None,
        class_drop: Tensor | None = None,
    ) -> Loss:
        """Training loss of latents (B, N, d); what is not given (times, noise, coin, class_drop) is drawn.

        Per example the mean over its first ``mask.sum()`` positions, then the mean over the batch.
        ``class_id`` (B,) is overwritten where a class is dropped, as published.
        """
        model, batch = self.diffusion_model, txt_latent.shape[0]
        times = torch.rand(batch, device=txt_latent.device) if times is None else times
        noise = torch.randn_like(txt_latent) if noise is None else noise
        alpha = self.alpha(times)[:, None, None]
        z_t = alpha.sqrt() * txt_latent + (1 - alpha).sqrt() * noise
        if class_id is not None:
            if class_drop is None:
                class_drop = torch.rand(batch, device=class_id.device) < model.class_unconditional_prob
            class_id[class_drop] = model.num_classes
        conditions = {"class_id": class_id, "seq2seq_cond": seq2seq_cond, "seq2seq_mask": seq2seq_mask}

        x_self_cond = None
        if model.self_condition and coin is None:
            coin = random.random()
        if model.self_condition and coin < self.train_prob_self_cond:
            with torch.no_grad():
                x_self_cond = self.model_predictions(z_t, mask, times, **conditions).x_start
                if self.l2_normalize:
                    x_self_cond = on_sphere(x_self_cond)
        pred = self.model_predictions(z_t, mask, times, x_self_cond=x_self_cond, **conditions)

        if self.objective == "pred_noise":
            target, output = noise, pred.noise
        elif self.objective == "pred_x0":
            target, output = txt_latent, pred.x_start
        else:
            target, output = schedules.v_from_start_and_noise(txt_latent, noise, alpha), pred.v
        error = LOSSES[self.loss_type](output, target, reduction="none")
        lengths = mask.sum(dim=1).tolist()
        loss = torch.stack([row[:length].mean() for row, length in zip(error, lengths, strict=True)]).mean()
        return Loss(loss, z_t, pred.x_start, x_self_cond, class_id)

    def mask_for(self, batch: int, lengths: Sequence[int] | None, device: torch.device | str) -> Tensor:
        """(B, N) bool, True = keep."""
        mask = torch.ones((batch, self.max_seq_len), dtype=torch.bool, device=device)
        if not self.using_latent_model:
            for row, length in enumerate(lengths):
                mask[row, length:] = False
        return mask

    @torch.no_grad()
    def sample(
        self,
        batch: int,
        lengths: Sequence[int] | None = None,
        class_id: Tensor | None = None,
        seq2seq_cond: Tensor | None = None,
        seq2seq_mask: Tensor | None = None,
        *,
        cls_free_guidance: float = 1.0,
        l2_normalize: bool = False,
        z_start: Tensor | None = None,
        noise: Tensor | None = None,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor | None:
        """A whole run from noise to latents (B, N, d), still normalised.

        Args:
            z_start, noise: recorded draws, (B, N, d) and (S-1, B, N, d); drawn by torch where absent.
            callback: called with (step, latent after it, x_start predicted in it).

        As published, ``dpmpp`` returns the x_start of the last step but one (None when there is only one).
        """
        device = self.latent_mean.device
        shape = (batch, self.max_seq_len, self.diffusion_model.latent_dim)
        mask = self.mask_for(batch, lengths, device)
        z_t = torch.randn(shape, device=device) if z_start is None else z_start
        update, x_start = STEPS[self.sampler], None
        for step, (time, time_next) in enumerate(schedules.time_pairs(self.sampling_timesteps, device)):
            time, time_next = time.expand(batch), time_next.expand(batch)
            previous = x_start
            pred = self.model_predictions(
                z_t,
                mask,
                time,
                x_self_cond=previous,
                class_id=class_id,
                seq2seq_cond=seq2seq_cond,
                seq2seq_mask=seq2seq_mask,
                sampling=True,
                cls_free_guidance=cls_free_guidance,
                l2_normalize=l2_normalize,
            )
            x_start = pred.x_start
            if step + 1 == self.sampling_timesteps:
                z_t = previous if self.sampler == "dpmpp" else x_start
            else:
                alpha, alpha_next = (self.alpha(t, sampling=True)[:, None, None] for t in (time, time_next))
                fresh = None
                if self.sampler == "ddpm":
                    fresh = torch.randn_like(z_t) if noise is None else noise[step]
                z_t = update(z_t, pred, alpha, alpha_next, fresh)
            if callback is not None:
                callback(step, z_t, x_start)
        return z_t
