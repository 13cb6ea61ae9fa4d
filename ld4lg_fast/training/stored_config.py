"""The config as a run directory keeps it, and the command line on top of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ld4lg_fast._version import __version__
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.weights import write_atomically

GROUPS = ("dataset", "model", "autoencoder", "recipe")


def is_run_config(path: Path) -> bool:
    """Whether ``path`` is a config that `store` wrote."""
    try:
        config = OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError):
        return False
    return OmegaConf.is_dict(config) and "ld4lg_fast" in config and "groups" in config


def store(path: Path, config: DictConfig, groups: Mapping[str, str]) -> None:
    """Writes the config with the version and the chosen config groups; interpolations stay as they are."""
    header = OmegaConf.create({"ld4lg_fast": __version__, "groups": dict(groups)})
    text = OmegaConf.to_yaml(header) + OmegaConf.to_yaml(config)
    write_atomically(path, text.encode())


def load_with_overrides(path: Path, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """A stored config with the command line's plain values on top, and its config groups.

    Raises:
        CheckpointError: the file cannot be read.
        ConfigError: the command line chooses a group otherwise than the run did.
    """
    try:
        config = OmegaConf.load(path)
        groups = dict(config.pop("groups"))
        config.pop("ld4lg_fast")
    except (OSError, YAMLError, OmegaConfBaseException, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as the config of a run ({error}).") from error
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        if key.startswith("hydra."):
            continue
        if key in GROUPS:
            if value != groups[key]:
                raise ConfigError(
                    f"The run in {path.parent} has {key}={groups[key]} and cannot go on with {key}={value}; "
                    f"leave {key}= out, or choose another hydra.run.dir."
                )
        elif override.is_delete():
            with open_dict(config):
                section, _, name = key.rpartition(".")
                (OmegaConf.select(config, section) if section else config).pop(name)
        else:
            OmegaConf.update(config, key, value, force_add=True)
    return config, groups
