"""`PlanTable`: the steps of all plans in use and their modulations, so that every row of a batch can be at another one.

Letters: S steps of a plan, T rows of the table, D model width, L blocks, B batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ld4lg_fast.diffusion.guides import Guide
from ld4lg_fast.diffusion.latent_diffusion import AnyDenoiser, LatentDiffusion
from ld4lg_fast.diffusion.schedules import SamplingGrid
from ld4lg_fast.engine.sampling_run import TABLE_ELEMENTS
from ld4lg_fast.engine.step_table import Changes, Plan, StepTable
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.brownian import MOST_STREAMS
from ld4lg_fast.models.layers import Modulation

MOST_STEPS = 1000  # of a plan; finding the coefficients of more takes a second and longer


class PlanTable:
    """Row ``place(plan, class) + k`` is step k of a plan, for one class where classes modulate.

    Its tensors never move, as captured graphs read them. Plans stay in it until `clear`.

    Args:
        denoiser: see `prepared_denoiser`. guided: whether each row also has the modulation of the null class.
        guides: that lead the samples; the table has each of them at every row.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        denoiser: AnyDenoiser,
        guided: bool,
        changes: Changes = (),
        guides: Sequence[Guide] = (),
    ) -> None:
        self.model, self.denoiser, self.guided = model, denoiser, guided
        self.config = config = denoiser.config
        device = model.latent_mean.device
        modulation = 2 * config.dim * config.depth * (2 if guided else 1)
        self.size = max(
            1, TABLE_ELEMENTS // (modulation + sum(guide.modulation[0].numel() for guide in guides))
        )
        coefficients, noise_weights, history_weights, to_x_start = (
            torch.empty(self.size, n, device=device) for n in (7, MOST_STREAMS, 2, 3)
        )
        self.steps = StepTable(
            coefficients,
            torch.empty_like(noise_weights, dtype=torch.long),
            noise_weights,
            history_weights,
            to_x_start,
            changes,
            bool(changes or guides),
            config.self_condition,
        )
        self.modulations: Modulation | None = None
        self.sources = [guide.to(device) for guide in guides]
        self.guides = [guide.of_levels(self.size) for guide in self.sources]
        self.clear()

    def clear(self) -> None:
        """Forgets all plans; no row of a batch may be at one."""
        self.used = 0
        self.places: dict[tuple[Plan, int | None], int] = {}
        self.planned: dict[Plan, tuple[SamplingGrid, StepTable]] = {}
        self.levels: dict[Plan, float] = {}

    def check(self, plan: Plan) -> None:
        """Refuses a plan with more than `MOST_STEPS`, or than there is room for, or that its sampler cannot make.

        Raises:
            ConfigError: the sentence names the number of steps.
        """
        if plan.num_steps > (most := min(self.size, MOST_STEPS)):
            raise ConfigError(f"num_inference_steps is {plan.num_steps}; it must be at most {most} here.")
        self._planned(plan)

    def place(self, plan: Plan, class_id: int | None) -> int | None:
        """The row of a plan's first step; it is computed where it is new. None if the table has no room for it."""
        key = (plan, class_id if self.config.class_modulates else None)
        if key not in self.places:
            if self.used + plan.num_steps > self.size:
                return None
            self._fill(plan, key[1])
            self.places[key] = self.used
            self.used += plan.num_steps
        return self.places[key]

    def first_level(self, plan: Plan) -> float:
        """The first noise level (alpha_sq) of a plan that has a place."""
        return self.levels[plan]

    def _planned(self, plan: Plan) -> tuple[SamplingGrid, StepTable]:
        if (known := self.planned.get(plan)) is not None:
            return known
        grid = plan.grid(self.model)
        return grid, StepTable.of(plan, grid, self.model, self.steps.changes, led=bool(self.guides))

    def _fill(self, plan: Plan, class_id: int | None) -> None:
        self.planned[plan] = grid, table = self._planned(plan)
        self.levels[plan] = grid.alpha_sq[0].item()
        rows = slice(self.used, self.used + plan.num_steps)
        self.steps.coefficients[rows] = table.coefficients
        self.steps.noise_weights[rows] = 0.0
        columns = table.noise_weights.shape[1]
        self.steps.noise_streams[rows, :columns] = table.noise_streams
        self.steps.noise_weights[rows, :columns] = table.noise_weights
        self.steps.history_weights[rows] = table.history_weights
        self.steps.to_x_start[rows] = table.to_x_start
        for source, guide in zip(self.sources, self.guides, strict=True):
            on_steps = source.on(grid.log_snr[:-1].to(source.log_snr.device))
            guide.modulation[rows], guide.temperature[rows] = on_steps.modulation, on_steps.temperature
        times = grid.network_time.to(self.model.latent_mean.device)
        self._modulate(times, class_id, self.used)
        if self.guided and class_id is not None:
            self._modulate(times, self.config.null_class, self.size + self.used)

    def _modulate(self, times: Tensor, class_id: int | None, first: int) -> None:
        classes = None if class_id is None else torch.full(times.shape, class_id, device=times.device)
        rows = self.denoiser.modulate(times, classes)
        if self.modulations is None:
            size = self.size * (2 if self.guided and class_id is not None else 1)
            table = None if rows.table is None else rows.table.new_empty(size, *rows.table.shape[1:])
            self.modulations = Modulation(rows.embedding.new_empty(size, *rows.embedding.shape[1:]), table)
        self.modulations.overwrite(rows, first)

    def modulation(self, place: Tensor) -> Modulation:
        """The modulation of a batch whose samples are at the rows ``place`` (B,); under guidance of 2B evaluations."""
        assert self.modulations is not None, "a batch has entered with a plan"
        if not self.guided:
            return self.modulations.rows(place)
        if self.config.class_modulates:
            return self.modulations.rows(torch.cat([place, place + self.size]))
        # The halves of the batch differ behind the first block alone, after the embedding has been added.
        embedding, table = self.modulations.embedding, self.modulations.table
        both = None if table is None else table.index_select(0, torch.cat([place, place]))
        return Modulation(embedding.index_select(0, place), both)
