"""Checks that all stages of a run can be trained, before anything on disk is changed.

Models are built on the meta device, without memory for their weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.checkpoints.schemas import LatentDiffusionFile, LatentDiffusionFileV1, validated
from ld4lg_fast.data import TextDataset, load_from_config, train_bpe_tokenizer
from ld4lg_fast.decoding.config import DecodingConfig, check_lengths
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion, make_diffusion
from ld4lg_fast.diffusion.schedules import DiscreteSchedule, sampling_grid
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.autoencoder_model import (
    build_from_scratch,
    load_pretrained,
    load_tokenizer,
    nothing_to_train,
    training_texts,
    trusts_code,
)
from ld4lg_fast.training.checkpoint import CheckpointStore
from ld4lg_fast.training.decoder_stage import load_source_run
from ld4lg_fast.training.derived_options import chosen_decoding, number_of_classes, source_limit
from ld4lg_fast.training.diffusion_stage import build_denoiser
from ld4lg_fast.training.distillation import load_teacher, student_of
from ld4lg_fast.training.graphed_step import check_capture
from ld4lg_fast.training.memory_bounds import check_memory
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.state_cache import check_cache_states
from ld4lg_fast.training.train_section import StageOptions

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Prepared:
    """``pretrained``: the result of `load_pretrained`, if the first stage has to be trained."""

    dataset: TextDataset
    decoding: DecodingConfig
    pretrained: LanguageAutoencoder | None


def prepare(config: Mapping, session: Session, stages: Sequence[str]) -> Prepared:
    """Reads the corpus and checks that each of ``stages`` can be trained; changes nothing on disk.

    Raises:
        LD4LGError: a stage cannot be trained; the message names the option to change.
    """
    dataset = load_from_config(config["dataset"])
    classes, limit = number_of_classes(config, dataset), source_limit(config, dataset)
    decoding = chosen_decoding(config, from_sources=limit is not None)
    try:
        check_lengths(decoding, config["dataset"]["max_len"])
    except ConfigError as error:
        raise ConfigError(f"decoding.{error}") from error
    if session.options.cuda_graph:
        check_capture(session.accelerator, session.options, config["recipe"].get("adaptive_schedule", False))
    num_texts = {stage: len(dataset.train) for stage in stages}
    if "autoencoder" in stages:
        num_texts["autoencoder"] = len(training_texts(config, dataset))
        if nothing_to_train(config):
            del num_texts["autoencoder"]
    fit_batches(session, num_texts)
    options = session.options
    pretrained = autoencoder = None
    if "autoencoder" in stages:
        pretrained = load_pretrained(config, dataset)
        autoencoder = pretrained or _first_stage_skeleton(config, dataset, session)
        check_cache_states(config, autoencoder)
        if "autoencoder" in num_texts:
            sizes = "model.language_model and model.perceiver"
            check_memory(sizes, autoencoder, options.autoencoder, "autoencoder", session)
    if "diffusion" in stages:
        _check_second_stage(config, dataset, autoencoder, session)
    if "decoder" in stages:
        source = load_source_run(options)[1]
        documents = "context_blocks" in config["recipe"]
        _check_conditions("train.finetune_decoder_from", source, classes, limit, documents)
    return Prepared(dataset, decoding, pretrained)


def fit_batches(session: Session, num_texts: Mapping[str, int]) -> None:
    """Lowers the batch sizes of stages to the number of texts that they train on, and says so in one line.

    Args:
        num_texts: of each stage by its name.

    Raises:
        ConfigError: a batch size is no multiple of processes times micro-batches, or there are too few texts for one.
    """
    lowered: dict[str, Any] = {}
    for stage, count in num_texts.items():
        options: StageOptions = getattr(session.options, stage)
        parts = session.world_size * options.micro_batches
        dealt = f"{session.world_size} processes in {options.micro_batches} micro-batches each"
        if options.batch_size % parts:
            option = f"train.{stage}.batch_size={options.batch_size}"
            raise ConfigError(f"{option} cannot be dealt to {dealt}; choose a multiple of {parts}.")
        if count < parts:
            raise ConfigError(
                f"{count} training texts cannot be dealt to {dealt}; lower train.{stage}.micro_batches, or give "
                "more texts."
            )
        if options.batch_size > count:
            lowered[stage] = replace(options, batch_size=count // parts * parts)
    if lowered:
        session.options = replace(session.options, **lowered)
        sizes = " and ".join(f"train.{stage}.batch_size={part.batch_size}" for stage, part in lowered.items())
        count = min(num_texts[stage] for stage in lowered)
        console.print(f"There are only {count} training texts, so this run uses {sizes}.")


def _on_meta(options: str, build: Callable[[], M]) -> M:
    """The module from ``build`` on the meta device; ``options`` names the options of its sizes, for errors."""
    try:
        with torch.device("meta"):
            return build()
    except (ConfigError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise ConfigError(f"{options}: {error}") from error


def _first_stage_skeleton(config: Mapping, dataset: TextDataset, session: Session) -> LanguageAutoencoder:
    """The autoencoder to train from scratch, on the meta device; in a resumed run it must fit the checkpoint."""
    known = load_tokenizer(session.run.tokenizer) if config["resume"] else None
    tokenizer = known or train_bpe_tokenizer(["a"], 260)  # training one on the corpus would take long
    autoencoder = _on_meta(
        "model.language_model and model.perceiver", lambda: build_from_scratch(config, dataset, tokenizer)
    )
    if known is not None:
        _store("autoencoder", session).check_fits(autoencoder)
    return autoencoder


def _store(stage: str, session: Session) -> CheckpointStore:
    return CheckpointStore(session.run.checkpoints(stage), has_ema=stage == "diffusion")


def _check_second_stage(
    config: Mapping, dataset: TextDataset, autoencoder: LanguageAutoencoder | None, session: Session
) -> None:
    """Builds and checks the denoiser; ``autoencoder`` is the first stage's, None if that is finished."""
    options = session.options
    if autoencoder is None:
        teacher = None if config["resume"] else options.distill_from
        run = session.run if teacher is None else RunDirectory(teacher)
        autoencoder = _load_autoencoder(run, trusts_code(config))
    name = "model.denoiser and recipe"
    if options.distill_from is None:
        model = _on_meta(name, lambda: build_denoiser(config, dataset, autoencoder))
        _check_saved(model)
    else:
        name = "train.distill_from"
        model = student_of(load_teacher(options), options.distill_steps)
        documents, classes = "context_blocks" in config["recipe"], number_of_classes(config, dataset)
        _check_conditions(name, model, classes, source_limit(config, dataset), documents)
    model.check_latents_of(autoencoder.num_latents, autoencoder.dim_latent)
    check_memory(name, model, options.diffusion, "diffusion", session)
    if config["resume"]:
        _store("diffusion", session).check_fits(model)
    if options.distill_from is None:
        _check_validation(model, options.validation_num_inference_steps)


def _check_validation(model: LatentDiffusion, num_steps: int) -> None:
    """Checks that the schedule has enough levels for the sampling steps of validation."""
    schedule = make_diffusion(model.recipe).schedule_for_sampling
    option = f"train.validation_num_inference_steps={num_steps}"
    if isinstance(schedule, DiscreteSchedule) and num_steps > schedule.num_train_timesteps:
        raise ConfigError(
            f"{option} is more than recipe.num_train_timesteps={schedule.num_train_timesteps}; give at most as many."
        )
    try:
        sampling_grid(schedule, num_steps)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from error


def _load_autoencoder(run: RunDirectory, trust_remote_code: bool) -> LanguageAutoencoder:
    """A run's finished autoencoder.

    Raises:
        CheckpointError: it is damaged; the message says how to recover it.
    """
    try:
        return LanguageAutoencoder.load(run.autoencoder, trust_remote_code)
    except CheckpointError as error:
        if not CheckpointStore(run.checkpoints("autoencoder")).steps():
            raise
        raise CheckpointError(
            f"{error} Delete {run.autoencoder} to have it made again from the last checkpoint of its stage, with "
            "resume=true."
        ) from error


def _check_conditions(
    option: str, model: LatentDiffusion, classes: int, limit: int | None, documents: bool = False
) -> None:
    """Checks that the corpus has the classes, sources or documents that a trained denoiser is conditioned on."""
    known = model.denoiser.config.num_classes
    if known != classes:
        raise ConfigError(
            f"{option}: its model has {known or 'no'} classes, and the corpus {classes or 'none'}; train on the "
            "corpus that it was trained on."
        )
    if model.writes_documents != documents:
        raise ConfigError(
            f"{option}: its model writes {'documents' if model.writes_documents else 'single texts'}; train with the "
            "recipe and the corpus that it was trained with."
        )
    if model.is_seq2seq != (limit is not None):
        raise ConfigError(
            f"{option}: its model writes {'from source texts' if model.is_seq2seq else 'without source texts'}; train "
            "on the corpus that it was trained on."
        )


def _check_saved(model: LatentDiffusion) -> None:
    """Checks that recipe and sizes can be loaded again after saving."""
    content = {"format": 1, "recipe": model.recipe, "denoiser": asdict(model.denoiser.config)}
    schema = LatentDiffusionFileV1 if model.diffusion.discrete else LatentDiffusionFile
    try:
        validated(schema, content, RunDirectory("").denoiser / "config.json")
    except CheckpointError as error:
        raise ConfigError(f"The denoiser could not be loaded again: {error}") from error
