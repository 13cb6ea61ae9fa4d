"""Sampling latents: options checked, samples cut into batches; each batch is a call of a `SamplingRun`.

Letters: B batch, N latent positions, d latent width, M context length, S sampling steps.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.gpu import gpu_settings
from ld4lg_fast.latent_diffusion import LatentDiffusion
from ld4lg_fast.prepared import prepared_denoiser
from ld4lg_fast.sampling_run import SamplingRun
from ld4lg_fast.schedules import DiscreteSchedule

CPU_BATCH, CUDA_BATCH = 64, 1024  # more make a device no faster
MEMORY_SHARE = 0.5  # of what is free: decoding needs the rest

Context = Tensor | Callable[[Tensor], tuple[Tensor, Tensor]]


def sample_latents(model: LatentDiffusion, num_samples: int, **options) -> Tensor:
    """Latents (num_samples, N, d) float32, un-normalised, on the model's device; zero beyond a sample's length.

    ``options`` and errors: see `sample_batches`.
    """
    latents = None
    for rows, batch in sample_batches(model, num_samples, **options):
        if latents is None:
            latents = batch.new_empty((num_samples, *batch.shape[1:]))
        latents[rows] = batch
    return latents


def sample_batches(
    model: LatentDiffusion,
    num_samples: int,
    *,
    sampler: str = "ddpm",
    num_steps: int = 250,
    spacing: str = "time",
    seed: int = 0,
    batch_size: int | None = None,
    guidance_scale: float = 1.0,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    class_id: Tensor | int | None = None,
    context: Context | None = None,
    context_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    eta: float = 0.0,
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

    Every sample has its own random numbers, drawn from (seed, its id), so a sample does not depend on the
    batch size or on its neighbours. A batch that the memory does not hold is halved.

    Args:
        batch_size: None is as many as fill the device and fit its memory, see `fitting_batch`.
        sampler: a name in `samplers.SAMPLERS`; ``eta`` is DDIM's.
        spacing: of the steps: ``time``, ``log_snr`` or ``learned``, see `schedules.sampling_times`.
        guidance_scale: w in ``w·cond + (1-w)·uncond`` (Ho & Salimans 2022); 1 means no second evaluation.
        guidance_interval: the times, 1 noise and 0 data, between which there is guidance.
        class_id: one id or (num_samples,); the null class when a class-conditional model gets none.
        context: (num_samples, M, dim_context) source states with ``context_mask`` (num_samples, M); or a
            function that gives both for the rows (B,) of a batch.
        lengths: (num_samples,) real positions of each sample (recipe v1); None means all N. Samples of like
            length share a batch, and no batch is padded beyond its longest.
        project: every x_start is put on the sphere of l2-normalised latents.
        steer: called with every x_start that is predicted, normalised (B, N, d), and gives what is used in its place.
        start: (num_samples, N, d) latents, un-normalised, that are noised up to time ``strength``, in (0, 1], and
            denoised from there (SDEdit, Meng et al. 2022); None starts from noise alone.
        precision: of the blocks' products, one of `linear.PRECISIONS`; None is that of the weights.
        cuda_graph: whether a step is captured once a batch and then replayed; None: on a GPU.
        sample_ids: (num_samples,) the samples' numbers, by default 0 … num_samples-1; with ids of their own,
            several processes can share samples out.
        progress: called with the number of samples whose step has been done, num_samples·S in all.
        callback: called as ``callback(step, rows, x_start)`` after every step of a batch, with the normalised
            latents (B, N, d) as predicted there.

    Raises:
        ConfigError: an option out of range, a condition that the model was not trained for, or a single sample
            that does not fit the memory.
    """
    config, device = model.denoiser.config, model.latent_mean.device
    batch_size = fitting_batch(model) if batch_size is None else batch_size
    _check(model, num_samples, batch_size, num_steps, guidance_scale, guidance_interval, context)
    if not 0 < strength <= 1:
        raise ConfigError(f"strength is {strength}; it must be above 0 and at most 1.")
    if start is not None and start.shape != (num_samples, config.max_len, config.dim_latent):
        raise ConfigError(
            f"start has the shape {tuple(start.shape)}; it must be "
            f"{(num_samples, config.max_len, config.dim_latent)}."
        )
    class_ids = _class_ids(class_id, config.num_classes, num_samples, device)
    ids = sample_id_tensor(sample_ids, num_samples, device)
    run = SamplingRun(
        model,
        denoiser=prepared_denoiser(model.denoiser, precision),
        sampler=sampler,
        num_steps=num_steps,
        spacing=spacing,
        seed=seed,
        classes=None if class_ids is None else class_ids.unique(),
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        eta=eta,
        project=project,
        steer=steer,
        strength=1.0 if start is None else strength,
        cuda_graph=cuda_graph,
    )
    order = torch.arange(num_samples, device=device)
    if lengths is not None:
        lengths = lengths.to(device)
        order = torch.argsort(lengths, descending=True, stable=True)

    def sample(rows: Tensor) -> Tensor:
        states, states_mask = context, context_mask
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
                    start=None if start is None else model.normalize(start.to(device)[rows]),
                    callback=report,
                )
        except torch.OutOfMemoryError:
            if progress is not None:
                progress(-done)
            raise
        padded = latents.new_zeros((len(rows), config.max_len, config.dim_latent))
        padded[:, : latents.shape[1]] = latents
        return model.unnormalize(padded)

    while len(order):
        try:
            latents = sample(order[:batch_size])
        except torch.OutOfMemoryError as error:
            batch_size = halved(min(batch_size, len(order)), device, error)
            continue
        rows, order = order[:batch_size], order[batch_size:]
        yield rows, latents


def fitting_batch(model: LatentDiffusion) -> int:
    """Samples at once that keep the device busy and that its free memory holds, by the sizes of the activations."""
    config, device = model.denoiser.config, model.latent_mean.device
    if device.type != "cuda":
        return CPU_BATCH
    # Of a position under guidance: input, residual, norm, q, k and v, both halves of the feed-forward, all skips.
    widths = 2 * config.dim * (6 + 12 + getattr(config, "num_dense_connections", 0))
    sample_bytes = config.max_len * widths * model.denoiser.input_proj.weight.element_size()
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(CUDA_BATCH, int(MEMORY_SHARE * free / sample_bytes)))


def halved(batch_size: int, device: torch.device, error: torch.OutOfMemoryError) -> int:
    """The batch to try after one that the memory did not hold.

    Raises:
        ConfigError: it was a single sample.
    """
    if batch_size == 1:
        raise ConfigError(
            f"A single sample does not fit the memory of {device}; use a smaller dtype or another device."
        ) from error
    return batch_size // 2


def sample_id_tensor(
    sample_ids: Tensor | Sequence[int] | None, num_samples: int, device: torch.device | str
) -> Tensor:
    """The samples' numbers (num_samples,) int64; None counts from 0.

    Raises:
        ConfigError: another number of ids than samples.
    """
    if sample_ids is None:
        return torch.arange(num_samples, device=device)
    ids = torch.as_tensor(sample_ids, dtype=torch.int64, device=device)
    if ids.shape != (num_samples,):
        raise ConfigError(f"sample_ids has the shape {tuple(ids.shape)}; give {num_samples} of them.")
    return ids


def _class_ids(
    class_id: Tensor | int | None, num_classes: int, num_samples: int, device: torch.device
) -> Tensor | None:
    if not num_classes:
        if class_id is not None:
            raise ConfigError(f"class_id {class_id} was given, but this model was trained without classes.")
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


def check_positive(**values: int) -> None:
    """Refuses numbers below 1 by their names.

    Raises:
        ConfigError: one of them is.
    """
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.")


def _check(
    model: LatentDiffusion,
    num_samples: int,
    batch_size: int,
    num_steps: int,
    guidance_scale: float,
    guidance_interval: tuple[float, float],
    context: Context | None,
) -> None:
    config, schedule = model.denoiser.config, model.diffusion.schedule_for_sampling
    check_positive(num_samples=num_samples, batch_size=batch_size, num_steps=num_steps)
    if isinstance(schedule, DiscreteSchedule) and num_steps > schedule.num_train_timesteps:
        raise ConfigError(
            f"{num_steps} sampling steps were asked for, but this model was trained with "
            f"{schedule.num_train_timesteps} timesteps; ask for at most that many."
        )
    if guidance_scale != 1.0 and not config.num_classes and context is None:
        raise ConfigError(
            f"guidance_scale {guidance_scale} needs a class-conditional or sequence-to-sequence model; "
            "this one has no condition, use guidance_scale 1."
        )
    low, high = guidance_interval
    if not 0 <= low <= high <= 1:
        raise ConfigError(f"guidance_interval is ({low}, {high}); it needs 0 <= first <= second <= 1.")
