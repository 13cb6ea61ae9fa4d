"""`RunningBatch`: samples that are denoised together, each at its own step; they enter and leave between two steps.

A sample's plan, seed, conditions and length are its own. In float32 it is, up to the rounding of matmuls whose kernel
depends on the batch size, the sample that `SamplingRun` gives alone: no operation mixes rows.

Letters: B samples, N latent positions, d latent width, M context length.
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.diffusion.guides import Guide, GuideTargets
from ld4lg_fast.diffusion.latent_diffusion import AnyDenoiser, LatentDiffusion
from ld4lg_fast.engine.batch_rows import LATENTS, Rows, joined
from ld4lg_fast.engine.bucket_graphs import BucketGraphs
from ld4lg_fast.engine.gpu_settings import gpu_settings
from ld4lg_fast.engine.packed_weights import prepared_denoiser
from ld4lg_fast.engine.plan_table import PlanTable
from ld4lg_fast.engine.step_table import Plan, signed, starting_latents
from ld4lg_fast.models.layers import project_to_sphere

Key = TypeVar("Key", bound=Hashable)


class RunningBatch(Generic[Key]):
    """Samples that are all guided or all not, and all led by guides or all not, by the caller's ``key`` of each.

    Args:
        denoiser: see `prepared_denoiser`.
        guided: whether the samples have a guidance scale other than 1, and two evaluations a step.
        capacity: the most samples on a GPU, where a graph is captured for each bucket of batch sizes up to it.
        project: whether every x_start is projected to the sphere of l2-normalised latents.
        cuda_graph: whether steps are captured and replayed.
        guides: that lead the samples; with none of them, samples have no targets.
        beside: another batch of the same options, whose table of plans this one shares.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        denoiser: AnyDenoiser,
        *,
        guided: bool,
        capacity: int,
        project: bool = False,
        cuda_graph: bool = False,
        guides: Sequence[Guide] = (),
        beside: "RunningBatch[Key] | None" = None,
    ) -> None:
        self.model, self.denoiser, self.guided = model, denoiser, guided
        self.config: Any = model.denoiser.config
        self.device = model.latent_mean.device
        self.sharing: list[RunningBatch[Key]] = [self] if beside is None else beside.sharing
        if beside is None:
            self.table = PlanTable(model, denoiser, guided, [project_to_sphere] if project else [], guides)
        else:
            self.table = beside.table
            self.sharing.append(self)
        self.keys: list[Key] = []
        self.steps_left: list[int] = []
        self.rows: Rows | None = None
        self.entered: list[Rows] = []
        self.conditions: tuple[Rows, Any] | None = None
        self.graphs = BucketGraphs(self._evaluated, self._conditions, capacity) if cuda_graph else None

    def __len__(self) -> int:
        return len(self.keys)

    @torch.inference_mode()
    def make_room(self, plan: Plan, class_id: int | None = None) -> bool:
        """Whether samples of that plan and class may enter; computes the steps of one that is new. False if their table
        has no room beside those of the samples that are running."""
        if self.table.place(plan, class_id) is None and not any(batch.keys for batch in self.sharing):
            self.table.clear()
        return self.table.place(plan, class_id) is not None

    @torch.inference_mode()
    def enter(
        self,
        keys: Sequence[Key],
        plan: Plan,
        *,
        seed: int,
        sample_ids: Tensor,
        class_id: int | None = None,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        start: Tensor | None = None,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Adds samples of one plan and class for which there is room (`make_room`); their first step is the next one.

        Other conditions have a row for each sample, as in `engine.sample_batches`; ``start`` is normalised. ``targets``
        and ``weights`` (B, G) are those of the batch's guides.
        """
        place = self.table.place(plan, class_id)
        assert place is not None, "make_room has been asked"
        whole = self.graphs is not None or self.model.deterministic
        length = self.config.max_len if lengths is None or whole else int(lengths.max())
        shape = (length, self.config.dim_latent)
        z = starting_latents(seed, sample_ids, shape, self.table.first_level(plan), start)
        zeros = torch.zeros_like(z)

        def filled(value: int) -> Tensor:
            return torch.full((len(keys),), value, device=self.device)

        if context is not None and context_mask is None:
            context_mask = torch.ones(context.shape[:2], dtype=torch.bool, device=self.device)
        rows = Rows(
            z,
            zeros,
            zeros,
            self.denoiser.network_input(z, None),
            step=filled(0),
            last=filled(plan.num_steps - 1),
            first=filled(place),
            seed=filled(signed(seed)),
            sample_ids=sample_ids,
            class_id=None if class_id is None else filled(class_id),
            lengths=lengths,
            context=context,
            context_mask=None if context_mask is None else context_mask.bool(),
            targets=targets,
            weights=weights,
        )
        self.entered.append(rows.padded(length, self._most_columns) if self.graphs else rows)
        self.keys += keys
        self.steps_left += [plan.num_steps] * len(keys)

    @torch.inference_mode()
    def advance(self) -> None:
        """One step of every sample."""
        parts = self._parts()
        # Recipe v1 starts without a self-condition: those that have just entered are evaluated by themselves.
        widths = list(dict.fromkeys(part.inputs.shape[-1] for part in parts))
        groups = [joined([part for part in parts if part.inputs.shape[-1] == width]) for width in widths]
        with gpu_settings(self.device):
            self.rows = joined([self._advanced(group) for group in groups])
        self.entered = []
        self.steps_left = [left - 1 for left in self.steps_left]

    def _advanced(self, rows: Rows) -> Rows:
        if self.graphs is not None and rows.inputs.shape[-1] == self._full_width:
            if self.graphs.captured or self.graphs.capture(rows):
                return self.graphs(rows)
            self.graphs = None
        if self.conditions is None or self.conditions[0] is not rows:
            self.conditions = rows, self._conditions(rows)
        after = self._evaluated(rows, self.conditions[1])
        self.conditions = after, self.conditions[1]
        return after

    @property
    def _full_width(self) -> int:
        return self.config.dim_latent * (2 if self.config.self_condition else 1)

    @property
    def _most_columns(self) -> int:
        """The longest context of the model, to which graphs are captured."""
        if self.model.writes_documents:
            return 1 + self.model.recipe["context_blocks"] * self.config.max_len
        return self.model.source_max_len

    def _conditions(self, rows: Rows) -> Any:
        """What the denoiser needs of the samples in every step, see `Denoiser.conditions`."""
        count, length = rows.z.shape[:2]
        mask, ids = self._mask(rows), rows.class_id
        if self.guided and ids is not None:
            ids = torch.cat([ids, torch.full_like(ids, self.config.num_classes)])
        given: dict[str, Any] = {"context": rows.context, "context_mask": rows.context_mask}
        return self.denoiser.conditions((count, length), guided=self.guided, mask=mask, class_id=ids, **given)

    def _mask(self, rows: Rows) -> Tensor | None:
        """The real positions (B, N), None if all are."""
        length = rows.z.shape[1]
        if rows.lengths is None or (self.graphs is None and int(rows.lengths.min()) == length):
            return None
        return torch.arange(length, device=self.device) < rows.lengths[:, None]

    def _evaluated(self, rows: Rows, conditions: Any) -> Rows:
        """The samples after their next step."""
        place = rows.first + rows.step
        output = self.denoiser.run_blocks(rows.inputs, self.table.modulation(place), conditions)
        lead = None
        if rows.targets is not None and rows.weights is not None:
            guides = GuideTargets(self.table.guides, rows.targets, rows.weights, self.model.deterministic)
            lead = partial(guides.lead, level=place, mask=self._mask(rows))
        state = self.table.steps.update(
            output, rows.z, rows.x_prev, rows.x_start, rows.step, rows.seed, rows.sample_ids, rows.first, lead
        )
        step = torch.minimum(rows.step + 1, rows.last)
        return replace(rows, step=step, **dict(zip(LATENTS, state, strict=True)))

    def finished(self) -> list[Key]:
        """The samples that have done their last step."""
        return [key for key, left in zip(self.keys, self.steps_left, strict=True) if not left]

    @torch.inference_mode()
    def latents(self, keys: Sequence[Key], predicted: bool = False) -> Tensor:
        """Latents (len(keys), N, d) of samples, un-normalised, zero beyond their length; ``predicted`` are the x_start
        of their latest step."""
        assert self.rows is not None, "a step has been done"
        numbers = {key: number for number, key in enumerate(self.keys)}
        places = torch.tensor([numbers[key] for key in keys], device=self.device)
        rows = self.rows
        latents = (rows.x_start if predicted else rows.z).index_select(0, places)
        if rows.lengths is not None:
            real = torch.arange(latents.shape[1], device=self.device) < rows.lengths[places, None]
            latents = latents.masked_fill(~real[..., None], 0.0)
        return self.model.unnormalize(F.pad(latents, (0, 0, 0, self.config.max_len - latents.shape[1])))

    @torch.inference_mode()
    def leave(self, gone: Collection[Key]) -> None:
        """Removes samples."""
        kept = [key not in gone for key in self.keys]
        if all(kept):
            return
        parts, place = [], 0
        for part in self._parts():
            parts.append(self._taken(part, kept[place : place + len(part)]))
            place += len(part)
        self.rows = None if self.rows is None else parts.pop(0)
        self.entered = [part for part in parts if part is not None]
        self.keys = list(compress(self.keys, kept))
        self.steps_left = list(compress(self.steps_left, kept))

    def _parts(self) -> list[Rows]:
        """All samples in the order of their keys."""
        return [*([] if self.rows is None else [self.rows]), *self.entered]

    def _taken(self, rows: Rows, kept: Sequence[bool]) -> Rows | None:
        if all(kept):
            return rows
        if not any(kept):
            return None
        places = [place for place, stays in enumerate(kept) if stays]
        taken = rows.take(torch.tensor(places, device=self.device))
        return taken if self.graphs or self.model.deterministic else taken.trimmed()


class RunningSamples(Generic[Key]):
    """A `RunningBatch` of the samples without guidance and one of those with it, which cost two evaluations a step;
    the same for samples that guides lead; and all that again for express samples, which also make steps of their own.

    Args:
        precision: of the blocks' matmuls, one of `precision.PRECISIONS`; None is that of the weights.
        capacity, project, guides: see `RunningBatch`.

    Raises:
        ConfigError: a precision that this device does not support.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        capacity: int,
        precision: str | None = None,
        project: bool = False,
        guides: Sequence[Guide] = (),
    ) -> None:
        options: dict[str, Any] = {
            "capacity": capacity,
            "project": project,
            "cuda_graph": model.latent_mean.device.type == "cuda",
        }
        denoiser = prepared_denoiser(model.denoiser, precision, model.deterministic)
        self.ordinary: list[RunningBatch[Key]] = [
            RunningBatch(model, denoiser, guided=guided, guides=led, **options)
            for led in ((), guides)[: 1 + bool(guides)]
            for guided in (False, True)
        ]
        self.express = [
            RunningBatch(model, denoiser, guided=batch.guided, beside=batch, **options)
            for batch in self.ordinary
        ]
        self.batches = self.ordinary + self.express

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    @property
    def num_express(self) -> int:
        """Express samples."""
        return sum(map(len, self.express))

    @property
    def keys(self) -> list[Key]:
        """All samples: the express ones last, and before them those without guidance first."""
        return [key for batch in self.batches for key in batch.keys]

    def of(self, plan: Plan, led: bool = False, express: bool = False) -> RunningBatch[Key]:
        """The batch that samples of that plan enter; ``led``: by guides."""
        return (self.express if express else self.ordinary)[2 * led + (plan.guidance_scale != 1.0)]

    def advance(self, express_only: bool = False) -> list[Key]:
        """One step of every sample, or only of the express ones; those that made it."""
        batches = [batch for batch in (self.express if express_only else self.batches) if len(batch)]
        for batch in batches:
            batch.advance()
        return [key for batch in batches for key in batch.keys]

    def ending(self, steps: int) -> int:
        """Samples that end within so many steps."""
        return sum(left <= steps for batch in self.batches for left in batch.steps_left)

    def predicted(self, keys: Collection[Key]) -> dict[Key, Tensor]:
        """The x_start (N, d), un-normalised, of the latest step of some samples."""
        return self._latents(keys, predicted=True)

    def take_finished(self) -> dict[Key, Tensor]:
        """Removes the samples that have done their last step, which has to follow every step; their latents (N, d)."""
        done = [key for batch in self.batches for key in batch.finished()]
        latents = self._latents(done, predicted=False)
        self.leave(done)
        return latents

    def leave(self, gone: Collection[Key]) -> None:
        """Removes samples."""
        for batch in self.batches:
            batch.leave(gone)

    def _latents(self, keys: Collection[Key], predicted: bool) -> dict[Key, Tensor]:
        found, wanted = dict[Key, Tensor](), set(keys)
        for batch in self.batches:
            if own := [key for key in batch.keys if key in wanted]:
                found |= zip(own, batch.latents(own, predicted), strict=True)
        return found
