"""Sampling latents: batches, seeds, guidance.

Letters: B batch, N latent positions, d latent width, M context length, S sampling steps.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ld4lg_fast.diffusion import Prediction, prediction
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import ops
from ld4lg_fast.latent_diffusion import LatentDiffusion
from ld4lg_fast.samplers import Denoise, get_sampler
from ld4lg_fast.schedules import DiscreteSchedule, SamplingGrid, sampling_grid

START_STREAM = 0  # random stream of z_T; step k draws from stream 1 + k


def sample_latents(
    model: LatentDiffusion,
    num_samples: int,
    *,
    sampler: str = "ddpm",
    num_steps: int = 250,
    seed: int = 0,
    batch_size: int = 64,
    guidance_scale: float = 1.0,
    class_id: Tensor | int | None = None,
    context: Tensor | None = None,
    context_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    eta: float = 0.0,
    project: bool = False,
    sample_ids: Tensor | Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Samples ``num_samples`` latents (num_samples, N, d) float32, un-normalised, on the model's device.

    Every sample has its own random numbers, drawn from (seed, its id), so a sample does not depend on the
    batch size or on its neighbours.

    Args:
        sampler: a name in `samplers.SAMPLERS`; ``eta`` is DDIM's.
        guidance_scale: w in ``w·cond + (1-w)·uncond`` (Ho & Salimans 2022); 1 means no second evaluation.
        class_id: one id or (num_samples,); the null class when a class-conditional model gets none.
        context: (num_samples, M, dim_context) source states with ``context_mask`` (num_samples, M).
        lengths: (num_samples,) real positions of each sample (recipe v1); None means all N.
        project: every x_start is put on the sphere of l2-normalised latents.
        sample_ids: (num_samples,) the samples' numbers, by default 0 … num_samples-1; with ids of their own,
            several processes can share samples out.
        progress: called with the number of samples whose step has been done, num_samples·S in all.

    Raises:
        ConfigError: an option out of range, or a condition that the model was not trained for.
    """
    config = model.denoiser.config
    device = model.latent_mean.device
    _check(model, num_samples, batch_size, num_steps, guidance_scale, context)
    class_ids = _class_ids(class_id, config.num_classes, num_samples, device)
    grid = sampling_grid(model.diffusion.schedule_for_sampling, num_steps).to(device)
    run = get_sampler(sampler)
    options = {"eta": eta} if sampler == "ddim" else {}
    ids = sample_id_tensor(sample_ids, num_samples, device)
    shape = (config.max_len, config.dim_latent)
    results = []
    for start in range(0, num_samples, batch_size):
        rows = slice(start, min(start + batch_size, num_samples))
        mask = None
        if lengths is not None:
            mask = torch.arange(config.max_len, device=device) < lengths[rows, None].to(device)

        def pick(tensor: Tensor | None, rows: slice = rows) -> Tensor | None:
            return None if tensor is None else tensor[rows].to(device)

        denoise = guided_denoiser(
            model, grid, guidance_scale, mask, pick(class_ids), pick(context), pick(context_mask), project
        )

        def noise(step: int, ids: Tensor = ids[rows]) -> Tensor:
            return ops.philox_normal(seed, ids, START_STREAM + 1 + step, shape)

        def report(step: int, z: Tensor, pred: Prediction, count: int = rows.stop - rows.start) -> None:
            if progress is not None:
                progress(count)

        with torch.inference_mode():
            z_start = ops.philox_normal(seed, ids[rows], START_STREAM, shape)
            results.append(run(denoise, z_start, grid, noise=noise, callback=report, **options))
    return model.unnormalize(torch.cat(results))


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


def guided_denoiser(
    model: LatentDiffusion,
    grid: SamplingGrid,
    guidance_scale: float = 1.0,
    mask: Tensor | None = None,
    class_id: Tensor | None = None,
    context: Tensor | None = None,
    context_mask: Tensor | None = None,
    project: bool = False,
) -> Denoise:
    """The network as samplers see it: conditions bound, guidance done as one doubled batch.

    The unconditional half has the null class and the null context, and shares the self-condition.
    ``project`` puts every x_start on the sphere (official sequence-to-sequence evaluation).
    """
    denoiser, objective = model.denoiser, model.diffusion.objective
    guided = guidance_scale != 1.0
    if guided:
        mask = _twice(mask)
        if class_id is not None:
            class_id = torch.cat([class_id, torch.full_like(class_id, denoiser.config.null_class)])
    elif class_id is None and denoiser.config.num_classes:
        raise ConfigError("A class-conditional model needs class ids; give the null class for none.")

    def denoise(z_t: Tensor, step: int, x_self_cond: Tensor | None) -> Prediction:
        batch = z_t.shape[0]
        z_in, self_cond = (_twice(z_t), _twice(x_self_cond)) if guided else (z_t, x_self_cond)
        inputs = {"mask": mask, "x_self_cond": self_cond, "class_id": class_id}
        time = grid.network_time[step].expand(z_in.shape[0])
        if context is None or not guided:
            output = denoiser(z_in, time, context=context, context_mask=context_mask, **inputs).float()
        else:
            output = _with_half_context(denoiser, z_in, time, context, context_mask, inputs).float()
        if guided:
            cond, uncond = output[:batch], output[batch:]
            output = guidance_scale * cond + (1 - guidance_scale) * uncond
        return prediction(output, z_t, grid.alpha_sq[step], objective, project)

    return denoise


def _with_half_context(
    denoiser: torch.nn.Module,
    z_in: Tensor,
    time: Tensor,
    context: Tensor,
    context_mask: Tensor | None,
    inputs: dict,
) -> Tensor:
    """One evaluation whose first half sees the source and whose second half sees the null token.

    The null token stands in the first place of a context of the same length, the rest of it masked.
    """
    batch, length = context.shape[:2]
    projected = denoiser.project_context(context, batch)
    null = denoiser.null_context.to(projected.dtype).expand(batch, length, -1)
    if context_mask is None:
        context_mask = context.new_ones((batch, length), dtype=torch.bool)
    first = torch.arange(length, device=context.device) == 0
    keys = torch.cat([context_mask.bool(), first.expand(batch, length)])
    # Shapes alone matter for the biases, so the doubled source is never projected twice.
    self_bias, cross_bias = denoiser.attention_biases(z_in, inputs["mask"], keys[..., None], keys)
    modulation = denoiser.modulate(time, inputs["class_id"])
    return denoiser.run_blocks(
        z_in, inputs["x_self_cond"], modulation, self_bias, torch.cat([projected, null]), cross_bias
    )


def _twice(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.cat([tensor, tensor])


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
    context: Tensor | None,
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
