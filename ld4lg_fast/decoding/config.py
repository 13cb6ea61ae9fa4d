"""`DecodingConfig`: the strategy and options of decoding, stored as ``decoding.json``."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.checkpoints.schemas import DecodingFile, read
from ld4lg_fast.engine.precision import checked_precision
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.export.runtime.option_checks import above_max_length, plain, too_many_for_a_file
from ld4lg_fast.export.runtime.similarity import CHOICES
from ld4lg_fast.options.checks import check_choice, check_given, check_options

STRATEGIES = ("greedy", "beam", "nucleus")
FILE = "decoding.json"
NO_RULES: dict[str, Any] = {"no_repeat_ngram_size": 0, "repetition_penalty": 1.0}
NUMBERS = ("min_length", "num_beams", "top_p", "temperature", "top_k", "num_decodes")
MAY_BE_NONE = ("max_length", *NO_RULES, "length_penalty", "early_stopping")


@dataclass(frozen=True)
class DecodingConfig:
    """How latents become text; the defaults are the paper's (Lovelace et al. 2023, appendix).

    Args:
        strategy: ``greedy``, ``beam`` or ``nucleus``. num_beams: beam only. top_p, temperature, top_k: nucleus only.
        max_length, min_length: in tokens, special tokens included; max_length None is the model's own limit.
        no_repeat_ngram_size: 0 for none. repetition_penalty: 1 for none. None of either: the paper's value for greedy
            and beam search, no rule for nucleus sampling, whose probabilities it would change.
        top_k: number of most probable tokens to sample from; 0 for all.
        length_penalty: beam scores are divided by length^length_penalty; None is the model's own.
        early_stopping: when a beam search ends: True as soon as num_beams texts are complete, False when better
            ones are unlikely, ``never`` when they are impossible; None is the model's own.
        num_decodes: nucleus only: texts sampled from each latent, of which one is kept.
        choose_decode: which one is kept: ``score``, the highest mean log-probability per token, or minimum Bayes risk
            with the similarity ``bleu`` or ``rougeL``.
        precision: of the matmuls, one of `precision.PRECISIONS`; None is that of the model's weights.

    Raises:
        ConfigError: an unknown strategy or a value out of range.
    """

    strategy: str = "beam"
    max_length: int | None = None
    min_length: int = 5
    num_beams: int = 4
    no_repeat_ngram_size: int | None = 3
    repetition_penalty: float | None = 1.2
    top_p: float = 0.95
    temperature: float = 1.0
    top_k: int = 0
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    num_decodes: int = 1
    choose_decode: str = "bleu"
    precision: str | None = None

    def __post_init__(self) -> None:
        check_choice("decoding strategy", self.strategy, STRATEGIES)
        check_options(**{name: getattr(self, name) for name in NUMBERS})
        check_given(**{name: getattr(self, name) for name in MAY_BE_NONE})
        for name in (*NUMBERS, *MAY_BE_NONE):
            object.__setattr__(self, name, plain(getattr(self, name)))
        check_choice("choose_decode", self.choose_decode, CHOICES)
        object.__setattr__(self, "precision", checked_precision(self.precision))
        if self.max_length is not None and self.max_length < self.min_length:
            raise ConfigError(
                f"max_length is {self.max_length}; it must be at least min_length, {self.min_length}."
            )
        if self.num_decodes > 1 and self.strategy != "nucleus":
            raise ConfigError(
                f"num_decodes is {self.num_decodes}; more than 1 needs strategy=nucleus, as {self.strategy} gives the "
                "same text every time."
            )

    @property
    def rules(self) -> dict:
        """The effective ``no_repeat_ngram_size`` and ``repetition_penalty``, by name."""
        given = {name: getattr(self, name) for name in NO_RULES if getattr(self, name) is not None}
        papers = {name: getattr(DecodingConfig, name) for name in NO_RULES}
        return (NO_RULES if self.strategy == "nucleus" else papers) | given

    @classmethod
    def of(cls, given: Mapping, name: str) -> "DecodingConfig":
        """The paper's config with the ``given`` entries; ``name`` is that of the group in messages.

        Raises:
            ConfigError: an entry that does not exist, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise ConfigError(f"{name}.{key} does not exist; the entries are {', '.join(known)}.")
        config = cls(**given)
        config.check_storable()
        return config

    def check_storable(self) -> None:
        """Refuses more beams or decodes than a file may have.

        Raises:
            ConfigError: the sentence names them.
        """
        sentence = too_many_for_a_file("", num_beams=self.num_beams, num_decodes=self.num_decodes)
        if sentence is not None:
            raise ConfigError(sentence)

    @classmethod
    def load(cls, directory: Path) -> "DecodingConfig":
        """The config of a run directory, or the paper's if it has none.

        Raises:
            CheckpointError: the file is damaged, or has values out of range.
        """
        path = directory / FILE
        if not os.path.lexists(path):
            return cls()
        stored = read(DecodingFile, path, "a run directory").model_dump()
        try:
            return cls.of(stored, str(path))
        except ConfigError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

    def save(self, directory: Path) -> None:
        """Writes it to a run directory, unless it is the paper's config."""
        if self != DecodingConfig():
            write_json(directory / FILE, asdict(self))
        else:
            (directory / FILE).unlink(missing_ok=True)


def check_lengths(config: DecodingConfig, max_len: int) -> None:
    """Refuses longer texts than a model of at most ``max_len`` tokens handles.

    Raises:
        ConfigError: ``config.max_length`` (which counts the start token) or ``config.min_length`` is too large.
    """
    if config.max_length is None and (sentence := above_max_length(config.min_length, max_len)):
        raise ConfigError(sentence)
    if (config.max_length or 0) > max_len + 1:
        raise ConfigError(
            f"max_length {config.max_length} exceeds the {max_len} tokens that this model handles."
        )
