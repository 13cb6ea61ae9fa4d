"""The library's outputs for golden cases: a function for each kind, of its name.

Published weights come in through `ld4lg_fast.models.parameter_names`, and gradients go out through it.
"""

import torch
from golden_cases import Case, given
from golden_library_parts import (
    PredictionSteps,
    RecordedDenoiser,
    Watch,
    denoiser_output,
    gradients,
    perceiver_outputs,
    training_loss,
)
from torch import Tensor

from ld4lg_fast.diffusion import process as conversions
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.samplers import get_sampler, guided_denoiser
from ld4lg_fast.diffusion.schedules import ContinuousSchedule, DiscreteSchedule, SamplingGrid, sampling_grid
from ld4lg_fast.models import parameter_names
from ld4lg_fast.models.denoiser_v1 import relative_position_bucket

SAMPLER_NAMES = {"dpmpp": "dpmpp_published"}


def recipe_v2(settings: dict) -> dict:
    """A recipe from the official release's settings; options that a case leaves out do not affect it."""
    return {
        "version": "v2",
        "objective": settings.get("objective", "pred_v"),
        "loss_type": settings.get("loss_type", "l2"),
        "self_condition_prob": settings.get("train_prob_self_cond", 0.5),
        "class_drop_prob": 0.0,
        "schedule": settings["train_schedule"],
        "schedule_scale": settings["scale"],
        "sampling_schedule": settings["sampling_schedule"],
        "l2_normalized": settings.get("l2_normalize", False),
    }


def recipe_v1(settings: dict) -> dict:
    """A recipe from the unofficial implementation's settings."""
    return {
        "version": "v1",
        "objective": settings.get("objective", "pred_x0"),
        "loss_type": settings.get("loss_type", "l1"),
        "self_condition_prob": settings.get("self_condition_prob", 0.5),
        "class_drop_prob": settings.get("class_uncondition_prob", 0.0),
        "beta_schedule": settings.get("beta_schedule", "linear"),
        "num_train_timesteps": settings.get("timesteps", 1000),
    }


class TimeItself(ContinuousSchedule):
    """A schedule whose alpha² is the time itself: shows the times of a sampling grid."""

    def alpha_sq(self, t: Tensor) -> Tensor:
        return t


def grid_times(num_steps: int) -> Tensor:
    """(S+1,) times of a sampling grid."""
    return sampling_grid(TimeItself(), num_steps).alpha_sq


@torch.no_grad()
def official_denoiser(case: Case) -> dict[str, Tensor]:
    return denoiser_output(parameter_names.load_denoiser(case.weights), case)


@torch.no_grad()
def official_autoencoder(case: Case) -> dict[str, Tensor]:
    normalize = case.constructor["l2_normalize_latents"]
    return perceiver_outputs(parameter_names.load_perceiver(case.weights, normalize), case)


def official_schedules(case: Case) -> dict[str, Tensor]:
    outputs, settings = {}, case.settings
    for dtype in ("float32", "float64"):
        t = case.inputs[f"t_{dtype}"]
        for name in settings["schedules"]:
            outputs[f"{name}/{dtype}/unshifted"] = ContinuousSchedule(name).unshifted(t)
            for scale in settings["scales"]:
                schedule, prefix = ContinuousSchedule(name, scale), f"{name}/{dtype}/scale_{scale}"
                outputs[f"{prefix}/alpha"] = schedule.alpha_sq(t)
                outputs[f"{prefix}/log_snr"] = schedule.log_snr(t)
    for steps in settings["step_counts"]:
        times = grid_times(steps)
        outputs[f"time_grid/steps_{steps}"] = torch.stack((times[:-1], times[1:]), dim=1)
    return outputs


def official_conversions(case: Case) -> dict[str, Tensor]:
    inputs, outputs = case.inputs, {}
    z_t, x_start, noise, v = (inputs[name] for name in ("z_t", "x_start", "noise", "v"))
    recipe = recipe_v2(case.settings["diffusion"])
    model = LatentDiffusion(RecordedDenoiser(z_t.shape[-1], []), recipe)
    schedules = {
        "train_schedule": model.diffusion.schedule,
        "sampling_schedule": model.diffusion.schedule_for_sampling,
    }
    for prefix, schedule in schedules.items():
        level = schedule.alpha_sq(inputs["t"])
        named = {
            "alpha": level,
            "start_from_noise": conversions.x_start_from_noise(z_t, noise, level),
            "noise_from_start": conversions.noise_from_x_start(z_t, x_start, level),
            "start_from_v": conversions.x_start_from_v(z_t, v, level),
            "noise_from_v": conversions.noise_from_v(z_t, v, level),
            "v_from_start_and_noise": conversions.v_from_x_start_and_noise(x_start, noise, level),
        }
        outputs |= {f"{prefix}/{name}": tensor for name, tensor in named.items()}
    if "latent_mean" in inputs:
        model.latent_mean.copy_(inputs["latent_mean"])
        model.latent_scale.copy_(inputs["latent_scale"])
        outputs["normalize_latent"] = model.normalize(x_start)
        outputs["unnormalize_latent"] = model.unnormalize(x_start)
    return outputs


@torch.no_grad()
def official_predictions(case: Case) -> dict[str, Tensor]:
    """Row by row, since the library's sampling steps have one time for the whole batch."""
    inputs, settings = case.inputs, case.settings
    recorded = [inputs[name] for name in ("network_output", "network_output_uncond") if name in inputs]
    z_t, call = inputs["z_t"], settings["call"]
    denoiser = RecordedDenoiser(z_t.shape[-1], recorded, settings.get("num_classes", 0))
    model = LatentDiffusion(denoiser, recipe_v2(settings["diffusion"]))
    process = model.diffusion
    schedule = process.schedule_for_sampling if call.get("sampling") else process.schedule
    level, log_snr = schedule.alpha_sq(inputs["t"]), schedule.log_snr(inputs["t"])
    grid, rows = SamplingGrid(level, level, log_snr, inputs["t"]), []
    for row in range(z_t.shape[0]):
        one = slice(row, row + 1)
        denoise = guided_denoiser(
            model,
            grid,
            call.get("cls_free_guidance", 1.0),
            mask=inputs["mask"][one],
            class_id=inputs["class_id"][one] if "class_id" in inputs else None,
            project=call.get("l2_normalize", False),
        )
        rows.append(denoise(z_t[one], row, None))
    guided = denoiser.calls[1::2] if len(recorded) > 1 else []
    uncond = [call["class_id"] for call in guided if call["class_id"] is not None]
    return given(
        pred_noise=torch.cat([pred.noise for pred in rows]),
        pred_x_start=torch.cat([pred.x_start for pred in rows]),
        pred_v=torch.cat([pred.v for pred in rows]),
        network_time=torch.stack([call["time"][0] for call in denoiser.calls[:: len(recorded)]]),
        uncond_class_id=torch.cat(uncond) if uncond else None,
    )


def official_training_loss(case: Case) -> dict[str, Tensor]:
    denoiser, inputs = parameter_names.load_denoiser(case.weights), case.inputs
    model = LatentDiffusion(denoiser, recipe_v2(case.settings)).eval()
    result, outputs = training_loss(model, case, inputs["txt_latent"], inputs["mask"], inputs["times"])
    outputs |= {"z_t": result.z_t, "pred_x_start": result.prediction.x_start}
    return outputs | gradients(denoiser, parameter_names.denoiser_names(denoiser.config))


@torch.no_grad()
def official_sampling(case: Case) -> dict[str, Tensor]:
    inputs, settings, call = case.inputs, case.settings, case.call_args
    model = LatentDiffusion(parameter_names.load_denoiser(case.weights), recipe_v2(settings)).eval()
    grid = sampling_grid(model.diffusion.schedule_for_sampling, settings["sampling_timesteps"])
    steps = PredictionSteps()
    batch, length, _ = inputs["z_T"].shape
    mask = torch.ones((batch, length), dtype=torch.bool)
    if not settings["using_latent_model"]:
        mask = torch.arange(length) < torch.tensor(call["lengths"])[:, None]
    denoise = guided_denoiser(
        model,
        grid,
        call.get("cls_free_guidance", 1.0),
        mask=None if settings["using_latent_model"] else mask,
        class_id=inputs.get("class_id"),
        context=inputs.get("seq2seq_cond"),
        context_mask=inputs.get("seq2seq_mask"),
        project=call.get("l2_normalize", False),
    )
    sampler = get_sampler(SAMPLER_NAMES.get(settings["sampler"], settings["sampler"]))
    sampler(denoise, inputs["z_T"], grid, noise=lambda step: inputs["noise"][step], callback=steps)
    return steps.outputs() | {
        "mask": mask,
        "time_grid": grid_times(settings["sampling_timesteps"]),
        "alpha_grid": grid.alpha_sq,
    }


@torch.no_grad()
def unofficial_denoiser(case: Case) -> dict[str, Tensor]:
    return denoiser_output(parameter_names.load_denoiser_v1(case.weights), case)


def unofficial_relative_position_buckets(case: Case) -> dict[str, Tensor]:
    distance = case.inputs["relative_position"]
    outputs = {}
    for config in case.settings["configs"]:
        name = f"buckets_{config['num_buckets']}_{config['max_distance']}"
        outputs[name] = relative_position_bucket(distance, **config)
    return outputs


def derived_buffers(schedule: DiscreteSchedule) -> dict[str, Tensor]:
    """The published buffers. The library keeps betas and their cumulative product; the other buffers are
    functions of these two, which its samplers and its loss do not need."""
    betas = schedule.betas
    alphas = 1 - betas
    cumprod = alphas.cumprod(dim=0)
    previous = torch.cat((cumprod.new_ones(1), cumprod[:-1]))
    variance = betas * (1 - previous) / (1 - cumprod)
    return {
        "betas_float64": betas,
        "betas": betas,
        "alphas": alphas,
        "alphas_cumprod": schedule.alpha_sq(torch.arange(len(betas))),
        "alphas_cumprod_prev": schedule.alpha_sq(torch.arange(len(betas)) - 1),
        "sqrt_alphas_cumprod": cumprod.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - cumprod).sqrt(),
        "sqrt_recip_alphas_cumprod": cumprod.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / cumprod - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * previous.sqrt() / (1 - cumprod),
        "posterior_mean_coef2": (1 - previous) * alphas.sqrt() / (1 - cumprod),
    }


def unofficial_beta_schedules(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for name in case.settings["beta_schedules"]:
        for timesteps in case.settings["timesteps"]:
            buffers = derived_buffers(DiscreteSchedule(name, timesteps))
            outputs |= {f"{name}/timesteps_{timesteps}/{key}": tensor for key, tensor in buffers.items()}
    return outputs


def unofficial_sampling_timesteps(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for timesteps, steps in case.settings["pairs"]:
        grid = sampling_grid(DiscreteSchedule("linear", timesteps), steps)
        outputs[f"timesteps_{timesteps}/steps_{steps}"] = grid.network_time
    return outputs


def unofficial_latent_normalization(case: Case) -> dict[str, Tensor]:
    hidden, mask = case.inputs["hidden_states"], case.inputs["attention_mask"]
    model = LatentDiffusion(RecordedDenoiser(hidden.shape[-1], []), recipe_v1({}))
    model.set_statistics(hidden, mask)
    normalized = model.normalize(hidden)
    return {
        "mean": model.latent_mean,
        "std": model.latent_scale,
        "normalized": normalized,
        "unnormalized": model.unnormalize(normalized),
        "unnormalized_from_raw": model.unnormalize(hidden),
    }


def unofficial_training_loss(case: Case) -> dict[str, Tensor]:
    denoiser, inputs = parameter_names.load_denoiser_v1(case.weights), case.inputs
    model = LatentDiffusion(denoiser, recipe_v1(case.settings)).eval()
    model.set_statistics(inputs["hidden_states"], inputs["attention_mask"])
    hidden, mask = inputs["hidden_states"], inputs["attention_mask"]
    result, outputs = training_loss(model, case, hidden, mask, inputs["t"])
    outputs |= {
        "x_mean": model.latent_mean,
        "x_std": model.latent_scale,
        "x_t": result.z_t,
        "pred_x0": result.prediction.x_start,
        "pred_noise": result.prediction.noise,
    }
    return outputs | gradients(denoiser, parameter_names.denoiser_names_v1(denoiser.config))


@torch.no_grad()
def unofficial_sampling(case: Case) -> dict[str, Tensor]:
    inputs, call = case.inputs, case.call_args
    denoiser = parameter_names.load_denoiser_v1(case.weights)
    model = LatentDiffusion(denoiser, recipe_v1(case.settings)).eval()
    model.latent_mean.copy_(inputs["x_mean"])
    model.latent_scale.copy_(inputs["x_std"])
    grid = sampling_grid(model.diffusion.schedule, call["sampling_steps"])
    steps, watch = PredictionSteps(), Watch(denoiser)
    batch, length, _ = inputs["z_T"].shape
    mask = torch.arange(length) < torch.tensor(call["lengths"])[:, None]
    class_id = None
    if denoiser.config.num_classes:
        class_id = torch.full((batch,), call.get("class_id", denoiser.config.null_class))
    denoise = guided_denoiser(model, grid, mask=mask, class_id=class_id)
    noise = inputs.get("noise")
    z = get_sampler("ddim")(
        denoise, inputs["z_T"], grid, noise=lambda step: noise[step], callback=steps, eta=call["eta"]
    )
    return steps.outputs() | given(
        final=model.unnormalize(z),
        mask=mask,
        timestep_steps=grid.network_time,
        class_id_used=watch.calls[-1]["class_id"],
    )
