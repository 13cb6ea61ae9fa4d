"""`ld4lg import-checkpoint`: converts a published checkpoint to a run directory."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict

from ld4lg_fast._version import __version__
from ld4lg_fast.checkpoints import stored_config
from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.checkpoints.schemas import DenoiserFile, DenoiserFileV1, PerceiverFile, validated
from ld4lg_fast.data import DATASETS, load_from_config, tokenize_texts
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.statistics import RunStatistics
from ld4lg_fast.published import (
    PublishedModel,
    find_official,
    find_unofficial,
    read_official,
    read_unofficial,
)
from ld4lg_fast.terminal.console import console
from ld4lg_fast.terminal.hydra_arguments import shell_command

FAMILIES = ("bart", "t5", "mt5")  # config groups of pretrained language models


def import_checkpoint(
    source: Path | str,
    out_dir: Path | str,
    *,
    autoencoder: Path | str | None = None,
    language_model: str | None = None,
    dataset_root: Path | str | None = None,
) -> Path:
    """Writes a run directory that `TextDiffusionPipeline.from_pretrained` loads; returns its path.

    Args:
        source: a published run's folder, or a weights file in it.
        out_dir: a directory that does not exist or is empty; it is left unchanged on errors.
        autoencoder: the official autoencoder's folder, if it is not at ``latent_model_path``.
        language_model: name or folder of the language model, instead of the name in the settings.
        dataset_root: the training corpus, to count lengths and classes.

    Raises:
        CheckpointError: the checkpoint is incomplete, needs pickle, or has parts that cannot be converted.
        ConfigError: ``out_dir`` is not empty, or the corpus does not fit the model.
        DataError: the corpus cannot be read.
    """
    source, out = Path(source), Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty, so nothing was imported; choose another directory.")
    published = read_published(source, Path(autoencoder) if autoencoder else None, language_model)
    check_sizes(published)
    config, groups = run_config(published, dataset_root)
    statistics = corpus_statistics(published, config, counted=dataset_root is not None)
    pipeline = TextDiffusionPipeline(published.autoencoder, latent_diffusion(published, config), statistics)

    whole = out.resolve()
    unfinished = RunDirectory(whole.with_name(f".{whole.name}.{os.getpid()}.tmp"))
    try:
        unfinished.path.mkdir(parents=True)
        pipeline.save_pretrained(unfinished.path)
        write_json(unfinished.path / "import.json", provenance(published))
        stored_config.store(unfinished.config, config, groups)
        if whole.exists():
            whole.rmdir()
        os.rename(unfinished.path, whole)
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written ({error.strerror}); choose another directory or make room."
        ) from error
    finally:
        shutil.rmtree(unfinished.path, ignore_errors=True)
    _print_summary(published, statistics, out)
    return out


def read_published(source: Path, autoencoder: Path | None, language_model: str | None) -> PublishedModel:
    """The model of either published system.

    Raises:
        CheckpointError: ``source`` is a checkpoint of neither, or cannot be read.
    """
    if not source.exists():
        raise CheckpointError(f"The checkpoint {source} does not exist.")
    if (weights := find_official(source)) is not None:
        return read_official(weights, autoencoder, language_model)
    if autoencoder is not None:
        raise CheckpointError(
            f"{source} is no official run, so it has no autoencoder; leave --autoencoder out."
        )
    if stored_config.is_run_config(source / "config.yaml"):
        raise CheckpointError(
            f"{source} is a run directory of ld4lg-fast already; there is nothing to import."
        )
    if (found := find_unofficial(source)) is not None:
        return read_unofficial(*found, language_model)
    raise CheckpointError(
        f"{source} is no checkpoint that can be imported: give the folder of an official run (model.pt, "
        "args.json) or of an unofficial one (.hydra/config.yaml, checkpoints/pytorch_model_1.bin)."
    )


def check_sizes(published: PublishedModel) -> None:
    """Checks that the sizes are in the range of the saved files' schemas.

    Raises:
        CheckpointError: a size or dropout is out of range.
    """
    denoiser, perceiver = published.denoiser.config, published.autoencoder.perceiver
    schema = DenoiserFileV1 if published.recipe["version"] == "v1" else DenoiserFile
    validated(schema, asdict(denoiser), published.files[0])
    if perceiver is not None:
        validated(PerceiverFile, asdict(perceiver.config), published.files[0])


def run_config(
    published: PublishedModel, dataset_root: Path | str | None
) -> tuple[DictConfig, dict[str, str]]:
    """The training config of an equivalent run, and its config groups."""
    family = published.autoencoder.lm.config.model_type
    denoiser, perceiver = published.denoiser.config, published.autoencoder.perceiver
    if published.dataset in DATASETS:
        dataset = published.dataset
    elif dataset_root is None:
        dataset = "custom"
    else:
        raise ConfigError(
            f"The checkpoint was trained on {published.dataset!r}, which is none of {', '.join(DATASETS)}; "
            "leave --dataset-root out."
        )
    groups = {
        "dataset": dataset,
        "model": "base",
        "autoencoder": family if family in FAMILIES else "bart",
        "recipe": published.recipe["version"],
    }
    with initialize_config_module("ld4lg_fast.configs", version_base="1.3"):
        config = compose("train", [f"{group}={choice}" for group, choice in groups.items()])
    with open_dict(config):
        config.recipe.update(published.recipe)
        config.recipe.class_conditional = denoiser.num_classes > 0
        config.dataset.max_len = published.autoencoder.max_len
        config.dataset.root = None if dataset_root is None else str(dataset_root)
        if "source_max_len" in published.recipe:
            config.dataset.source_max_len = config.recipe.pop("source_max_len")
            config.dataset.seq2seq = True
        config.autoencoder.name_or_path = published.language_model
        config.autoencoder.freeze_lm = published.frozen_lm
        config.model.denoiser.update(_fields(denoiser, config.model.denoiser))
        if perceiver is not None:
            config.model.perceiver.update(_fields(perceiver.config, config.model.perceiver))
    return config, groups


def _fields(sizes: object, names: Iterable[str]) -> dict[str, Any]:
    """The values of ``names`` that a network's config has (v1 has no dense connections)."""
    return {name: getattr(sizes, name) for name in names if hasattr(sizes, name)}


def latent_diffusion(published: PublishedModel, config: DictConfig) -> LatentDiffusion:
    """The latent diffusion model: denoiser, process and latent statistics."""
    recipe: Any = OmegaConf.to_container(config.recipe, resolve=True)
    recipe |= published.recipe
    del recipe["class_conditional"]
    model = LatentDiffusion(published.denoiser, recipe).eval()
    if published.latent_mean is not None and published.latent_scale is not None:
        model.latent_mean.copy_(published.latent_mean)
        model.latent_scale.copy_(published.latent_scale)
    return model


def corpus_statistics(published: PublishedModel, config: DictConfig, counted: bool) -> RunStatistics:
    """Statistics of the corpus if it is available, else only the class names.

    Raises:
        ConfigError: the corpus and the model have different classes.
        DataError: the corpus cannot be read.
    """
    num_classes = published.denoiser.config.num_classes
    if not counted:
        names = DATASETS[config.dataset.name].class_names
        return RunStatistics(
            class_names=names if names and len(names) == num_classes else None,
            origin=f"unknown: the checkpoint holds no counts of its corpus ({published.dataset})",
        )
    options: Any = OmegaConf.to_container(config.dataset, resolve=True)
    dataset = load_from_config(options)
    if num_classes and dataset.num_classes != num_classes:
        raise ConfigError(
            f"The model has {num_classes} classes but the corpus ({dataset.origin}) "
            f"{dataset.num_classes or 'none'}; give the corpus that it was trained on."
        )
    tokens = tokenize_texts(dataset.train.texts, published.autoencoder.tokenizer, config.dataset.max_len)
    return RunStatistics.of_texts(
        tokens.lengths,
        dataset.train.labels,
        dataset.class_names,
        dataset.origin,
        tokens.num_truncated,
    )


def provenance(published: PublishedModel) -> dict[str, Any]:
    """Content of ``import.json``: the source of the import."""
    return {
        "layout": published.layout,
        "files": [str(path) for path in published.files],
        "language_model": published.language_model,
        "dataset": published.dataset,
        "step": published.step,
        "notes": published.notes,
        "ld4lg_fast": __version__,
    }


def _print_summary(published: PublishedModel, statistics: RunStatistics, out: Path) -> None:
    at_step = "" if published.step is None else f" at step {published.step}"
    lines = [
        f"Imported the {published.layout} checkpoint {published.files[0]}{at_step} to {out}.",
        *published.notes,
    ]
    if not statistics.length_counts and published.autoencoder.perceiver is None:
        lines.append(
            "Its samples' lengths are drawn from those of its training texts, which the checkpoint does not hold; "
            "import it again with --dataset-root FOLDER to count them."
        )
    else:
        lines += ["Sample texts with:", f"  {shell_command('ld4lg', 'sample', out)}"]
    console.print(*lines, sep="\n")
