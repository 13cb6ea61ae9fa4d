"""The engine in float32 against the published samplers' trajectories, at the samples' real positions."""

from pathlib import Path

import pytest
import torch
from golden_cases import Case, Steps, load_cases, share_of_tolerance
from golden_library import SAMPLER_NAMES, recipe_v1, recipe_v2
from torch import Tensor

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.kernels import ops
from ld4lg_fast.models import parameter_names

CASES = [case for case in load_cases(Path(__file__).parents[1] / "golden") if case.kind.endswith("_sampling")]
NOISE = 6  # its column among the coefficients of `ops.sampler_step`


def official(case: Case) -> tuple[LatentDiffusion, dict]:
    inputs, settings, call = case.inputs, case.settings, case.call_args
    model = LatentDiffusion(parameter_names.load_denoiser(case.weights), recipe_v2(settings))
    options = {
        "sampler": SAMPLER_NAMES.get(settings["sampler"], settings["sampler"]),
        "num_inference_steps": settings["sampling_timesteps"],
        "guidance_scale": call.get("cls_free_guidance", 1.0),
        "project": call.get("l2_normalize", False),
        "class_id": inputs.get("class_id"),
        "context": inputs.get("seq2seq_cond"),
        "context_mask": inputs.get("seq2seq_mask"),
    }
    if not settings["using_latent_model"]:
        options["lengths"] = torch.tensor(call["lengths"])
    return model, options


def unofficial(case: Case) -> tuple[LatentDiffusion, dict]:
    inputs, call = case.inputs, case.call_args
    model = LatentDiffusion(parameter_names.load_denoiser_v1(case.weights), recipe_v1(case.settings))
    model.latent_mean.copy_(inputs["x_mean"])
    model.latent_scale.copy_(inputs["x_std"])
    options = {
        "sampler": "ddim",
        "num_inference_steps": call["sampling_steps"],
        "eta": call["eta"],
        "class_id": call.get("class_id"),
        "lengths": torch.tensor(call["lengths"]),
    }
    return model, options


def with_recorded_noise(monkeypatch, inputs: dict[str, Tensor], model: LatentDiffusion) -> Steps:
    """Replaces the engine's random numbers by those of a case; returns a callback that records every step."""
    steps, plain_step = Steps(), ops.sampler_step

    def step_with_noise(output, z, x_prev, coefficients, step, *noise):
        *_, self_condition, first = noise
        z_next, x_start, next_input = plain_step(
            output, z, x_prev, coefficients, step, self_condition=self_condition
        )
        if coefficients[step, NOISE]:
            z_next = z_next + coefficients[step, NOISE] * inputs["noise"][step]
            next_input = model.denoiser.network_input(z_next, x_start if self_condition else None)
        steps(int(step), z_next, x_start)
        return z_next, x_start, next_input

    monkeypatch.setattr(ops, "sampler_step", step_with_noise)
    monkeypatch.setattr(ops, "philox_normal", lambda *draw: inputs["z_T"])
    return steps


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_engine_follows_the_published_trajectory(case, monkeypatch):
    model, options = {"official_sampling": official, "unofficial_sampling": unofficial}[case.kind](case)
    model.eval()
    batch = len(case.inputs["z_T"])
    steps = with_recorded_noise(monkeypatch, case.inputs, model)
    final = sample_latents(model, batch, batch_size=batch, precision="fp32", **options)
    got, want = steps.outputs() | {"final": final}, case.wanted
    real = torch.ones(final.shape[:2], dtype=torch.bool)
    if "lengths" in options:
        real = torch.arange(final.shape[1]) < options["lengths"][:, None]
    compared = got.keys() & want.keys()
    assert "z_steps" in compared and (case.kind == "official_sampling" or "final" in compared)
    for name in compared:
        assert got[name].shape == want[name].shape
        of_real = [tensor[..., real, :] for tensor in (got[name], want[name])]
        share = share_of_tolerance(*of_real, case.tolerance(name))
        assert share <= 1, f"{name}: {share:.3g} of the tolerance"
