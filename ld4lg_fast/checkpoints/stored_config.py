"""The config stored in a run directory, and command-line overrides of it."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ld4lg_fast._version import __version__
from ld4lg_fast.checkpoints.files import write_atomically
from ld4lg_fast.checkpoints.run_config import check_interpolations, read_run_config, resolver_keys
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.export.runtime.renamed import current_words

GROUPS = ("dataset", "model", "autoencoder", "recipe")
RESUMING = {"resume": True, "train.stage": "diffusion"}
CONSENTS = ("autoencoder.trust_remote_code",)
SOURCE_RUNS = ("train.distill_from", "train.finetune_decoder_from")


def is_run_config(path: Path) -> bool:
    """Whether ``path`` is a config written by `store`."""
    try:
        config = read_run_config(path)
    except CheckpointError:
        return False
    return "ld4lg_fast" in config and isinstance(config.get("groups"), DictConfig)


def store(path: Path, config: DictConfig, groups: Mapping[str, str]) -> None:
    """Writes the config with the version and the chosen config groups.

    Interpolations of other keys are kept. Resolvers such as ``${oc.env:HOME}`` are replaced by their current values, as
    a stored config is read without resolvers.
    """
    header = OmegaConf.create({"ld4lg_fast": __version__, "groups": dict(groups)})
    config = config.copy()
    for key in resolver_keys(config):
        OmegaConf.update(config, key, OmegaConf.select(config, key))
    text = OmegaConf.to_yaml(header) + OmegaConf.to_yaml(config)
    write_atomically(path, text.encode())


def with_stored_groups(arguments: Sequence[str]) -> list[str]:
    """Adds the config groups of the run that a command line resumes or takes models from, unless it chooses them.

    Hydra then knows the options of that run instead of its defaults. Invalid arguments are left for Hydra to report.
    """
    options = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    settings = current_words(options)
    try:
        parsed = {part.key_or_group: part for part in OverridesParser.create().parse_overrides(settings)}
        given = {key: parsed[key].value() for key in (*RESUMING, *SOURCE_RUNS) if key in parsed}
        if any(given.get(key) == value for key, value in RESUMING.items()):
            # The run directory may depend on the dataset's name, but on no other option.
            place = [
                str(part.input_line)
                for key, part in parsed.items()
                if key.startswith("hydra.") or key in ("dataset", "dataset.name")
            ]
            with initialize_config_module("ld4lg_fast.configs", version_base="1.3"):
                path = Path(compose("train", place, return_hydra_config=True).hydra.run.dir) / "config.yaml"
        elif teachers := [str(given[key]) for key in SOURCE_RUNS if given.get(key)]:
            path = Path(teachers[0]) / "config.yaml"
        else:
            return list(arguments)
        groups = read_run_config(path).groups if is_run_config(path) else {}
    except (HydraException, OmegaConfBaseException):
        return list(arguments)
    packaged = resources.files("ld4lg_fast.configs")
    return [
        *arguments,
        *(
            f"{name}={choice}"
            for name, choice in groups.items()
            if name not in parsed and (packaged / name / f"{choice}.yaml").is_file()
        ),
    ]


def load_with_overrides(path: Path, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """A stored config with the command line's values on top, and its config groups.

    Only the command line's values may use resolvers such as ``${oc.env:HOME}``, and only they give `CONSENTS`.

    Raises:
        CheckpointError: the file cannot be read.
        ConfigError: the command line chooses another group than the run.
    """
    config = read_run_config(path)
    given = {part.key_or_group for part in OverridesParser.create().parse_overrides(list(overrides))}
    check_interpolations(config, path, but=given)
    try:
        groups = {str(name): str(choice) for name, choice in config.pop("groups").items()}
        config.pop("ld4lg_fast")
    except (OmegaConfBaseException, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read as the config of a run ({error}).") from error
    for name in CONSENTS:
        if OmegaConf.select(config, name) is not None:
            OmegaConf.update(config, name, False)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        if key.startswith("hydra."):
            continue
        if key in GROUPS:
            if value != groups.get(key):
                raise ConfigError(
                    f"The run in {path.parent} has {key}={groups.get(key)} and cannot go on with {key}={value}; "
                    f"leave {key}= out, or choose another hydra.run.dir."
                )
        elif override.is_delete():
            with open_dict(config):
                section, _, name = key.rpartition(".")
                (OmegaConf.select(config, section) if section else config).pop(name)
        else:
            OmegaConf.update(config, key, value, force_add=True)
    return config, groups
