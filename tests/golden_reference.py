"""The reference implementation's outputs for golden cases: a function for each kind, of its name."""

from typing import Any

import torch
from golden_cases import Case, Steps, given
from torch import Tensor, nn

from benchmarks.reference import (
    v1_denoiser,
    v1_diffusion,
    v2_autoencoder,
    v2_denoiser,
    v2_diffusion,
    v2_schedules,
)

DIFFUSION_SETTINGS_V2 = (
    "max_seq_len",
    "sampling_timesteps",
    "objective",
    "loss_type",
    "sampler",
    "train_schedule",
    "sampling_schedule",
    "scale",
    "train_prob_self_cond",
    "l2_normalize",
    "using_latent_model",
)


def load(network: nn.Module, case: Case) -> nn.Module:
    network.load_state_dict(case.weights, strict=True)
    return network.eval()


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """``grad/<name>`` of every parameter that has one, and the norm of all of them."""
    grads = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
    return {f"grad/{name}": grad for name, grad in grads.items()} | {"grad_norm": norm}


def training_loss(diffusion: nn.Module, case: Case) -> tuple[Any, dict[str, Tensor]]:
    """The loss with the case's draws, and the outputs that both versions call by the same name."""
    inputs = case.inputs
    coin = inputs.pop("coin").item() if "coin" in inputs else None
    result = diffusion(coin=coin, **inputs)
    result.loss.backward()
    return result, given(loss=result.loss, x_self_cond=result.x_self_cond, class_id_used=result.class_id)


class RecordedNetwork(nn.Module):
    """Returns recorded outputs in turn; records the times and classes of the calls."""

    def __init__(self, outputs: list[Tensor], num_classes: int) -> None:
        super().__init__()
        self.outputs, self.num_classes, self.latent_dim = outputs, num_classes, outputs[0].shape[-1]
        self.times: list[Tensor] = []
        self.class_ids: list[Tensor | None] = []

    def forward(self, x: Tensor, mask: Tensor, time: Tensor, x_self_cond, class_id, *context) -> Tensor:
        self.times.append(time)
        self.class_ids.append(class_id)
        return self.outputs[len(self.times) - 1]


def diffusion_v2(network: nn.Module, settings: dict) -> v2_diffusion.GaussianDiffusion:
    known = {name: settings[name] for name in DIFFUSION_SETTINGS_V2 if name in settings}
    return v2_diffusion.GaussianDiffusion(network, **({"max_seq_len": 0} | known))


@torch.no_grad()
def official_denoiser(case: Case) -> dict[str, Tensor]:
    network = load(v2_denoiser.DiffusionTransformer(**case.constructor), case)
    return {"out": network(**case.inputs)}


@torch.no_grad()
def official_autoencoder(case: Case) -> dict[str, Tensor]:
    network, inputs = load(v2_autoencoder.PerceiverAutoencoder(**case.constructor), case), case.inputs
    states, mask = inputs["encoder_outputs"], inputs["attention_mask"]
    latents = network.encode(states, mask)
    outputs = {"latents": latents, "decoded": network.decode(latents), "forward": network(states, mask)}
    if "free_latents" in inputs:
        outputs["decoded_free_latents"] = network.decode(inputs["free_latents"])
    return outputs


def official_schedules(case: Case) -> dict[str, Tensor]:
    outputs, settings = {}, case.settings
    for dtype in ("float32", "float64"):
        t = case.inputs[f"t_{dtype}"]
        for name in settings["schedules"]:
            outputs[f"{name}/{dtype}/unshifted"] = v2_schedules.unshifted(name, t)
            for scale in settings["scales"]:
                prefix = f"{name}/{dtype}/scale_{scale}"
                outputs[f"{prefix}/alpha"] = v2_schedules.alpha_at(name, t, scale)
                outputs[f"{prefix}/log_snr"] = v2_schedules.log_snr(name, t, scale)
    for steps in settings["step_counts"]:
        outputs[f"time_grid/steps_{steps}"] = v2_schedules.time_pairs(steps)
    return outputs


def official_conversions(case: Case) -> dict[str, Tensor]:
    inputs, outputs = case.inputs, {}
    z_t, x_start, noise, v = (inputs[name] for name in ("z_t", "x_start", "noise", "v"))
    diffusion = diffusion_v2(RecordedNetwork([z_t], 0), case.settings["diffusion"])
    for schedule in ("train_schedule", "sampling_schedule"):
        level = diffusion.alpha(inputs["t"], sampling=schedule == "sampling_schedule")
        alpha = level[:, None, None]
        conversions = {
            "alpha": level,
            "start_from_noise": v2_schedules.start_from_noise(z_t, noise, alpha),
            "noise_from_start": v2_schedules.noise_from_start(z_t, x_start, alpha),
            "start_from_v": v2_schedules.start_from_v(z_t, v, alpha),
            "noise_from_v": v2_schedules.noise_from_v(z_t, v, alpha),
            "v_from_start_and_noise": v2_schedules.v_from_start_and_noise(x_start, noise, alpha),
        }
        outputs |= {f"{schedule}/{name}": tensor for name, tensor in conversions.items()}
    if "latent_mean" in inputs:
        diffusion.latent_mean, diffusion.latent_scale = inputs["latent_mean"], inputs["latent_scale"]
        outputs["normalize_latent"] = diffusion.normalize_latent(x_start)
        outputs["unnormalize_latent"] = diffusion.unnormalize_latent(x_start)
    return outputs


def official_predictions(case: Case) -> dict[str, Tensor]:
    inputs, settings = case.inputs, case.settings
    recorded = [inputs[name] for name in ("network_output", "network_output_uncond") if name in inputs]
    network = RecordedNetwork(recorded, settings.get("num_classes", 0))
    pred = diffusion_v2(network, settings["diffusion"]).model_predictions(
        inputs["z_t"], inputs["mask"], inputs["t"], class_id=inputs.get("class_id"), **settings["call"]
    )
    return given(
        pred_noise=pred.noise,
        pred_x_start=pred.x_start,
        pred_v=pred.v,
        network_time=network.times[0],
        uncond_class_id=network.class_ids[-1] if len(network.class_ids) > 1 else None,
    )


def official_training_loss(case: Case) -> dict[str, Tensor]:
    network = load(v2_denoiser.DiffusionTransformer(**case.constructor), case)
    result, outputs = training_loss(diffusion_v2(network, case.settings), case)
    return outputs | gradients(network) | {"z_t": result.z_t, "pred_x_start": result.x_start}


def official_sampling(case: Case) -> dict[str, Tensor]:
    network = load(v2_denoiser.DiffusionTransformer(**case.constructor), case)
    diffusion, inputs, steps = diffusion_v2(network, case.settings), case.inputs, Steps()
    z_start = inputs.pop("z_T")
    batch, lengths = z_start.shape[0], case.call_args.get("lengths")
    diffusion.sample(batch, z_start=z_start, callback=steps, **inputs, **case.call_args)
    pairs = v2_schedules.time_pairs(diffusion.sampling_timesteps)
    times = torch.cat((pairs[:, 0], pairs[-1:, 1]))
    return steps.outputs() | {
        "mask": diffusion.mask_for(batch, lengths, "cpu"),
        "time_grid": times,
        "alpha_grid": diffusion.alpha(times, sampling=True),
    }


@torch.no_grad()
def unofficial_denoiser(case: Case) -> dict[str, Tensor]:
    network = load(v1_denoiser.DiffusionTransformer(**case.constructor), case)
    return {"out": network(**case.inputs)}


def unofficial_relative_position_buckets(case: Case) -> dict[str, Tensor]:
    distance = case.inputs["relative_position"]
    outputs = {}
    for config in case.settings["configs"]:
        name = f"buckets_{config['num_buckets']}_{config['max_distance']}"
        outputs[name] = v1_denoiser.relative_position_buckets(distance, **config)
    return outputs


def unofficial_beta_schedules(case: Case) -> dict[str, Tensor]:
    outputs = {}
    for name in case.settings["beta_schedules"]:
        for timesteps in case.settings["timesteps"]:
            betas = v1_diffusion.make_betas(name, timesteps)
            buffers = v1_diffusion.derived_buffers(betas) | {"betas_float64": betas}
            outputs |= {f"{name}/timesteps_{timesteps}/{key}": tensor for key, tensor in buffers.items()}
    return outputs


def unofficial_sampling_timesteps(case: Case) -> dict[str, Tensor]:
    return {
        f"timesteps_{timesteps}/steps_{steps}": v1_diffusion.sampling_timesteps(timesteps, steps)[:-1]
        for timesteps, steps in case.settings["pairs"]
    }


def unofficial_latent_normalization(case: Case) -> dict[str, Tensor]:
    hidden, mask = case.inputs["hidden_states"], case.inputs["attention_mask"]
    diffusion = v1_diffusion.GaussianDiffusion(_Sized(hidden.shape[-1]))
    diffusion.set_statistics(*v1_diffusion.latent_statistics(hidden, mask))
    normalized = diffusion.normalize(hidden)
    return {
        "mean": diffusion.x_mean,
        "std": diffusion.x_std,
        "normalized": normalized,
        "unnormalized": diffusion.unnormalize(normalized),
        "unnormalized_from_raw": diffusion.unnormalize(hidden),
    }


class _Sized(nn.Module):
    """A network that has a latent width and nothing else."""

    def __init__(self, x_dim: int) -> None:
        super().__init__()
        self.x_dim = x_dim


def unofficial_training_loss(case: Case) -> dict[str, Tensor]:
    network = load(v1_denoiser.DiffusionTransformer(**case.constructor), case)
    diffusion = v1_diffusion.GaussianDiffusion(network, **case.settings)
    result, outputs = training_loss(diffusion, case)
    return (
        outputs
        | gradients(network)
        | given(
            x_mean=diffusion.x_mean,
            x_std=diffusion.x_std,
            x_t=result.x_t,
            pred_x0=result.pred_x0,
            pred_noise=result.pred_noise,
            class_id_used_by_self_cond_pass=result.class_id_self_cond,
        )
    )


def unofficial_sampling(case: Case) -> dict[str, Tensor]:
    network = load(v1_denoiser.DiffusionTransformer(**case.constructor), case)
    diffusion, inputs, steps = v1_diffusion.GaussianDiffusion(network, **case.settings), case.inputs, Steps()
    diffusion.set_statistics(inputs["x_mean"], inputs["x_std"])
    final, mask = diffusion.sample(
        z_start=inputs["z_T"], noise=inputs.get("noise"), callback=steps, **case.call_args
    )
    timesteps = v1_diffusion.sampling_timesteps(diffusion.timesteps, case.call_args["sampling_steps"])
    ids = diffusion.class_ids(final.shape[0], case.call_args.get("class_id"))
    return steps.outputs() | given(final=final, mask=mask, timestep_steps=timesteps[:-1], class_id_used=ids)
