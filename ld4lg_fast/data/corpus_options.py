"""Checks of a corpus's options, for command line, config and Python calls."""

import os
from collections.abc import Mapping
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
from ld4lg_fast.options.rules import Described

_QUOTED = "a number as one is written \"'5'\""


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and str(value).strip() != ""


def _are_paths(value: Any) -> bool:
    return all(map(_is_path, elements(value) or [value]))


def _are_files(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(paths is None or _are_paths(paths) for paths in value.values())
    return _are_paths(value)


def _is_repository(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return isinstance(value, str) and value.strip() != ""
    return (
        value.keys() <= {"path", "config", "revision", "data_dir", "streaming"}
        and isinstance(value.get("streaming", False), bool)
        and isinstance(value.get("path"), str)
        and value["path"].strip() != ""
        and all(part is None or isinstance(part, str) for name, part in value.items() if name != "streaming")
    )


def _is_column(value: Any) -> bool:
    # On a command line a column's name may look like a number.
    return isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip() != ""


PATHS = Described(f"a path, or several as in [a.txt,b.txt] ({_QUOTED})", _are_paths)
COLUMN = Described("the name of a column", _is_column)
SWITCHES = ("documents", "compare_contents")
RULES: Mapping[str, Rule] = {
    "root": Described(f"a path ({_QUOTED})", _is_path),
    "files": Described(f"{PATHS}, or of each split such, as in {{train:a.txt,test:b.txt}}", _are_files),
    "hub": Described(
        "owner/name, or have path and perhaps config, revision, data_dir, streaming", _is_repository
    ),
    **dict.fromkeys(("text_column", "label_column", "source_column"), COLUMN),
    **dict.fromkeys(("limit", "num_examples"), WholeNumber()),
    "seed": OPTIONS["seed"],
    "train_fallback": Choice(("validation", "test")),
    **dict.fromkeys(SWITCHES, Switch()),
}
"""Rules by option; each but the seed and the switches may also be null, which stands for its default."""


def check_corpus_options(options: Mapping[str, Any]) -> None:
    """Checks types and ranges of options.

    Raises:
        ConfigError: the first invalid value; the message names the option and what is allowed.
    """
    for name, value in options.items():
        if value is None and name not in ("seed", *SWITCHES):
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
        if paths is not None and (said := complaint(f"dataset.files.{split}", paths, PATHS)):
            raise ConfigError(said)
