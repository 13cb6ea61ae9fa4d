"""The unofficial implementation of the paper's first version: a Hydra run's folder.

``.hydra/config.yaml`` and, in ``checkpoints`` or ``checkpoints/epoch_*``, ``pytorch_model_1.bin`` with the EMA (the
last weights are in ``pytorch_model.bin`` or ``model.safetensors``):
``transformer.*``, the frozen BART under ``autoencoder.*``, the schedule's buffers, ``x_mean`` and ``x_std``
(golden NOTES 42-60).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.checkpoints.schemas import RecipeV1, validated
from ld4lg_fast.diffusion.latent_diffusion import make_diffusion
from ld4lg_fast.diffusion.schedules import DiscreteSchedule
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.models import parameter_names
from ld4lg_fast.models.denoiser_v1 import DenoiserConfigV1
from ld4lg_fast.models.layers import DIM_HEAD
from ld4lg_fast.published import base_language_model
from ld4lg_fast.published.model import PublishedModel
from ld4lg_fast.published.published_settings import Settings
from ld4lg_fast.published.weight_files import (
    check_known,
    find_weights,
    latent_statistics,
    load_file,
    naming,
    under,
)

AVERAGED = "pytorch_model_1.bin"
WEIGHTS = (AVERAGED, "model.safetensors", "pytorch_model.bin")
CONFIGS = (".hydra/config.yaml", "config.yaml")
SCHEDULE_BUFFERS = (
    "betas",
    "alphas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)


def find_unofficial(source: Path) -> tuple[Path, Path] | None:
    """Weights and config of an unofficial run, from its folder or one of its checkpoints; None for others.

    In a folder the last checkpoint is chosen, and its EMA if there is one.

    Raises:
        CheckpointError: weights or config are missing.
    """
    folder = source if source.is_dir() else source.parent
    around = [base / name for base in (folder, *folder.resolve().parents[:2]) for name in CONFIGS]
    config = next((path for path in around if path.exists()), None)
    if source.is_file():
        weights = source if source.suffix in (".bin", ".safetensors") else None
    else:
        epochs = sorted((folder / "checkpoints").glob("epoch_*"), reverse=True)
        places = (folder, folder / "checkpoints", *epochs)
        candidates = [base / name for base in places for name in WEIGHTS]
        weights = next((path for path in candidates if path.exists()), None)
    if weights is None:
        if config is None or source.is_file():
            return None
        raise CheckpointError(
            f"{folder} has a config.yaml but none of {', '.join(WEIGHTS)}, neither here nor in checkpoints."
        )
    if config is None:
        raise CheckpointError(
            f"There is no {CONFIGS[0]} around {weights}; a checkpoint can only be imported with the config "
            "that it was trained with, so copy that file from where it was trained."
        )
    return weights, config


def read_unofficial(weights: Path, config: Path, lm: str | None = None) -> PublishedModel:
    """Reads a run, whose latents are hidden states of a frozen language model.

    Args:
        lm: replaces the language model's name.

    Raises:
        CheckpointError: names what is missing or cannot be converted.
    """
    settings = Settings(config)
    recipe, dataset = _recipe(settings), settings.take("dataset.name", str)
    dropout = settings.take("network.transformer.ff_dropout", float)
    content = load_file(weights)
    with naming(weights):
        state, averaged = find_weights(content, "transformer.")
        check_known(state, ("transformer.", "autoencoder."), ("x_mean", "x_std", *SCHEDULE_BUFFERS))
        denoiser = parameter_names.load_denoiser_v1(under(state, "transformer."), dropout)
    _check_network(settings, denoiser.config, weights)
    name = settings.take("network.autoencoder.name", str) if lm is None else lm
    autoencoder = base_language_model.load_by_name(name, denoiser.config.max_len)
    with naming(weights):
        base_language_model.fill(autoencoder.lm, under(state, "autoencoder."))
        mean, scale = latent_statistics(state, "x_mean", "x_std", denoiser.config.dim_latent)
        _check_schedule(state, recipe)
    notes = []
    if not averaged and weights.name != AVERAGED:
        notes.append(f"{weights} holds the last weights of training; the averaged ones are in {AVERAGED}.")
    attention_dropout = settings.take("network.transformer.attn_dropout", float)
    if attention_dropout != dropout:
        notes.append(f"Dropout was {attention_dropout} on attention and is {dropout} everywhere here.")
    return PublishedModel(
        layout="unofficial",
        files=(weights, config),
        autoencoder=autoencoder.eval(),
        denoiser=denoiser,
        recipe=recipe,
        dataset=dataset,
        language_model=name,
        frozen_lm=True,
        latent_mean=mean,
        latent_scale=scale,
        notes=notes,
    )


def _recipe(settings: Settings) -> dict[str, Any]:
    self_condition = settings.take("network.transformer.use_self_condition", bool)
    probability = settings.take("diffusion.self_condition_prob", float)
    recipe = {
        "version": "v1",
        "objective": settings.take("diffusion.objective", str),
        "loss_type": settings.take("diffusion.loss_type", str),
        "beta_schedule": settings.take("diffusion.beta.schedule", str),
        "num_train_timesteps": settings.take("diffusion.timesteps", int),
        "self_condition_prob": probability if self_condition else 0.0,
        "class_drop_prob": settings.take("diffusion.class_uncondition_prob", float),
    }
    validated(RecipeV1, recipe, settings.path)
    with naming(settings.path):
        make_diffusion(recipe)
    return recipe


def _check_network(settings: Settings, config: DenoiserConfigV1, weights: Path) -> None:
    found = {
        "hidden_dim": config.dim,
        "heads": config.heads or config.dim // DIM_HEAD,
        # Reaches nothing but a factor of the position bias and leaves no trace in the weights (NOTES 45).
        "head_dim": DIM_HEAD,
        "depth": config.depth,
        "x_dim": config.dim_latent,
        "seq_len": config.max_len,
        "use_self_condition": config.self_condition,
        "use_class_condition": config.num_classes > 0,
    }
    if config.num_classes:
        found["num_classes"] = config.num_classes
    settings.agree({f"network.transformer.{name}": value for name, value in found.items()}, weights)


def _check_schedule(state: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> None:
    """Checks that a stored schedule equals the one made from the config."""
    stored = state.get("alphas_cumprod")
    if stored is None:
        return
    made = DiscreteSchedule(recipe["beta_schedule"], recipe["num_train_timesteps"]).alphas_cumprod.float()
    if stored.shape != made.shape or not torch.allclose(stored.float(), made, rtol=1e-3, atol=1e-6):
        raise CheckpointError(
            f"alphas_cumprod is not the config's {recipe['beta_schedule']} schedule of "
            f"{recipe['num_train_timesteps']} steps; the two files belong to different runs."
        )
