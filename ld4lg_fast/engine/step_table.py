"""`StepTable`: a sampler's steps as rows of coefficients, and the update from one step to the next that all runs share.

Letters: B batch, N latent positions, d latent width, S steps of a plan, T rows of a table: the steps of one plan, or of
several one after another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.samplers import get_update, step_coefficients
from ld4lg_fast.diffusion.schedules import SamplingGrid, sampling_grid
from ld4lg_fast.export.runtime.brownian import step_noise
from ld4lg_fast.kernels import ops

START_STREAM = 0  # random stream of z_T; the steps' streams are in `brownian`

Changes = Sequence[Callable[[Tensor], Tensor]]
"""Functions of x_start (B, N, d), applied one after another to what the network predicts."""


@dataclass(frozen=True)
class Plan:
    """How a sample is denoised.

    Args:
        sampler: a name in `samplers.SAMPLERS`; ``eta`` is DDIM's. spacing: of its steps, in `schedules.SPACINGS`.
        guidance_scale: w in ``w·cond + (1-w)·uncond``, in the steps that begin at times within
            ``guidance_interval`` (1 is noise, 0 is data; Kynkäänniemi et al. 2024); elsewhere w is 1.
        strength: the time of the first step, below 1 if latents to start from are given.
    """

    sampler: str
    num_steps: int
    spacing: str = "time"
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    eta: float = 0.0
    strength: float = 1.0

    def grid(self, model: LatentDiffusion) -> SamplingGrid:
        """Noise levels and times of the steps."""
        schedule = model.diffusion.schedule_for_sampling
        return sampling_grid(schedule, self.num_steps, self.spacing, model.learned_times, self.strength)

    def scales(self, grid: SamplingGrid) -> list[float]:
        """The guidance scale of each step."""
        low, high = self.guidance_interval
        return [self.guidance_scale if low <= time <= high else 1.0 for time in grid.times[:-1].tolist()]


def starting_latents(
    seed: int, sample_ids: Tensor, shape: tuple[int, int], first_level: float, start: Tensor | None
) -> Tensor:
    """z_T (B, N, d) of samples, of ``shape`` (N, d); ``start`` (B, N or more, d), normalised, is noised to
    ``first_level`` (alpha_sq), None is pure noise."""
    z = ops.philox_normal(seed, sample_ids, START_STREAM, shape)
    if start is None:
        return z
    return first_level**0.5 * start[:, : shape[0]] + (1 - first_level) ** 0.5 * z


def noise_table(plan: Plan) -> tuple[Tensor, Tensor]:
    """Streams (S, K) int64 and weights (S, K) float32 of a stochastic sampler's steps, as `ops.sampler_step` takes."""
    steps = step_noise(plan.num_steps, plan.spacing)
    columns = max(map(len, steps))
    padded = torch.tensor([step + [(0, 0.0)] * (columns - len(step)) for step in steps], dtype=torch.float64)
    streams, weights = padded.unbind(-1)
    return streams.long(), weights.float()


def signed(seed: int) -> int:
    """The 64 bits of a seed as int64."""
    return seed - 2**64 if seed >= 2**63 else seed


@dataclass(frozen=True)
class StepTable:
    """Steps as rows; a sample's row may be another one than its neighbour's.

    Args:
        coefficients: (T, 7) float32 of `ops.sampler_step`.
        noise_streams, noise_weights: (T, K) int64 and float32, the same; K is 0 if no row needs noise.
        history_weights: (T, 2), of the previous x_start and of that before it, in ``x_prev`` of `ops.sampler_step`.
        to_x_start: (T, 3), of z, the conditional and the unconditional output in the x_start that is changed.
        changes_x_start: whether guides or ``changes`` replace the network's x_start.
        self_condition: whether the network takes x_start as an input.
        has_history, looks_back, has_noise: whether any row needs the previous x_start, that before it, and noise.
    """

    coefficients: Tensor
    noise_streams: Tensor
    noise_weights: Tensor
    history_weights: Tensor
    to_x_start: Tensor
    changes: Changes
    changes_x_start: bool
    self_condition: bool
    has_history: bool = True
    looks_back: bool = True
    has_noise: bool = True

    @classmethod
    def of(
        cls, plan: Plan, grid: SamplingGrid, model: LatentDiffusion, changes: Changes, led: bool = False
    ) -> "StepTable":
        """The steps of one plan, on the model's device; ``led``: whether guides lead its samples."""
        device, options = model.latent_mean.device, {"eta": plan.eta} if plan.sampler == "ddim" else {}
        table = step_coefficients(
            get_update(plan.sampler), grid, model.diffusion.objective, plan.scales(grid), **options
        )
        to_x_start = table[:, :3].clone().to(device)
        changes_x_start = led or bool(changes)
        if changes_x_start:
            table[:, :3] = torch.tensor([0.0, 1.0, 0.0])
        has_history, has_noise, looks_back = (bool(table[:, column].any()) for column in (5, 6, 7))
        weights = torch.tensor([1.0, 0.0]).repeat(len(table), 1)
        if looks_back:
            weights = table[:, [5, 7]]
            table[:, 5] = 1.0
        none = table.new_empty(len(table), 0)
        streams, noise_weights = noise_table(plan) if has_noise else (none.long(), none)
        coefficients = table[:, :7].to(device).contiguous()
        return cls(
            coefficients,
            streams.to(device),
            noise_weights.to(device),
            weights.to(device),
            to_x_start,
            changes,
            changes_x_start,
            model.denoiser.config.self_condition,
            has_history,
            looks_back,
            has_noise,
        )

    def update(
        self,
        output: Tensor,
        z: Tensor,
        x_prev: Tensor,
        x_start: Tensor,
        step: Tensor,
        seed: Tensor,
        sample_ids: Tensor,
        first: Tensor | None = None,
        lead: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A step from the network's ``output`` (B or 2B, N, d): the next z, x_prev and x_start, and the next input.

        ``x_start`` is that of the previous step, ``x_prev`` that before it; ``lead`` are the guides, which come before
        ``changes``; the other arguments: `ops.sampler_step`.
        """
        if self.changes_x_start or self.looks_back:
            place = (step if first is None else first + step).reshape(-1)
        if self.changes_x_start:
            output = self._changed(z, output, place, lead)
        history = x_start if self.has_history else None
        if self.looks_back:
            latest, before = self.history_weights.index_select(0, place)[..., None, None].unbind(1)
            history = latest * x_start + before * x_prev
        noise: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None] = (None, None, None, None)
        if self.has_noise:
            noise = seed, sample_ids, self.noise_streams, self.noise_weights
        z, x_next, inputs = ops.sampler_step(
            output,
            z,
            history,
            self.coefficients,
            step,
            *noise,
            self.self_condition,
            first,
        )
        return z, x_start, x_next, inputs

    def _changed(
        self, z: Tensor, output: Tensor, place: Tensor, lead: Callable[[Tensor], Tensor] | None
    ) -> Tensor:
        """The guided x_start after all changes, which replaces the network's output."""
        from_z, from_cond, from_uncond = self.to_x_start.index_select(0, place)[..., None, None].unbind(1)
        cond, *uncond = output.float().split(z.shape[0])
        x_start = from_z * z + from_cond * cond
        if uncond:
            x_start = x_start + from_uncond * uncond[0]
        if lead is not None:
            x_start = lead(x_start)
        for change in self.changes:
            x_start = change(x_start)
        return x_start
