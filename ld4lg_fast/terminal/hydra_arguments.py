"""Arguments of Hydra commands: reordered and checked before Hydra parses them, and quoted where we print them."""

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import WholeNumber, complaint, unknown_option
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
_UNQUOTED = re.compile(r"(?:[A-Za-z_]|\.{0,2}/)[A-Za-z0-9_./-]*|\.{1,2}")
_NOT_TEXT = ("null", "true", "false", "nan", "inf")  # words that Hydra parses as another type


def flags_last(arguments: Sequence[str]) -> list[str]:
    """Moves Hydra's flags behind the overrides, as argparse accepts overrides only on one side of the flags.

    Flags may be abbreviated (``--multi``) and keep the value that follows them. ``--hydra-help`` drops the overrides,
    which Hydra would reject.
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


def check_flags(arguments: Sequence[str], config_name: str) -> None:
    """Refuses flags that Hydra does not have.

    Raises:
        ConfigError: the message names the option of the config whose name is nearest.
    """
    from hydra._internal.utils import get_args_parser  # imported late, as it takes a while

    known = [*get_args_parser()._option_string_actions, "--help"]
    sections = {
        name: part for name, part in yaml.safe_load(config_text(config_name)).items() if name != "hydra"
    }
    options = {
        option: f"{section}.{option}"
        for section, part in sections.items()
        if isinstance(part, dict)
        for option in part
    }
    for word in arguments:
        flag = word.partition("=")[0]
        if not flag.startswith("--") or flag == "--" or any(name.startswith(flag) for name in known):
            continue
        close = difflib.get_close_matches(flag.strip("-").replace("-", "_"), options, n=1)
        hint = f"did you mean {options[close[0]]}=VALUE?" if close else "options are written NAME=VALUE;"
        raise ConfigError(f"There is no option {flag}; {hint} --help lists the options.")


def check_hydra_options(arguments: Sequence[str]) -> None:
    """Refuses values of Hydra's own options that Hydra would misread.

    Raises:
        ConfigError: an empty path, which would be the current directory, or a batch size below 1.
        OverrideParseException: an argument that Hydra cannot read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser  # slow to import

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
    """Refuses top-level entries that a packaged config does not have, which nothing would read.

    Raises:
        ConfigError: names the option and the nearest one.
    """
    text = config_text(config_name)
    # Groups are in its defaults list.
    known = [
        name for name in re.findall(r"^(?:  - )?(\w+):", text, re.M) if name not in ("defaults", "hydra")
    ]
    for name in config:
        if name not in known:
            raise ConfigError(unknown_option(str(name), known))


def is_override(word: str, config_name: str) -> bool:
    """Whether an argument is an override of a packaged config, such as ``generation.seed=1``, and not a path."""
    key, equals, _ = word.partition("=")
    section = re.split(r"[.@]", key.lstrip("+~"))[0]
    sections = re.findall(r"^(\w+):", config_text(config_name), re.M)
    return section in sections and (bool(equals) or word.startswith("~"))


def hydra_value(value: object, quote: str = "'") -> str:
    """A value quoted so that Hydra's parser and OmegaConf read it back unchanged."""
    text = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", str(value))  # for OmegaConf
    text = re.sub(rf"(\\*){quote}", lambda found: f"{2 * found[1]}\\{quote}", text)  # for Hydra, as the next
    text = re.sub(r"(\\+)\Z", lambda found: 2 * found[1], text)
    return f"{quote}{text}{quote}"


def override(key: str, value: object) -> str:
    """``key=value`` for Hydra's command line, quoted only if necessary."""
    is_plain = _UNQUOTED.fullmatch(str(value)) and str(value).lower() not in _NOT_TEXT
    # Double quotes, as `shell_command` puts single ones around the whole argument.
    return f"{key}=" + (str(value) if is_plain else hydra_value(value, quote='"'))


def shell_command(*words: object) -> str:
    """A command that can be pasted into a shell; arguments for Hydra are made with `override`.

    Paths that start with a dash get ``./``, so that they are not read as options.
    """
    return shlex.join(f"./{word}" if _is_dashed(word) else str(word) for word in words)


def _is_dashed(word: object) -> bool:
    return isinstance(word, Path) and str(word).startswith("-")
