"""Checks of the config's sections other than ``train``: seed, dataset, model, autoencoder, recipe, decoding."""

from collections.abc import Mapping
from typing import Any

from ld4lg_fast.data.corpus_options import RULES as CORPUS
from ld4lg_fast.data.corpus_options import check_corpus_options
from ld4lg_fast.decoding.config import MAY_BE_NONE, STRATEGIES
from ld4lg_fast.diffusion.latent_diffusion import ARCHITECTURES
from ld4lg_fast.diffusion.process import LOSSES, OBJECTIVES, WEIGHTINGS
from ld4lg_fast.diffusion.schedules import ContinuousSchedule
from ld4lg_fast.engine.precision import PRECISIONS
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import (
    OPTIONS,
    Choice,
    Number,
    Rule,
    Switch,
    Text,
    WholeNumber,
    unknown_option,
)
from ld4lg_fast.export.runtime.similarity import CHOICES
from ld4lg_fast.models.layers import DIM_HEAD
from ld4lg_fast.options.checks import check
from ld4lg_fast.options.groups import DECODING
from ld4lg_fast.options.precisions import PrecisionChoice
from ld4lg_fast.options.rules import AUTO_OR_SWITCH, NAME_OR_NULL, NULL, Described, Exactly, MultipleOf, OneOf

# Absent in runs of earlier versions.
MAY_BE_MISSING: Mapping[str, Mapping] = {"decoding": {}, "autoencoder.lora": {}}
SECTIONS = ("train", "dataset", "model", "autoencoder", "recipe", "decoding")


def _is_schedule(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(ContinuousSchedule(value))
    except ConfigError:
        return False


SCHEDULE = Described(
    "cosine, simple_linear, beta_linear, sigmoid, straight, tan-D (as in tan-9) or shifted_cosine-R (as in "
    "shifted_cosine-0.5)",
    _is_schedule,
)


# Sizes have the bounds of the saved files (`ld4lg_fast.checkpoints.schemas`).
WIDTH, WIDTH_IN_HEADS = WholeNumber(1, 2**16), MultipleOf(DIM_HEAD, 2**16)
DEPTH, POSITIONS = WholeNumber(1, 512), WholeNumber(1, 2**17)
SHARE, DROPOUT, SWITCH = Number(0, 1), Number(0, 0.999), Switch()

RULES: Mapping[str, Mapping[str, Rule]] = {
    "": {"seed": OPTIONS["seed"], "resume": SWITCH},
    "dataset": {
        **CORPUS,
        "name": Text(),
        "max_len": (TOKENS := WholeNumber(3, 2**17)),
        "source_max_len": OneOf(TOKENS, NULL),
        "seq2seq": SWITCH,
        "num_classes": OneOf(WholeNumber(0, 10_000), NULL),
    },
    "model.language_model": {
        "dim": MultipleOf(DIM_HEAD, 2**14),  # its feed-forward is four times as wide
        "encoder_layers": DEPTH,
        "decoder_layers": DEPTH,
        "dropout": DROPOUT,
        "vocab_size": WholeNumber(260, 2**22),  # the bytes and the special tokens
    },
    "model.perceiver": {
        "num_latents": POSITIONS,
        "dim_latent": WIDTH,
        "depth": DEPTH,
        "l2_normalize": SWITCH,
        "decoder": Text(),
        "num_decoder_latents": POSITIONS,
        "ff_mult": WholeNumber(1, 64),
    },
    "model.denoiser": {
        "dim": MultipleOf(4, 2**16),
        "depth": DEPTH,
        "dropout": DROPOUT,
        "num_dense_connections": WholeNumber(0, 512),
        "unet_skips": SWITCH,
        "qk_norm": SWITCH,
        "scale_shift": SWITCH,
        "cross_attention": SWITCH,
        "heads": OneOf(WholeNumber(1, 1024), NULL),
    },
    "autoencoder": {
        "name_or_path": NAME_OR_NULL,
        "freeze_lm": SWITCH,
        "store_lm": SWITCH,
        "trust_remote_code": SWITCH,
        "cache_states": AUTO_OR_SWITCH,
        "layer": OneOf(DEPTH, NULL),
        "bidirectional": SWITCH,
        "tokenizer_characters": OneOf(WholeNumber(), Exactly("all")),
        "decoder_noise": SHARE,
        "position_dropout": SHARE,
        "token_masking": SHARE,
    },
    "autoencoder.lora": {"rank": OneOf(WholeNumber(1, 4096), NULL), "alpha": Number(0, 1e6, above=True)},
    "recipe": {
        "version": Choice(tuple(ARCHITECTURES)),
        "class_conditional": AUTO_OR_SWITCH,
        "objective": Choice(OBJECTIVES),
        "loss_type": Choice(tuple(LOSSES)),
        "loss_weighting": Choice(WEIGHTINGS),
        "self_condition_prob": SHARE,
        "self_condition_noise": SHARE,
        "class_drop_prob": SHARE,
        "context_drop_prob": SHARE,
        "schedule": SCHEDULE,
        "schedule_scale": Number(1e-3, 1e3),
        "sampling_schedule": OneOf(SCHEDULE, NULL),
        "adaptive_schedule": SWITCH,
        "context_blocks": WholeNumber(1, 64),
        "context_layers": WholeNumber(1, 64),
        "context_noise": SHARE,
        "cut_share": SHARE,
        "prefix_tokens": WholeNumber(0, 4096),
        "l2_normalized": SWITCH,
        "beta_schedule": Choice(("linear", "cosine", "sqrt")),
        "num_train_timesteps": WholeNumber(1, 100_000),
    },
    "decoding": {
        **{
            name: OneOf(part.rule, NULL) if name in MAY_BE_NONE else part.rule
            for name, part in DECODING.items()
        },
        "strategy": Choice(("auto", *STRATEGIES)),
        "choose_decode": Choice(CHOICES),
        "precision": OneOf(PrecisionChoice(PRECISIONS), NULL),
    },
}

NEEDED = (
    *("seed", "dataset.name", "dataset.max_len", "autoencoder.name_or_path", "autoencoder.freeze_lm"),
    *("model.denoiser.dim", "model.denoiser.depth", "recipe.version", "recipe.class_conditional"),
    *("recipe.self_condition_prob", "model.perceiver.num_latents", "model.perceiver.dim_latent"),
    *("model.perceiver.depth", "model.perceiver.l2_normalize"),
)
NEEDED_FROM_SCRATCH = tuple(f"model.language_model.{name}" for name in RULES["model.language_model"])


def check_sections(config: Mapping) -> None:
    """Checks that every section is a group of options.

    Raises:
        ConfigError: names the first section that is not.
    """
    for name in SECTIONS:
        if not isinstance(config.get(name, MAY_BE_MISSING.get(name)), Mapping):
            raise ConfigError(
                f"{name}={config.get(name)} must be a group of options, as in {name}.NAME=VALUE."
            )


def check_model_options(config: Mapping) -> None:
    """Checks names, types and ranges of all options outside the ``train`` section.

    Raises:
        ConfigError: an unknown or missing option, or an invalid value; the message says what is allowed.
    """
    given: dict[str, object] = {}
    for name in config["model"]:
        if f"model.{name}" not in RULES:
            raise ConfigError(unknown_option(f"model.{name}", ("language_model", "perceiver", "denoiser")))
    for section, rules in RULES.items():
        values: Any = config
        for part in section.split(".") if section else ():
            values = values.get(part, MAY_BE_MISSING.get(section))
            if not isinstance(values, Mapping):
                raise ConfigError(f"{section}={values} must be a group of options: {', '.join(rules)}.")
        for name, value in values.items():
            whole = f"{section}.{name}".lstrip(".")
            given[whole] = value
            if section == "dataset" and name in CORPUS:
                check_corpus_options({name: value})
            elif name in rules:
                check(whole, value, rules[name])
            elif section and whole not in RULES:
                raise ConfigError(unknown_option(whole, rules))
    from_scratch = given.get("autoencoder.name_or_path") is None
    for name in (*NEEDED, *(NEEDED_FROM_SCRATCH if from_scratch else ())):
        if name not in given:
            raise ConfigError(f"The option {name} is missing; give it, or leave out what deletes it.")
    _check_language_model(config["autoencoder"])
    _check_denoiser(config["model"]["denoiser"], config["recipe"])
    _check_documents(config["dataset"], config["recipe"])


def _check_language_model(options: Mapping) -> None:
    """LoRA is for a frozen language model."""
    rank = options.get("lora", {}).get("rank")
    if rank is not None and (options["name_or_path"] is None or not options["freeze_lm"]):
        raise ConfigError(
            f"autoencoder.lora.rank={rank} needs a pretrained language model that is frozen otherwise; give "
            "autoencoder.name_or_path and autoencoder.freeze_lm=true, or leave it out."
        )


def _check_denoiser(sizes: Mapping, recipe: Mapping) -> None:
    """Checks combinations of denoiser sizes and recipe options."""
    name, depth = "model.denoiser", sizes["depth"]
    if sizes.get("heads") is None:
        check(f"{name}.dim", sizes["dim"], WIDTH_IN_HEADS)
    skips = sizes.get("num_dense_connections", 0)
    most = depth // 2 if sizes.get("unet_skips") else depth - 1
    if recipe["version"] != "v1" and skips > most:
        raise ConfigError(
            f"{name}.num_dense_connections={skips} is too many for {name}.depth={depth}; give at most {most}."
        )
    if recipe.get("loss_weighting", "none") != "none" and recipe.get("loss_type") != "l2":
        raise ConfigError(
            f"recipe.loss_weighting={recipe['loss_weighting']} weights squared errors; it needs recipe.loss_type=l2, "
            f"not {recipe.get('loss_type')}."
        )


def _check_documents(corpus: Mapping, recipe: Mapping) -> None:
    """Documents are for the recipe that writes them, and the other way round."""
    documents, blocks = bool(corpus.get("documents")), "context_blocks" in recipe
    if documents and not blocks:
        raise ConfigError("dataset.documents=true needs recipe=blocks, which writes texts block by block.")
    if blocks and not documents:
        raise ConfigError("recipe=blocks needs dataset.documents=true, whose texts are cut into blocks.")
    if blocks and corpus["max_len"] < 8:
        raise ConfigError(f"dataset.max_len={corpus['max_len']} leaves no room in a block; give at least 8.")
    if blocks and (corpus.get("seq2seq") or corpus.get("source_column")):
        raise ConfigError(
            "recipe=blocks cannot be combined with source texts; leave dataset.source_column out."
        )
