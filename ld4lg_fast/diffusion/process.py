"""The Gaussian diffusion process: z_t, what a network may predict, and the training loss.

``z_t = alpha·x_start + sigma·noise`` with alpha² = ``alpha_sq`` and sigma² = 1 - alpha² (Lovelace et al. 2023,
eq. 1; v: Salimans & Ho 2022). Letters: B batch, N latent positions, d latent width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from ld4lg_fast.diffusion.schedules import ContinuousSchedule, DiscreteSchedule
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.models.denoiser_base import ConditionArguments, Denoiser
from ld4lg_fast.models.layers import project_to_sphere

OBJECTIVES = ("pred_noise", "pred_x0", "pred_v", "pred_flow")
WEIGHTINGS = ("none", "x_start", "min_snr")
MIN_SNR_GAMMA = 5.0  # Hang et al. 2023
LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
}


def _levels(alpha_sq: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma, float32 (float64 for a float64 ``like``), to broadcast over ``like`` (B, N, d)."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    alpha_sq = alpha_sq.reshape(-1, *[1] * (like.dim() - 1))
    return alpha_sq.sqrt().to(dtype), (1 - alpha_sq).sqrt().to(dtype)


def add_noise(x_start: Tensor, noise: Tensor, alpha_sq: Tensor) -> Tensor:
    """z_t (B, N, d) at level ``alpha_sq`` (B,) or ()."""
    alpha, sigma = _levels(alpha_sq, x_start)
    return alpha * x_start + sigma * noise


def x_start_from_noise(z_t: Tensor, noise: Tensor, alpha_sq: Tensor) -> Tensor:
    alpha, sigma = _levels(alpha_sq, z_t)
    return (z_t - sigma * noise) / alpha.clamp(min=1e-8)


def noise_from_x_start(z_t: Tensor, x_start: Tensor, alpha_sq: Tensor) -> Tensor:
    alpha, sigma = _levels(alpha_sq, z_t)
    return (z_t - alpha * x_start) / sigma.clamp(min=1e-8)


def x_start_from_v(z_t: Tensor, v: Tensor, alpha_sq: Tensor) -> Tensor:
    alpha, sigma = _levels(alpha_sq, z_t)
    return alpha * z_t - sigma * v


def noise_from_v(z_t: Tensor, v: Tensor, alpha_sq: Tensor) -> Tensor:
    alpha, sigma = _levels(alpha_sq, z_t)
    return sigma * z_t + alpha * v


def v_from_x_start_and_noise(x_start: Tensor, noise: Tensor, alpha_sq: Tensor) -> Tensor:
    alpha, sigma = _levels(alpha_sq, x_start)
    return alpha * noise - sigma * x_start


def x_start_from_flow(z_t: Tensor, flow: Tensor, alpha_sq: Tensor) -> Tensor:
    alpha, sigma = _levels(alpha_sq, z_t)
    return (z_t - sigma * flow) / (alpha + sigma)


def noise_from_flow(z_t: Tensor, flow: Tensor, alpha_sq: Tensor) -> Tensor:
    alpha, sigma = _levels(alpha_sq, z_t)
    return (z_t + alpha * flow) / (alpha + sigma)


@dataclass(frozen=True)
class Prediction:
    """One network evaluation as noise, x_start and v, each (B, N, d)."""

    noise: Tensor
    x_start: Tensor
    v: Tensor


def prediction(
    output: Tensor, z_t: Tensor, alpha_sq: Tensor, objective: str, project: bool = False
) -> Prediction:
    """Converts a network output (B, N, d) under ``objective`` to noise, x_start and v.

    ``pred_flow`` is ``noise - x_start``, the velocity of the straight path ``(1-s)·x_start + s·noise`` (Lipman et al.
    2023, Liu et al. 2023) at ``s = sigma / (alpha + sigma)``, of which ``z_t`` is a multiple. ``project``
    projects x_start to the sphere of radius √d and derives noise and v from it.
    """
    if objective == "pred_noise":
        x_start, noise = x_start_from_noise(z_t, output, alpha_sq), output
    elif objective == "pred_x0":
        x_start, noise = output, noise_from_x_start(z_t, output, alpha_sq)
    elif objective == "pred_flow":
        x_start, noise = x_start_from_flow(z_t, output, alpha_sq), noise_from_flow(z_t, output, alpha_sq)
    else:
        x_start, noise, v = x_start_from_v(z_t, output, alpha_sq), noise_from_v(z_t, output, alpha_sq), output
    if project:
        x_start = project_to_sphere(x_start)
        noise = noise_from_x_start(z_t, x_start, alpha_sq)
    if project or objective != "pred_v":
        v = v_from_x_start_and_noise(x_start, noise, alpha_sq)
    return Prediction(noise, x_start, v)


@dataclass(frozen=True)
class TrainingDraws:
    """The random numbers of one training step, so that a step can be replayed exactly.

    ``t`` (B,): float times in [0, 1], or v1's integer steps. ``noise`` (B, N, d). ``self_condition``: whether the batch
    is trained with a self-condition. ``class_drop`` (B,) bool: rows with the null class. ``self_condition_noise``
    (B, N, d) and ``self_condition_share`` (B,): noise that is mixed into the self-condition, and its variance.
    """

    t: Tensor
    noise: Tensor
    self_condition: bool
    class_drop: Tensor | None = None
    self_condition_noise: Tensor | None = None
    self_condition_share: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "TrainingDraws":
        """The same draws with ``change`` applied to every tensor."""
        tensors: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


@dataclass(frozen=True)
class LossOutput:
    loss: Tensor
    z_t: Tensor
    prediction: Prediction


@dataclass(frozen=True)
class GaussianDiffusion:
    """Objective, schedules and loss of a diffusion process.

    Args:
        objective: ``pred_v``, ``pred_x0``, ``pred_noise`` or ``pred_flow``.
        loss_type: ``l2``, ``l1`` or ``smooth_l1``.
        schedule: the training schedule; a `DiscreteSchedule` selects recipe v1's conventions: the loss is the mean over
            all positions, padded ones included, and the self-condition pass gets the class even if it is dropped.
        sampling_schedule: None means the training schedule.
        self_condition_prob: chance that a batch is trained with a self-condition (Chen et al. 2022).
        class_drop_prob: chance that a row is trained with the null class (Ho & Salimans 2022).
        l2_normalized: latents lie on the sphere of radius √d; self-conditions are projected onto it.
        loss_weighting: ``none``; ``x_start``: weights squared errors so that they equal those of x_start; ``min_snr``:
            those of x_start times min(SNR, 5) (Hang et al. 2023).
        self_condition_noise: in training a self-condition is ``√(1-s)·x̂ + √s·noise`` with s ~ U(0, this) for each
            row, which makes sampling robust to errors of early steps (conditioning augmentation, Ho et al. 2022).

    Raises:
        ConfigError: unknown objective, loss or weighting, a share outside [0, 1], or a weighted ``l1``.
    """

    objective: str = "pred_v"
    loss_type: str = "l2"
    schedule: ContinuousSchedule | DiscreteSchedule = field(default_factory=ContinuousSchedule)
    sampling_schedule: ContinuousSchedule | DiscreteSchedule | None = None
    self_condition_prob: float = 0.5
    class_drop_prob: float = 0.1
    l2_normalized: bool = False
    loss_weighting: str = "none"
    self_condition_noise: float = 0.0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"Unknown objective {self.objective!r}; choose one of {', '.join(OBJECTIVES)}.")
        if self.loss_type not in LOSSES:
            raise ConfigError(f"Unknown loss {self.loss_type!r}; choose one of {', '.join(LOSSES)}.")
        if self.loss_weighting not in WEIGHTINGS:
            raise ConfigError(
                f"Unknown loss_weighting {self.loss_weighting!r}; choose one of {', '.join(WEIGHTINGS)}."
            )
        if self.loss_weighting != "none" and self.loss_type != "l2":
            raise ConfigError(
                f"loss_weighting={self.loss_weighting} weights squared errors; it needs loss_type=l2, "
                f"not {self.loss_type}."
            )
        for name in ("self_condition_prob", "class_drop_prob", "self_condition_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1.")

    @property
    def discrete(self) -> bool:
        return isinstance(self.schedule, DiscreteSchedule)

    @property
    def schedule_for_sampling(self) -> ContinuousSchedule | DiscreteSchedule:
        return self.sampling_schedule or self.schedule

    def draw(self, x_start: Tensor, generator: torch.Generator, class_conditional: bool) -> TrainingDraws:
        """Samples times, noise and dropouts for latents (B, N, d), on the generator's device."""
        batch, device = x_start.shape[0], x_start.device
        rng: dict[str, Any] = {"generator": generator, "device": generator.device}
        if isinstance(self.schedule, DiscreteSchedule):
            t = torch.randint(self.schedule.num_train_timesteps, (batch,), **rng)
        else:
            t = torch.rand(batch, **rng)
        noise = torch.randn(x_start.shape, **rng)
        coin = torch.rand((), generator=generator, device=generator.device).item()
        drop = torch.rand(batch, **rng) < self.class_drop_prob if class_conditional else None
        draws = TrainingDraws(t, noise, coin < self.self_condition_prob, drop)
        if self.self_condition_noise and draws.self_condition:
            share = torch.rand(batch, **rng) * self.self_condition_noise
            draws = replace(
                draws,
                self_condition_noise=torch.randn(x_start.shape, **rng),
                self_condition_share=share,
            )
        return draws.map(lambda tensor: tensor.to(device))

    def loss_weights(self, alpha_sq: Tensor) -> Tensor:
        """Weights (B,) float32 of squared errors at levels ``alpha_sq`` (B,)."""
        alpha_sq = alpha_sq.double()
        sigma_sq = (1 - alpha_sq).clamp(min=1e-12)
        snr = alpha_sq / sigma_sq
        # Squared error of the objective's target as a multiple of that of x_start.
        multiple = {
            "pred_noise": snr,
            "pred_x0": torch.ones_like(snr),
            "pred_v": 1 / sigma_sq,
            "pred_flow": (alpha_sq.sqrt() + sigma_sq.sqrt()).square() / sigma_sq,
        }[self.objective]
        wanted = {
            "none": multiple,
            "x_start": torch.ones_like(snr),
            "min_snr": snr.clamp(max=MIN_SNR_GAMMA),
        }[self.loss_weighting]
        return (wanted / multiple).float()

    def training_loss(
        self,
        denoiser: Denoiser,
        x_start: Tensor,
        draws: TrainingDraws,
        **given: Unpack[ConditionArguments],
    ) -> LossOutput:
        """Denoising loss of normalised latents.

        Args:
            x_start: (B, N, d).
            given: see `ConditionArguments`; the class of rows in ``draws.class_drop`` is replaced by the null class.

        The loss is the mean over each example's first ``mask.sum()`` positions, then over the batch.
        """
        alpha_sq = self.schedule.alpha_sq(draws.t)
        time = draws.t if self.discrete else alpha_sq
        z_t = add_noise(x_start, draws.noise, alpha_sq)
        mask, class_id, null_class = given.get("mask"), given.get("class_id"), denoiser.config.null_class
        dropped_id = class_id
        if class_id is not None and draws.class_drop is not None and null_class is not None:
            dropped_id = class_id.masked_fill(draws.class_drop, null_class)
        # Both passes have the same times and, if classes are part of the modulation, the same classes.
        modulation = denoiser.modulate(time, dropped_id)
        given["class_id"] = dropped_id
        conditions = denoiser.conditions(z_t.shape[:2], **given)

        x_self_cond = None
        if denoiser.config.self_condition and draws.self_condition:
            with torch.no_grad():
                first_given, first_conditions = given, conditions
                if self.discrete:
                    first_given, first_conditions = given | {"class_id": class_id}, None
                first = denoiser(z_t, time, modulation=modulation, conditions=first_conditions, **first_given)
                x_self_cond = prediction(first, z_t, alpha_sq, self.objective, self.l2_normalized).x_start
                if draws.self_condition_noise is not None and draws.self_condition_share is not None:
                    kept = 1 - draws.self_condition_share
                    x_self_cond = add_noise(x_self_cond, draws.self_condition_noise, kept)
        output = denoiser(
            z_t, time, x_self_cond=x_self_cond, modulation=modulation, conditions=conditions, **given
        )

        target = {
            "pred_noise": draws.noise,
            "pred_x0": x_start,
            "pred_v": v_from_x_start_and_noise(x_start, draws.noise, alpha_sq),
            "pred_flow": draws.noise - x_start,
        }[self.objective]
        error = LOSSES[self.loss_type](output.float(), target, reduction="none").mean(dim=-1)
        if self.loss_weighting != "none":
            error = error * self.loss_weights(alpha_sq)[:, None]
        if self.discrete or mask is None:
            loss = error.mean()
        else:
            lengths = mask.sum(dim=1, keepdim=True)
            prefix = torch.arange(mask.shape[1], device=mask.device) < lengths
            loss = ((error * prefix).sum(dim=1) / lengths.squeeze(1)).mean()
        return LossOutput(loss, z_t, prediction(output, z_t, alpha_sq, self.objective))
