"""`SamplingRun`: the fast loop over a sampler's steps; what all steps share is computed once for all batches.

It computes what `samplers.sample` does. Letters: B batch, N latent positions, d latent width,
D model width, L blocks, S sampling steps, C classes that occur in the run.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from ld4lg_fast.diffusion.guides import GuideTargets
from ld4lg_fast.diffusion.latent_diffusion import AnyDenoiser, LatentDiffusion
from ld4lg_fast.engine.cuda_graphs import GraphedSteps
from ld4lg_fast.engine.step_table import Plan, StepTable, signed, starting_latents
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.models.denoiser_base import ConditionArguments
from ld4lg_fast.models.layers import Modulation, project_to_sphere
from ld4lg_fast.options.checks import check_floats

TABLE_ELEMENTS = 2**26  # of the table of modulations, at most


class StepModulations:
    """Table of the `Modulation` of every step and class, computed in chunks of at most `TABLE_ELEMENTS`."""

    def __init__(self, denoiser: AnyDenoiser, times: Tensor, classes: Tensor | None) -> None:
        """``times`` (S,): the network's time inputs; ``classes`` (C,) if classes modulate, else None."""
        self.denoiser, self.times, self.classes = denoiser, times, classes
        self.num_classes = 1 if classes is None else len(classes)
        per_step = self.num_classes * 2 * denoiser.config.dim * denoiser.config.depth
        self.steps_at_once = max(1, TABLE_ELEMENTS // per_step)
        self.filled: int | None = None
        self.first: Tensor = times.new_zeros((), dtype=torch.long)
        self.rows: Modulation

    def fill(self, step: int) -> None:
        """Computes the chunk that contains ``step``, unless it is there."""
        first = step - step % self.steps_at_once
        if first == self.filled:
            return
        times = self.times[first : first + self.steps_at_once]
        ids = None if self.classes is None else self.classes.repeat(len(times))
        rows = self.denoiser.modulate(times.repeat_interleave(self.num_classes), ids)
        if self.filled is None:
            self.rows = rows
        else:  # in place, as a captured graph reads this memory
            self.rows.overwrite(rows)
        self.first.fill_(first)
        self.filled = first

    def at(self, step: Tensor, class_index: Tensor) -> Modulation:
        """Rows of a step () for indices (R,) into ``classes``."""
        return self.rows.rows((step - self.first) * self.num_classes + class_index)


def _steered(steer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``steer`` with a check of the type and shape of its result, which does not synchronize with the GPU.

    Raises:
        ConfigError: on the call, if the result is not latents of the same shape and device.
    """

    def steered(x_start: Tensor) -> Tensor:
        led = steer(x_start)
        wanted = f"latents of the shape {tuple(x_start.shape)}, in floating point, on {x_start.device}"
        if not isinstance(led, Tensor):
            raise ConfigError(f"steer gave {shown(led)}; it must give {wanted}.")
        check_floats("What steer gave", led)
        if led.shape != x_start.shape or led.device != x_start.device:
            raise ConfigError(
                f"steer gave a tensor {tuple(led.shape)} on {led.device}; it must give {wanted}."
            )
        return led.to(x_start.dtype)

    return steered


class SamplingRun:
    """A sampler's steps for one model: ``run(sample_ids, …) -> latents`` for each batch.

    Args:
        plan: the sampler and its steps.
        classes: (C,) all class ids that occur in batches; None for a model without classes.
        denoiser: see `prepared_denoiser`; None is the model's own.
        guides, project, steer, cuda_graph: see `engine.sample_batches`; guides come before ``steer``, and ``steer``
            before ``project``. The targets of ``guides`` come with each batch.

    Raises:
        ConfigError: a CUDA graph on another device than a GPU.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        plan: Plan,
        *,
        seed: int,
        classes: Tensor | None = None,
        guides: GuideTargets | None = None,
        project: bool = False,
        steer: Callable[[Tensor], Tensor] | None = None,
        denoiser: AnyDenoiser | None = None,
        cuda_graph: bool | None = None,
    ) -> None:
        self.denoiser, self.seed = denoiser or model.denoiser, seed
        changes = (None if steer is None else _steered(steer), project_to_sphere if project else None)
        self.config = config = model.denoiser.config
        self.device = model.latent_mean.device
        on_gpu = self.device.type == "cuda"
        if cuda_graph and not on_gpu:
            raise ConfigError(f"cuda_graph=true needs a GPU, not {self.device.type}; leave it out.")
        self.cuda_graph = on_gpu if cuda_graph is None else cuda_graph
        grid = plan.grid(model)
        self.first_level = grid.alpha_sq[0].item()
        self.guided = [scale != 1.0 for scale in plan.scales(grid)]
        self.guides = () if guides is None else guides.on(grid.log_snr[:-1].to(self.device)).guides
        self.table = StepTable.of(
            plan, grid, model, [change for change in changes if change is not None], led=guides is not None
        )
        self.deterministic = model.deterministic
        self.steps = torch.arange(plan.num_steps, device=self.device)
        self.seed_tensor = torch.tensor(signed(seed), device=self.device)
        self.classes = None
        if config.class_modulates and classes is not None:
            null = classes.new_tensor([config.null_class])
            self.classes = torch.cat([classes, null]).unique()
        self.modulations = StepModulations(self.denoiser, grid.network_time.to(self.device), self.classes)

    @torch.inference_mode()
    def __call__(
        self,
        sample_ids: Tensor,
        *,
        class_id: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        lengths: Tensor | None = None,
        guides: GuideTargets | None = None,
        start: Tensor | None = None,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Normalised latents (B, N, d) float32 of the samples ``sample_ids`` (B,).

        Conditions and ``guides`` as in `engine.sample_latents`, a row for each sample, and ``start``
        (B, N or more, d) normalised.
        With ``lengths`` N is the longest one; rows are zero beyond their length. ``callback(step, x_start)`` is called
        after every step.
        """
        batch = len(sample_ids)
        length, mask = self.config.max_len, None
        if lengths is not None:
            # Padding moves the class token, which is the last key, to another lane of a sum.
            length = length if self.deterministic else int(lengths.max())
            if int(lengths.min()) < length:
                mask = torch.arange(length, device=self.device) < lengths[:, None]
        conditions = self._conditions(
            (batch, length), mask=mask, class_id=class_id, context=context, context_mask=context_mask
        )
        shape = (length, self.config.dim_latent)
        z = starting_latents(self.seed, sample_ids, shape, self.first_level, start)
        guides = (
            None if guides is None else replace(guides, guides=self.guides, one_by_one=self.deterministic)
        )

        def advance(
            guided: bool, step: Tensor, z: Tensor, x_prev: Tensor, x_start: Tensor, inputs: Tensor
        ) -> tuple[Tensor, ...]:
            shared, class_index = conditions[guided]
            output = self.denoiser.run_blocks(inputs, self.modulations.at(step, class_index), shared)
            lead = None if guides is None else partial(guides.lead, level=step, mask=mask)
            return self.table.update(
                output, z, x_prev, x_start, step, self.seed_tensor, sample_ids, lead=lead
            )

        run = GraphedSteps(advance) if self.cuda_graph else advance
        zeros = torch.zeros_like(z)
        state: tuple[Tensor, ...] = (z, zeros, zeros, self.denoiser.network_input(z, None))
        for k, step in enumerate(self.steps):
            self.modulations.fill(k)
            state = run(self.guided[k], step, *state)
            if callback is not None:
                callback(k, state[2].clone() if self.cuda_graph else state[2])
        z = state[0]
        return z if mask is None else z.masked_fill(~mask[..., None], 0.0)

    def _conditions(
        self,
        shape: tuple[int, int],
        **given: Unpack[ConditionArguments],
    ) -> dict[bool, tuple]:
        """The denoiser's conditions and indices into ``classes``, for guided and unguided steps as needed."""
        found, class_id = {}, given.get("class_id")
        for guided in set(self.guided):
            ids = class_id
            if guided and class_id is not None:
                ids = torch.cat([class_id, torch.full_like(class_id, self.config.num_classes)])
            index = self.steps.new_zeros(1)
            if self.classes is not None:
                index = torch.searchsorted(self.classes, ids)  # type: ignore[arg-type]  # classes come with ids
            conditions = self.denoiser.conditions(shape, guided=guided, **given | {"class_id": ids})
            found[guided] = (conditions, index)
        return found
