"""Scoring models by hub name, folder or GGUF file, each loaded once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from ld4lg_fast.autoencoder.pretrained import hub_answers
from ld4lg_fast.autoencoder.storage import without_progress_bars
from ld4lg_fast.checkpoints.language_model import load_pretrained
from ld4lg_fast.evaluation.unavailable import ModelUnavailable, Unavailable

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Location of a model: arguments of `from_pretrained`, and a fingerprint of its files."""

    arguments: tuple[str, dict]
    fingerprint: str


@dataclass(frozen=True)
class ScoringModel:
    """A model in evaluation mode with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def max_positions(self) -> int:
        """Maximum number of tokens; a large number if the config has no valid limit."""
        said = getattr(self.model.config, "max_position_embeddings", None)
        return said if isinstance(said, int) and said > 0 else 1 << 20


class ScoringModels:
    """Scoring models by name; failures are cached, too."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._sources: dict[str, Source | Unavailable] = {}
        self._loaded: dict[tuple[str, type], ScoringModel | Unavailable] = {}

    def fingerprint(self, name: str) -> str:
        """Identifies the files of a model without loading it; raises `Unavailable` if there are none."""
        return self._source(name).fingerprint

    def used(self) -> dict[str, str]:
        """Fingerprints of the models that were found, by name."""
        return {
            name: source.fingerprint for name, source in self._sources.items() if isinstance(source, Source)
        }

    def language_model(self, name: str) -> ScoringModel:
        """A causal language model; raises `Unavailable` if it cannot be loaded."""
        return self._load(name, AutoModelForCausalLM)

    def encoder(self, name: str) -> ScoringModel:
        """A model that gives hidden states; raises `Unavailable` if it cannot be loaded."""
        return self._load(name, AutoModel)

    def _source(self, name: str) -> Source:
        if name not in self._sources:
            try:
                self._sources[name] = _find(name)
            except Unavailable as missing:
                self._sources[name] = missing
        return _or_raise(self._sources[name])

    def _load(self, name: str, kind: type) -> ScoringModel:
        if (name, kind) not in self._loaded:
            place, options = self._source(name).arguments
            try:
                self._loaded[name, kind] = _loaded(kind, place, options, self.device)
            except BaseException as error:  # of any kind; panics of tokenizers are no Exception
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
                self._loaded[name, kind] = ModelUnavailable(
                    f"the model {name} cannot be loaded ({reason}): name another one"
                )
        return _or_raise(self._loaded[name, kind])


def _loaded(kind: type, place: str, options: dict, device: torch.device) -> ScoringModel:
    with without_progress_bars():
        # The pooler is not used, and some encoders are stored without it.
        model, tokenizer = load_pretrained(kind, place, optional=("pooler.",), **options)
    return ScoringModel(model.to(device), tokenizer)  # type: ignore[arg-type]  # a decorator of theirs loses self


def _or_raise(found: T | Unavailable) -> T:
    if isinstance(found, Unavailable):
        raise found
    return found


def _find(name: str) -> Source:
    path = Path(name).expanduser()
    if path.is_dir():
        options: dict[str, Any] = {"local_files_only": True}
        if any(path.glob("*.safetensors")):
            options["use_safetensors"] = True  # and no pickle beside them
        return Source((str(path), options), _state_of(sorted(path.rglob("*"))))
    if path.is_file() and path.suffix == ".gguf":
        options = {"gguf_file": path.name, "local_files_only": True}
        return Source((str(path.parent), options), _state_of([path]))
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith((".", "~")):
        raise Unavailable(f"the model {name} does not exist: give an existing folder, .gguf file or hub name")
    options = {"local_files_only": not hub_answers(name)}
    try:
        file = cached_file(name, "config.json", **options)
        config = Path(file)  # type: ignore[arg-type]  # None is for files that may be missing
    except (OSError, ValueError) as error:
        raise ModelUnavailable(
            f"the model {name} is neither a local folder nor cached, and the hub does not give it: "
            "name a folder with a downloaded copy"
        ) from error
    # The hub's cache keeps each revision in a folder that is named after its commit.
    return Source((name, options), f"{name}@{config.parent.name}")


def _state_of(files: list[Path]) -> str:
    stats = [(file, file.stat()) for file in files if file.is_file()]
    return "|".join(f"{file}:{stat.st_size}:{stat.st_mtime_ns}" for file, stat in stats)
