"""The official release (Lovelace et al., NeurIPS 2023): a diffusion run's folder and its autoencoder's.

Each folder holds ``args.json`` and ``model.pt``. A diffusion run's file has the EMA under
``ema`` (names of ema-pytorch) and the last weights under ``model``: ``diffusion_model.*``, the source encoder
``context_encoder.*`` and the latents' statistics (golden NOTES 28 and 37). An autoencoder's has the language
model with ``perceiver_ae.*`` under ``model``. Letters: N latents, d latent width.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.checkpoints.schemas import Recipe, validated
from ld4lg_fast.diffusion.latent_diffusion import make_diffusion
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.models import parameter_names
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

WEIGHTS = ("model.pt", "best_model.pt")  # the latter of sequence-to-sequence runs
POSITIONS = "pos_emb.emb.weight"
PERCEIVER = "perceiver_ae."
SOURCE_LENGTHS = {"xsum": 4}  # maximum source length as a multiple of the texts'


def find_official(source: Path) -> Path | None:
    """The weights file of an official run, given its folder or a file in it; None for anything else.

    Raises:
        CheckpointError: settings or weights are missing.
    """
    folder = source if source.is_dir() else source.parent
    if source.is_file():
        is_official = source.suffix == ".pt" or (folder / "args.json").exists()
        weights = source
    else:
        weights = next((folder / name for name in WEIGHTS if (folder / name).exists()), folder / WEIGHTS[0])
        is_official = weights.exists() or (folder / "args.json").exists()
    if not is_official:
        return None
    for path, what in ((weights, "weights"), (folder / "args.json", "settings")):
        if not path.exists():
            raise CheckpointError(
                f"{folder} has no {path.name}, the {what} of an official checkpoint; "
                "copy it from where it was trained."
            )
    return weights


@dataclass(frozen=True)
class OfficialAutoencoder:
    """A language autoencoder, its settings, and the name or folder of its language model."""

    model: LanguageAutoencoder
    name: str
    frozen: bool
    files: tuple[Path, ...]


def read_official(weights: Path, autoencoder: Path | None = None, lm: str | None = None) -> PublishedModel:
    """Reads a diffusion run and its autoencoder.

    Args:
        weights: the run's model.pt, beside its args.json.
        autoencoder: the autoencoder's folder, if it is not at ``latent_model_path``.
        lm: replaces the language model's name.

    Raises:
        CheckpointError: names what is missing or cannot be converted.
    """
    settings = Settings(weights.parent / "args.json")
    _check_version(settings)
    recipe, dataset = _recipe(settings), settings.take("dataset_name", str)
    normalized = settings.take("normalize_latent", bool)
    dropout = 0.0 if settings.take("disable_dropout", bool) else 0.1
    content = load_file(weights)
    with naming(weights):
        state, averaged = find_weights(content, "diffusion_model.")
        check_known(state, ("diffusion_model.", "context_encoder."), ("latent_mean", "latent_scale"))
        network = under(state, "diffusion_model.")
        config = parameter_names.denoiser_config(network)
    settings.agree(
        {
            "tx_dim": config.dim,
            "tx_depth": config.depth,
            "max_seq_len": config.max_len,
            "num_dense_connections": config.num_dense_connections,
            "self_condition": config.self_condition,
            "scale_shift": config.scale_shift,
            "class_conditional": config.num_classes > 0,
        },
        weights,
    )
    text = _read_autoencoder_or_lm(settings, autoencoder, lm, config.max_len)
    with naming(weights):
        network[POSITIONS] = _used_positions(network[POSITIONS], text.model.num_latents)
        denoiser = parameter_names.load_denoiser(network, dropout)
        if config.dim_context:
            recipe["source_max_len"] = config.max_len * SOURCE_LENGTHS.get(dataset, 1)
            base_language_model.check_same_encoder(text.model.lm, under(state, "context_encoder."))
        mean = scale = None
        if normalized:
            mean, scale = latent_statistics(state, "latent_mean", "latent_scale", config.dim_latent)
    recipe["l2_normalized"] = text.model.perceiver is not None and text.model.perceiver.config.l2_normalize
    if normalized and recipe["l2_normalized"]:
        raise CheckpointError(
            f"{settings.path} has normalize_latent=true, but the autoencoder's latents are l2-normalised, "
            "which the published system never combines; these files belong to different runs."
        )
    notes = [f"{weights} has no averaged weights (ema), so the last ones of training are used."]
    step = content.get("step")
    return PublishedModel(
        layout="official",
        files=(weights, settings.path, *text.files),
        autoencoder=text.model,
        denoiser=denoiser,
        recipe=recipe,
        dataset=dataset,
        language_model=text.name,
        frozen_lm=text.frozen,
        latent_mean=mean,
        latent_scale=scale,
        step=step if isinstance(step, int) else None,
        notes=[] if averaged else notes,
    )


def _check_version(settings: Settings) -> None:
    if "dim_ae" in settings and "tx_dim" not in settings:
        raise CheckpointError(
            f"{settings.path.parent} holds an autoencoder alone; give the diffusion run's folder, and this "
            "one with --autoencoder."
        )
    if "beta_schedule" in settings and "train_schedule" not in settings:
        raise CheckpointError(
            f"{settings.path} has a beta_schedule: it is of the official repository's first version, whose "
            "discrete diffusion cannot be imported; runs of its second version, with train_schedule, can."
        )


def _read_autoencoder_or_lm(
    settings: Settings, folder: Path | None, lm: str | None, max_len: int
) -> OfficialAutoencoder:
    """The autoencoder, or only the language model if the run diffuses its hidden states."""
    said = settings.take("latent_model_path", str, None)
    if said is not None:
        return read_autoencoder(folder or _find_autoencoder(settings.path.parent, said), lm)
    if folder is not None:
        raise CheckpointError(
            f"{settings.path} names no autoencoder (latent_model_path=null); leave --autoencoder out."
        )
    name = settings.take("enc_dec_model", str) if lm is None else lm
    return OfficialAutoencoder(base_language_model.load_by_name(name, max_len), name, frozen=True, files=())


def _find_autoencoder(folder: Path, said: str) -> Path:
    """Resolves ``latent_model_path``, also relative to the run's folder and its parents."""
    resolved = folder.resolve()
    for base in (Path(), resolved, *resolved.parents):
        if os.path.exists(base / said / WEIGHTS[0]):  # False for invalid names
            return base / said
    raise CheckpointError(
        f"{folder / 'args.json'} says that the autoencoder is in {said}, where no model.pt was found; "
        "give its folder with --autoencoder."
    )


def read_autoencoder(folder: Path, lm: str | None = None) -> OfficialAutoencoder:
    """Reads an autoencoder's folder; raises as `read_official`."""
    settings, weights = Settings(folder / "args.json"), folder / WEIGHTS[0]
    l2_normalize = settings.take("l2_normalize_latents", bool)
    content = load_file(weights)
    with naming(weights):
        state, _ = find_weights(content, PERCEIVER)
        perceiver = parameter_names.load_perceiver(under(state, PERCEIVER), l2_normalize)
    config = perceiver.config
    found = {
        "dim_ae": config.dim_latent,
        "num_encoder_latents": config.num_latents,
        "num_layers": config.depth,
    }
    settings.agree(found, weights)
    name = settings.take("enc_dec_model", str) if lm is None else lm
    frozen = settings.take("lm_mode", str) == "freeze"
    max_len = min(settings.take("max_seq_len", int), config.max_len)
    if max_len < 1:
        raise CheckpointError(f"{settings.path} has max_seq_len={max_len}; a text has at least one token.")
    base = base_language_model.load_by_name(name, max_len, frozen)
    if base.lm.config.hidden_size != config.dim_lm:
        raise CheckpointError(
            f"{weights} is for a language model of width {config.dim_lm}, but {name} is "
            f"{base.lm.config.hidden_size} wide; give the right one with --language-model."
        )
    with naming(weights):
        others = {key: tensor for key, tensor in state.items() if not key.startswith(PERCEIVER)}
        base_language_model.fill(base.lm, others)
    model = LanguageAutoencoder(base.lm, base.tokenizer, perceiver, max_len, frozen)
    return OfficialAutoencoder(model.eval(), name, frozen, (weights, settings.path))


def _used_positions(table: Tensor, num_latents: int) -> Tensor:
    """The first N rows: the published table is as long as a text, but only N positions are used."""
    if table.shape[0] < num_latents:
        raise CheckpointError(
            f"The denoiser has {table.shape[0]} positions but the autoencoder gives {num_latents} latents; "
            "they belong to different runs."
        )
    return table[:num_latents]


def _recipe(settings: Settings) -> dict[str, Any]:
    """The recipe; ``l2_normalized`` is set later, from the autoencoder."""
    self_condition = settings.take("self_condition", bool)
    probability = settings.take("train_prob_self_cond", float)
    recipe = {
        "version": "v2",
        "objective": settings.take("objective", str),
        "loss_type": settings.take("loss_type", str),
        "schedule": settings.take("train_schedule", str),
        "schedule_scale": settings.take("scale", float),
        "sampling_schedule": settings.take("sampling_schedule", str, None),
        "self_condition_prob": probability if self_condition else 0.0,
        "class_drop_prob": settings.take("class_unconditional_prob", float),
        "context_drop_prob": settings.take("seq2seq_unconditional_prob", float),
        "l2_normalized": False,
    }
    validated(Recipe, recipe, settings.path)
    with naming(settings.path):
        make_diffusion(recipe)
    return recipe
