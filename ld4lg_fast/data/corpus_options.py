"""What the options of a corpus may be, wherever they are given: on a command line, in a config, in a call."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ld4lg_fast.data.catalogue import split_alias
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import (
    OPTIONS,
    Choice,
    Rule,
    Switch,
    WholeNumber,
    complaint,
    elements,
)

_QUOTED = "a number as one is written \"'5'\""


@dataclass(frozen=True)
class FileName:
    """The name of a file or a folder."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, str | os.PathLike) and str(value).strip() != ""

    def __str__(self) -> str:
        return f"a path ({_QUOTED})"


@dataclass(frozen=True)
class FileNames:
    """One file or several."""

    def allows(self, value: Any) -> bool:
        several = elements(value) or [value]
        return all(map(FileName().allows, several))

    def __str__(self) -> str:
        return f"a path, or several as in [a.txt,b.txt] ({_QUOTED})"


@dataclass(frozen=True)
class Files:
    """The files of the training texts, or those of each split."""

    def allows(self, value: Any) -> bool:
        if isinstance(value, Mapping):
            return all(paths is None or FileNames().allows(paths) for paths in value.values())
        return FileNames().allows(value)

    def __str__(self) -> str:
        return f"{FileNames()}, or of each split such, as in {{train:a.txt,test:b.txt}}"


@dataclass(frozen=True)
class HubName:
    """A repository's name, or a group with the parts of its address."""

    def allows(self, value: Any) -> bool:
        if not isinstance(value, Mapping):
            return isinstance(value, str) and value.strip() != ""
        known = {"path", "config", "revision", "data_dir"}
        return (
            value.keys() <= known
            and HubName().allows(value.get("path"))
            and all(part is None or isinstance(part, str) for part in value.values())
        )

    def __str__(self) -> str:
        return "owner/name, or have path and perhaps config, revision, data_dir"


@dataclass(frozen=True)
class ColumnName:
    """The name of a column, which on a command line may look like a number."""

    def allows(self, value: Any) -> bool:
        return (
            isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip() != ""
        )

    def __str__(self) -> str:
        return "the name of a column"


RULES: Mapping[str, Rule] = {
    "root": FileName(),
    "files": Files(),
    "hub": HubName(),
    **dict.fromkeys(("text_column", "label_column", "source_column"), ColumnName()),
    **dict.fromkeys(("limit", "num_examples"), WholeNumber()),
    "seed": OPTIONS["seed"],
    "train_fallback": Choice(("validation", "test")),
    "documents": Switch(),
    "documents": Switch(),
}
"""Of the options that say where the texts are; null, which each but the seed may be, leaves them at their default."""


def check_corpus_options(options: Mapping[str, Any]) -> None:
    """Refuses values of the wrong kind or out of range.

    Raises:
        ConfigError: the first of them; the sentence names the option and what it may be.
    """
    for name, value in options.items():
        if value is None and name not in ("seed", "documents"):
            continue
        whole = f"dataset.{name}"
        if name in ("limit", "num_examples") and isinstance(value, int) and value < 1:
            raise ConfigError(f"{whole}={value} leaves no texts: use 1 or more, or null")
        if name == "files" and isinstance(value, Mapping):
            _check_files(value)
        elif said := complaint(whole, value, RULES[name]):
            raise ConfigError(said)


def _check_files(files: Mapping[str, Any]) -> None:
    for split, paths in files.items():
        if split_alias(split) is None:
            raise ConfigError(f"dataset.files.{split} is no split: use train, validation and test")
        if paths is not None and (said := complaint(f"dataset.files.{split}", paths, FileNames())):
            raise ConfigError(said)
