"""What is decoded, and how exactly it is computed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ld4lg_fast.candidates import CHOICES
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.linear import check_precision
from ld4lg_fast.weights import read_json, write_json

STRATEGIES = ("greedy", "beam", "nucleus")
FILE = "decoding.json"
NO_RULES = {"no_repeat_ngram_size": 0, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class DecodingConfig:
    """How latents become text; the defaults are the paper's (Lovelace et al. 2023, appendix).

    Args:
        strategy: ``greedy``, ``beam`` or ``nucleus``. num_beams: beam only. top_p, temperature, top_k: nucleus only.
        max_length, min_length: in tokens, special tokens included; max_length None is the model's own limit.
        no_repeat_ngram_size: 0 for none. repetition_penalty: 1 for none. None of either: the paper's value, but none
            where tokens are drawn, as it changes the probabilities that they are drawn from.
        top_k: the most probable tokens that are drawn from; 0 for all.
        length_penalty: beam scores are divided by length^length_penalty; None is the model's own.
        early_stopping: when a beam search ends: True as soon as num_beams texts are complete, False when better
            ones are unlikely, ``never`` when they are impossible; None is the model's own.
        num_decodes: nucleus only: how many texts are drawn from each latent, of which one is kept.
        choose_decode: the one that is kept: ``score``, the most probable a token, or minimum Bayes risk with the
            similarity ``bleu`` or ``rougeL``.
        precision: of the matrix products, one of `linear.PRECISIONS`; None is that of the model's weights.

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
        if self.strategy not in STRATEGIES:
            raise ConfigError(
                f"Unknown decoding strategy {self.strategy!r}; choose one of {', '.join(STRATEGIES)}."
            )
        if self.min_length < 0 or (self.max_length is not None and self.max_length < max(2, self.min_length)):
            raise ConfigError(
                f"min_length {self.min_length} and max_length {self.max_length} do not fit together."
            )
        if self.num_beams < 1 or not 0 < self.top_p <= 1 or self.temperature <= 0 or self.top_k < 0:
            raise ConfigError(
                f"num_beams {self.num_beams}, top_p {self.top_p}, temperature {self.temperature} and top_k "
                f"{self.top_k} must be at least 1, in (0, 1], above 0, and 0 or more."
            )
        if self.rules["no_repeat_ngram_size"] < 0 or self.rules["repetition_penalty"] <= 0:
            raise ConfigError(
                f"no_repeat_ngram_size {self.no_repeat_ngram_size} must be 0 or more and repetition_penalty "
                f"{self.repetition_penalty} above 0."
            )
        if self.early_stopping not in (None, True, False, "never"):
            raise ConfigError(f"early_stopping {self.early_stopping!r} must be true, false or never.")
        if self.num_decodes < 1 or (self.num_decodes > 1 and self.strategy != "nucleus"):
            raise ConfigError(
                f"num_decodes {self.num_decodes} must be at least 1, and more than 1 needs strategy=nucleus, as "
                f"{self.strategy} gives the same text every time."
            )
        if self.choose_decode not in CHOICES:
            raise ConfigError(
                f"Unknown choose_decode {self.choose_decode!r}; choose one of {', '.join(CHOICES)}."
            )
        check_precision(self.precision)

    @property
    def rules(self) -> dict:
        """The ``no_repeat_ngram_size`` and ``repetition_penalty`` that hold, by name."""
        given = {name: getattr(self, name) for name in NO_RULES if getattr(self, name) is not None}
        papers = {name: getattr(DecodingConfig, name) for name in NO_RULES}
        return (NO_RULES if self.strategy == "nucleus" else papers) | given

    @classmethod
    def of(cls, given: Mapping, name: str) -> "DecodingConfig":
        """The paper's way but for what is ``given``; ``name`` is that of the group in messages.

        Raises:
            ConfigError: an entry that does not exist, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise ConfigError(f"{name}.{key} does not exist; the entries are {', '.join(known)}.")
        return cls(**given)

    @classmethod
    def load(cls, directory: Path) -> "DecodingConfig":
        """What a run directory says, or the paper's way.

        Raises:
            CheckpointError: the file is damaged.
            ConfigError: it says something impossible.
        """
        path = directory / FILE
        return cls.of(read_json(path, "a run directory"), str(path)) if path.exists() else cls()

    def save(self, directory: Path) -> None:
        """Keeps it in a run directory, where it is not the paper's way."""
        if self != DecodingConfig():
            write_json(directory / FILE, asdict(self))
        else:
            (directory / FILE).unlink(missing_ok=True)
