"""Samples latents: checks options and divides samples into batches, each of them a call of a `SamplingRun`.

Letters: B batch, N latent positions, d latent width, M context length, S sampling steps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.diffusion.guides import GuideTargets
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.schedules import DiscreteSchedule
from ld4lg_fast.engine.gpu_settings import gpu_settings
from ld4lg_fast.engine.packed_weights import prepared_denoiser
from ld4lg_fast.engine.sampling_run import SamplingRun
from ld4lg_fast.engine.step_table import Plan
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.levels import more_than_timesteps
from ld4lg_fast.export.runtime.option_checks import SAMPLE_ID, eta_of_another, plain, shown
from ld4lg_fast.options.checks import (
    RULES,
    check,
    check_floats,
    check_given,
    check_memory,
    check_options,
    finite_vectors,
    whole_numbers,
)

CPU_BATCH, CUDA_BATCH = 64, 1024  # larger batches are not faster
MEMORY_SHARE = 0.5  # of the free memory; decoding needs the rest
TEXT_BYTES = 256  # of a text as a Python string
COUNT_BYTES = 64  # of a sample whose latents are not kept: its id and its position

Context = Tensor | Callable[[Tensor], tuple[Tensor, Tensor]]


def sample_latents(model: LatentDiffusion, num_samples: int, **options: Any) -> Tensor:
    """Latents (num_samples, N, d) float32, un-normalised, on the model's device; zero beyond a sample's length.

    ``options`` and errors: see `sample_batches`.
    """
    latents = torch.empty(0)
    for rows, batch in sample_batches(model, num_samples, **options):
        if not latents.numel():
            latents = batch.new_empty((num_samples, *batch.shape[1:]))
        latents[rows] = batch
    return latents


def sample_batches(
    model: LatentDiffusion,
    num_samples: int,
    *,
    sampler: str = "ddpm",
    num_inference_steps: int = 250,
    spacing: str = "time",
    seed: int = 0,
    batch_size: int | None = None,
    guidance_scale: float = 1.0,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    class_id: Tensor | int | None = None,
    context: Context | None = None,
    context_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    eta: float | None = None,
    guides: GuideTargets | None = None,
    project: bool = False,
    steer: Callable[[Tensor], Tensor] | None = None,
    start: Tensor | None = None,
    strength: float = 1.0,
    precision: str | None = None,
    cuda_graph: bool | None = None,
    sample_ids: Tensor | Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples batch by batch: yields (rows, latents), rows (B,) of 0 … num_samples-1, latents (B, N, d).

    The random numbers of a sample depend only on (seed, its id), so a sample does not depend on the batch size or on
    other samples. A batch that runs out of memory is halved. Options are checked by the call, before the first batch.

    Args:
        batch_size: None is what fills the device and fits its memory, see `fitting_batch`.
        sampler: a name in `samplers.SAMPLERS`.
        eta: in [0, 1], of DDIM alone: 0, which None stands for, is deterministic, 1 is ancestral sampling.
        spacing: of the steps: ``time``, ``log_snr`` or ``learned``, see `schedules.sampling_times`.
        guidance_scale: w in ``w·cond + (1-w)·uncond`` (Ho & Salimans 2022); 1 skips the unconditional evaluation.
        guidance_interval: the times, 1 noise and 0 data, between which there is guidance.
        class_id: one id or (num_samples,); None is the null class of a class-conditional model.
        context: (num_samples, M, dim_context) source states with ``context_mask`` (num_samples, M); or a
            function that returns both for the rows (B,) of a batch.
        lengths: (num_samples,) real positions of each sample (recipe v1); None means all N. Batches are made by
            length and padded to their longest sample.
        guides: guides with a target and a weight for each sample, which lead every predicted x_start.
        project: projects every x_start to the sphere of l2-normalised latents.
        steer: maps every predicted x_start, normalised (B, N, d), to the one that is used instead.
        start: (num_samples, N, d) latents, un-normalised, that are noised to time ``strength``, in (0, 1], and
            denoised from there (SDEdit, Meng et al. 2022); None starts from pure noise.
        precision: of the blocks' matmuls, one of `precision.PRECISIONS`; None is that of the weights.
        cuda_graph: whether to capture a step as a CUDA graph once for each batch and replay it; None: on a GPU.
        sample_ids: (num_samples,) ids of the samples, by default 0 … num_samples-1; several processes can sample
            disjoint ids.
        progress: called after every step of a batch with its number of samples, num_samples·S in all.
        callback: called as ``callback(step, rows, x_start)`` after every step of a batch, with the normalised
            latents (B, N, d) predicted in it.

    Raises:
        ConfigError: an option out of range, a condition that the model was not trained for, or a single sample
            that does not fit in memory.
    """
    config, device = model.denoiser.config, model.latent_mean.device
    num_samples = check_fits(model, num_samples, kept=False)
    (seed,) = check_options(seed=seed)
    batch_size, cuda_graph = check_given(batch_size=batch_size, cuda_graph=cuda_graph)
    check_given(steer=steer, progress=progress, callback=callback)
    batch_size = fitting_batch(model) if batch_size is None else batch_size
    plan = checked_plan(
        model,
        sampler,
        num_inference_steps,
        spacing=spacing,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        eta=eta,
        strength=strength,
        has_context=context is not None,
    )
    if start is None:
        plan = replace(plan, strength=1.0)
    else:
        check_start(start, (num_samples, config.max_len, config.dim_latent))
    class_ids = _class_ids(class_id, config.num_classes, num_samples, device)
    ids = sample_id_tensor(sample_ids, num_samples, device)
    run = SamplingRun(
        model,
        plan,
        denoiser=prepared_denoiser(model.denoiser, precision, model.deterministic),
        seed=seed,
        classes=None if class_ids is None else class_ids.unique(),
        guides=guides,
        project=project,
        steer=steer,
        cuda_graph=cuda_graph,
    )
    order = torch.arange(num_samples, device=device)
    if lengths is not None:
        lengths = lengths.to(device)
        order = torch.argsort(lengths, descending=True, stable=True)

    def sample(rows: Tensor) -> Tensor:
        states: Tensor | None
        states, states_mask = None, context_mask
        if callable(context):
            states, states_mask = context(rows)
        elif context is not None:
            states, states_mask = (None if t is None else t.to(device)[rows] for t in (context, context_mask))
        done = 0

        def report(step: int, x_start: Tensor) -> None:
            nonlocal done
            done += len(rows)
            if callback is not None:
                callback(step, rows, x_start)
            if progress is not None:
                progress(len(rows))

        try:
            with gpu_settings(device):
                latents = run(
                    ids[rows],
                    class_id=None if class_ids is None else class_ids[rows],
                    context=states,
                    context_mask=states_mask,
                    lengths=None if lengths is None else lengths[rows],
                    guides=None if guides is None else guides.rows(rows),
                    start=None if start is None else model.normalize(start.to(device, torch.float32)[rows]),
                    callback=report,
                )
        except RuntimeError as error:
            if progress is not None and out_of_memory(error):
                progress(-done)
            raise
        padded = latents.new_zeros((len(rows), config.max_len, config.dim_latent))
        padded[:, : latents.shape[1]] = latents
        return model.unnormalize(padded)

    def batches(order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        while len(order):
            try:
                latents = sample(order[:batch_size])
            except RuntimeError as error:
                batch_size = halved(min(batch_size, len(order)), device, error)
                continue
            rows, order = order[:batch_size], order[batch_size:]
            yield rows, latents

    return batches(order, batch_size)


def fitting_batch(model: LatentDiffusion) -> int:
    """Batch size that fills the device and whose activations fit in its free memory."""
    config, device = model.denoiser.config, model.latent_mean.device
    if device.type != "cuda":
        return CPU_BATCH
    # Activations of a position under guidance: input, residual, norm, q, k and v, feed-forward (value, gate), skips.
    widths = 2 * config.dim * (6 + 12 + getattr(config, "num_dense_connections", 0))
    sample_bytes = config.max_len * widths * model.denoiser.input_proj.weight.element_size()
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(CUDA_BATCH, int(MEMORY_SHARE * free / sample_bytes)))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed; the CPU allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def halved(batch_size: int, device: torch.device, error: RuntimeError) -> int:
    """Half of a batch size that ran out of memory; any other ``error`` is raised again.

    Raises:
        ConfigError: the batch was a single sample.
    """
    if not out_of_memory(error):
        raise error
    if batch_size == 1:
        raise ConfigError(
            f"A single sample does not fit the memory of {device}; use a smaller dtype or another device."
        ) from error
    return batch_size // 2


def check_fits(model: LatentDiffusion, num_samples: int, name: str = "num_samples", kept: bool = True) -> int:
    """Refuses more samples than memory holds (with their latents and texts if ``kept``); returns their number as int.

    Raises:
        ConfigError: the sentence says how many there may be.
    """
    if name in RULES:
        check(name, num_samples)
    config, num_samples = model.denoiser.config, plain(num_samples)
    latents_and_text = 12 * config.max_len * config.dim_latent + TEXT_BYTES
    check_memory(name, num_samples, latents_and_text if kept else COUNT_BYTES, model.latent_mean.device)
    return num_samples


def sample_id_tensor(
    sample_ids: Tensor | Sequence[int] | None, num_samples: int, device: torch.device | str
) -> Tensor:
    """Ids of the samples (num_samples,) int64; None counts from 0.

    Raises:
        ConfigError: another number of ids than samples, or ids that are not whole numbers from 0.
    """
    if sample_ids is None:
        return torch.arange(num_samples, device=device)
    return whole_numbers("sample_ids", sample_ids, SAMPLE_ID, num_samples, device)


def _class_ids(
    class_id: Tensor | int | None, num_classes: int, num_samples: int, device: torch.device
) -> Tensor | None:
    if not num_classes:
        if class_id is not None:
            raise ConfigError(
                f"class_id {shown(class_id)} was given, but this model was trained without classes; leave it out."
            )
        return None
    ids = torch.as_tensor(num_classes if class_id is None else class_id, device=device).long()
    if ids.dim() and ids.shape != (num_samples,):
        raise ConfigError(f"class_id has the shape {tuple(ids.shape)}; give one id or {num_samples} of them.")
    wrong = ids[(ids < 0) | (ids > num_classes)]
    if wrong.numel():
        raise ConfigError(
            f"class_id {wrong.flatten()[0].item()} is out of range; this model has the classes 0 to {num_classes - 1}."
        )
    return ids.expand(num_samples)


def checked_plan(
    model: LatentDiffusion,
    sampler: str,
    num_inference_steps: int,
    *,
    spacing: str = "time",
    guidance_scale: float = 1.0,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    eta: float | None = None,
    strength: float = 1.0,
    has_context: bool = False,
) -> Plan:
    """The `Plan` of a call's options, see `sample_batches`.

    Raises:
        ConfigError: an option out of range, or guidance of a model that was not trained for it.
    """
    num_inference_steps, guidance_scale, strength = check_options(
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, strength=strength
    )
    (eta,) = check_given(eta=eta)
    if sentence := eta_of_another(eta, sampler):
        raise ConfigError(sentence)
    check_options(guidance_interval=guidance_interval)
    low, high = guidance_interval
    config, schedule = model.denoiser.config, model.diffusion.schedule_for_sampling
    if isinstance(schedule, DiscreteSchedule) and (
        sentence := more_than_timesteps(num_inference_steps, schedule.num_train_timesteps)
    ):
        raise ConfigError(sentence)
    if guidance_scale != 1.0 and not config.num_classes and not has_context and not model.writes_documents:
        raise ConfigError(
            f"guidance_scale {guidance_scale} needs a model with classes, source texts or documents; use 1."
        )
    interval = float(low), float(high)
    return Plan(sampler, num_inference_steps, spacing, guidance_scale, interval, eta or 0.0, strength)


def check_start(start: Tensor, shape: tuple[int, int, int]) -> None:
    """Refuses latents to start from that are not of ``shape``, or not finite.

    Raises:
        ConfigError: naming what they are.
    """
    if not isinstance(start, Tensor):
        raise ConfigError(
            f"start is {shown(start)}; it must be latents of the shape {shape}, as encode gives them."
        )
    check_floats("start", start)
    if start.shape != shape:
        raise ConfigError(f"start has the shape {tuple(start.shape)}; it must be {shape}.")
    if not finite_vectors(start).all():
        raise ConfigError(
            "start has values that are not finite in float32; take latents that encode or sample gives."
        )
