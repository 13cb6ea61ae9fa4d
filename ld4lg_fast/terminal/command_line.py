"""A Hydra command line before its options are read one by one: where its flags stand, and what Hydra lets pass."""

import re
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import WholeNumber, complaint
from ld4lg_fast.options.unknown import unknown_option
from ld4lg_fast.terminal.hydra_help import config_text

_LONG_WITH_VALUE = (
    "--cfg",
    "--package",
    "--config-path",
    "--config-name",
    "--config-dir",
    "--experimental-rerun",
)
_SHORT_WITH_VALUE = ("-c", "-p", "-cp", "-cn", "-cd")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
_BATCH = "hydra.sweeper.max_batch_size"


def flags_last(arguments: Sequence[str]) -> list[str]:
    """The same command line with Hydra's flags behind the options, as argparse takes options on one side of them alone.

    A flag may be shortened, as ``--multi``, and keeps the value that follows it. Beside ``--hydra-help`` there are no
    options, which Hydra would not know.
    """
    options: list[str] = []
    flags: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            options.append(word)
            continue
        flags.append(word)
        if _shortens(word, "--hydra-help"):
            return [word]
        is_info = word == "-i" or _shortens(word, "--info")
        if left and (_takes_value(word) or (is_info and left[0] in _INFO)):
            flags.append(left.pop(0))
    return options + flags


def _takes_value(flag: str) -> bool:
    return flag in _SHORT_WITH_VALUE or any(_shortens(flag, name) for name in _LONG_WITH_VALUE)


def _shortens(flag: str, name: str) -> bool:
    return len(flag) > 3 and name.startswith(flag)


def check_hydra_options(arguments: Sequence[str]) -> None:
    """Refuses values of Hydra's own options that it would take for something else.

    Raises:
        ConfigError: an empty path, which would be the current directory, or batches of no job.
        OverrideParseException: an argument that Hydra cannot read.
    """
    given = [word for word in arguments if re.match(r"\+{0,2}hydra\.", word)]
    for part in OverridesParser.create().parse_overrides(given):
        if part.is_sweep_override():
            continue
        name, value = part.key_or_group, part.value()
        if name in _FOLDERS and not str("" if value is None else value).strip():
            raise ConfigError(f"{name} is empty; give a path, as in {name}=outputs/mine, or leave it out.")
        if name == _BATCH and value is not None and (said := complaint(name, value, WholeNumber())):
            raise ConfigError(said)


def check_top_level(config: Mapping, config_name: str) -> None:
    """Refuses what stands beside the sections of a packaged config, which nothing would read.

    Raises:
        ConfigError: the sentence names the option and the nearest that there is.
    """
    text = config_text(config_name)
    # Groups are chosen in its list of defaults.
    known = [
        name for name in re.findall(r"^(?:  - )?(\w+):", text, re.M) if name not in ("defaults", "hydra")
    ]
    for name in config:
        if name not in known:
            raise ConfigError(unknown_option(str(name), known))
