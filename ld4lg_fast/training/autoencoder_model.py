"""Builds the language autoencoder of the first stage and its tokenizer, and tokenizes the corpus."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.lora import Lora
from ld4lg_fast.checkpoints.files import writing
from ld4lg_fast.checkpoints.tokenizer import read_tokenizer
from ld4lg_fast.data import TextDataset, TokenizedTexts, train_bpe_tokenizer
from ld4lg_fast.data.tokenization import TRAINED_CHARACTERS, CachedTokens
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.models.language_models import Reading
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.derived_options import source_limit
from ld4lg_fast.training.seeding import step_seed
from ld4lg_fast.training.session import Session, on_main

NAME = "autoencoder"


def perceiver_sizes(config: Mapping) -> Mapping | None:
    """The Perceiver's options; None for recipe v1, which has none."""
    return None if config["recipe"]["version"] == "v1" else config["model"]["perceiver"]


def trusts_code(config: Mapping) -> bool:
    """Whether this command's user has the language model's own Python code executed."""
    return config["autoencoder"].get("trust_remote_code", False)


def load_pretrained(config: Mapping, dataset: TextDataset) -> LanguageAutoencoder | None:
    """A new autoencoder around a pretrained language model; None when training from scratch.

    Raises:
        CheckpointError: the language model does not exist.
        ConfigError: it handles fewer tokens than ``dataset.max_len`` or ``dataset.source_max_len``.
    """
    name, longest_source = config["autoencoder"]["name_or_path"], source_limit(config, dataset) or 0
    if name is None:
        return None
    torch.manual_seed(step_seed(config["seed"], NAME, "weights"))
    options, corpus = config["autoencoder"], config["dataset"]
    autoencoder = LanguageAutoencoder.from_pretrained_lm(
        name,
        perceiver_sizes(config),
        corpus["max_len"],
        freeze_lm=options["freeze_lm"],
        reading=Reading(options.get("layer"), options.get("bidirectional", False)),
        store_lm=options.get("store_lm", True),
        trust_remote_code=trusts_code(config),
    )
    if (lora := lora_options(config)) is not None:
        lora.add_to(autoencoder.lm)
    if not (options.get("store_lm", True) or autoencoder.trains_perceiver_alone):
        raise ConfigError(
            "autoencoder.store_lm=false needs a language model that training leaves as it is, and weights of "
            f"{name} are trained: leave it out, or give autoencoder.freeze_lm=true, no LoRA, and a model with an end "
            "of text."
        )
    limit = autoencoder.most_tokens
    prefix = config["recipe"].get("prefix_tokens", 0)
    if limit is not None and limit < corpus["max_len"] + prefix + (prefix > 0):
        raise ConfigError(
            f"{name} handles at most {limit} tokens, fewer than dataset.max_len={corpus['max_len']} and "
            f"recipe.prefix_tokens={prefix} together; lower one of them."
        )
    limit = autoencoder.language_model.most_tokens(0)
    if limit is not None and limit < longest_source:
        raise ConfigError(
            f"{name} handles at most {limit} tokens; lower dataset.source_max_len={longest_source}."
        )
    return autoencoder


def lora_options(config: Mapping) -> Lora | None:
    """The option group ``autoencoder.lora``; None without a rank.

    Raises:
        ConfigError: the package peft is missing.
    """
    given = config["autoencoder"].get("lora") or {}
    return None if given.get("rank") is None else Lora(given["rank"], given["alpha"])


def build_from_scratch(
    config: Mapping, dataset: TextDataset, tokenizer: PreTrainedTokenizerBase
) -> LanguageAutoencoder:
    """A new autoencoder with a small, randomly initialised language model."""
    lm = {name: size for name, size in config["model"]["language_model"].items() if name != "vocab_size"}
    max_len = config["dataset"]["max_len"]
    # Before a block the decoder reads what every text begins with and the last tokens of the text before.
    prefix = config["recipe"].get("prefix_tokens", 0)
    longest = max(max_len + prefix + (prefix > 0), source_limit(config, dataset) or 0)
    torch.manual_seed(step_seed(config["seed"], NAME, "weights"))
    return LanguageAutoencoder.from_scratch(
        tokenizer, lm, perceiver_sizes(config), max_len, max_positions=longest
    )


def make_tokenizer(config: Mapping, dataset: TextDataset, session: Session) -> PreTrainedTokenizerBase:
    """The run's tokenizer, trained on its texts; a resumed run loads the stored one."""
    folder = session.run.tokenizer

    def train() -> None:
        if load_tokenizer(folder) is not None:
            return
        if folder.exists():
            console.print(f"{folder} is damaged and is made again.")
        texts, size = training_texts(config, dataset), config["model"]["language_model"]["vocab_size"]
        asked = config["autoencoder"].get("tokenizer_characters", TRAINED_CHARACTERS)
        with session.interrupts.immediately():
            tokenizer = train_bpe_tokenizer(texts, size, None if asked == "all" else asked)
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        with writing(folder):
            for old in (folder, unfinished):
                shutil.rmtree(old, ignore_errors=True)
            tokenizer.save_pretrained(unfinished)
            os.replace(unfinished, folder)

    on_main(session.accelerator, train)
    return load_tokenizer(folder)  # type: ignore[return-value]  # it is there now


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """A tokenizer that ``save_pretrained`` wrote; None if it is missing or damaged."""
    if not folder.is_dir():
        return None
    try:
        tokenizer = read_tokenizer(folder)
    except CheckpointError:
        return None
    whole = None not in (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    return tokenizer if whole else None


def training_texts(config: Mapping, dataset: TextDataset) -> Sequence[str]:
    """The texts that the autoencoder trains on: the training texts, and from scratch also their sources."""
    from_scratch = config["autoencoder"]["name_or_path"] is None
    if from_scratch and source_limit(config, dataset) is not None:
        return [*dataset.train.texts, *(dataset.train.sources or [])]
    return dataset.train.texts


def tokenize(
    autoencoder: LanguageAutoencoder, dataset: TextDataset, session: Session
) -> tuple[TokenizedTexts, TokenizedTexts]:
    """Token ids of the training texts and of the first ``train.validation_texts`` validation texts."""
    validation = dataset.validation.texts[: session.options.validation_texts]
    train = tokenized(dataset.train.texts, autoencoder, autoencoder.max_len, session)
    return train, tokenized(validation, autoencoder, autoencoder.max_len, session)


def tokenize_sources(
    autoencoder: LanguageAutoencoder, dataset: TextDataset, max_len: int, session: Session
) -> tuple[TokenizedTexts, TokenizedTexts]:
    """The same for the source texts, truncated to ``max_len`` tokens."""
    validation = (dataset.validation.sources or [])[: session.options.validation_texts]
    train = tokenized(dataset.train.sources or [], autoencoder, max_len, session)
    return train, tokenized(validation, autoencoder, max_len, session)


def tokenized(
    texts: Sequence[str], autoencoder: LanguageAutoencoder, max_len: int, session: Session
) -> TokenizedTexts:
    """Token ids of texts, cached in the run directory; the processes share the shards out."""
    tokenizer, folder = autoencoder.tokenizer, session.run.cache
    cached = session.interruptible(lambda: CachedTokens(texts, tokenizer, max_len, folder))
    session.interruptible(lambda: cached.encode(session.mine(cached.starts)))
    return session.interruptible(cached.open)


def nothing_to_train(config: Mapping) -> bool:
    """Whether the latents are a frozen language model's hidden states."""
    pretrained = config["autoencoder"]["name_or_path"] is not None
    return pretrained and config["autoencoder"]["freeze_lm"] and perceiver_sizes(config) is None
