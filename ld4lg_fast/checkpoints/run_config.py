"""Reads ``config.yaml`` of a run without environment variables and OmegaConf resolvers."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ld4lg_fast.checkpoints.files import read_text
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.json_files import MOST_DEPTH
from ld4lg_fast.export.runtime.renamed import current_entries

FILE = "config.yaml"
MAX_BYTES = 2**20


def read_run_config(path: Path) -> DictConfig:
    """The stored config, with unresolved interpolations and options by their current names.

    Raises:
        CheckpointError: the file is missing or damaged, or is YAML that no training writes: anchors, deep nesting.
    """
    try:
        text = read_text(path, MAX_BYTES)
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise CheckpointError(
                    f"{path} has anchors, which no config of a run has; write the values out."
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise CheckpointError(
                    f"{path} is nested more than {MOST_DEPTH} deep, which no config of a run is."
                )
        config = OmegaConf.create(text)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist, so {path.parent} is no run directory.") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} cannot be read as the config of a run ({reason[:200]}).") from error
    if not isinstance(config, DictConfig):
        raise CheckpointError(f"{path} is no mapping, so it is no config of a run.")
    content: Any = OmegaConf.to_container(config, resolve=False)
    for section, entries in content.items():
        if isinstance(entries, dict):
            content[section] = current_entries(section, entries)
    return OmegaConf.create(content)


def resolved(config: DictConfig, path: Path, section: str) -> dict[str, Any]:
    """A section of a stored config as plain values.

    Raises:
        CheckpointError: the section is missing, a value calls a resolver, or an interpolation has no target.
    """
    check_interpolations(config, path)
    try:
        content = OmegaConf.to_container(config[section], resolve=True)
    except (OmegaConfBaseException, KeyError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} has no readable section {section} ({reason[:200]}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} has no readable section {section}.")
    return {str(key): value for key, value in content.items()}


def check_interpolations(config: DictConfig, path: Path, but: Collection[str] = ()) -> None:
    """Checks that no value calls a resolver, as ``${oc.env:HOME}`` does, which could leak secrets of the user.

    Args:
        but: keys that the command line overrides.

    Raises:
        CheckpointError: names the key and the value.
    """
    for key, value in resolver_keys(config).items():
        if key not in but:
            raise CheckpointError(
                f"{path} has {key}={value}, which is not followed in a stored config; write the value out, or give "
                f"{key}=... on the command line."
            )


def resolver_keys(config: DictConfig) -> dict[str, str]:
    """Dotted keys and values that call a resolver, as ``${oc.env:HOME}`` but not ``${model.dim}`` does."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [("", OmegaConf.to_container(config, resolve=False))]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{key}.{name}" if key else str(name), inner) for name, inner in items]
        elif isinstance(value, str) and (start := value.find("${")) >= 0 and ":" in value[start:]:
            found[key] = value
    return found
