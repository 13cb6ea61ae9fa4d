"""Entry points: Hydra configs in, one clear sentence and exit code 2 on bad input."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import hydra
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ld4lg_fast.errors import LD4LGError

CONFIG_MODULE = "pkg://ld4lg_fast.configs"
UNKNOWN_OPTION = (ConfigAttributeError, ConfigKeyError)
T = TypeVar("T")


def fail(message: str) -> None:
    """Prints one sentence on stderr and exits with code 2; only the first process of a launch speaks."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def hydra_entry(task: Callable[[DictConfig], T], config_name: str) -> T | None:
    """Runs ``task`` with the config that the command line composes, and returns what it returns.

    None: the command line asked Hydra for something else, as ``--cfg job``.

    Exit codes: 0 done, 2 bad input (one sentence on stderr), 130 interrupted, else the number that ``task`` returns.
    """
    # Hydra would print a traceback and exit with 1; this makes it raise instead.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    outcome: list[object] = []

    def run(config: DictConfig) -> None:
        # Hydra would announce an error of the task's own on a line of its own.
        try:
            outcome.append(task(config))
        except BaseException as error:
            outcome.append(error)

    try:
        hydra.main(version_base="1.3", config_path=CONFIG_MODULE, config_name=config_name)(run)()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # the task's own are caught above, so this is Hydra refusing the command line
        fail(_in_one_sentence(error))
    result = outcome[-1] if outcome else None
    if isinstance(result, LD4LGError | OmegaConfBaseException):
        fail(_in_one_sentence(result))
    if isinstance(result, KeyboardInterrupt):
        raise SystemExit(130)
    if isinstance(result, BaseException):
        raise result
    if isinstance(result, int):
        raise SystemExit(result)
    return result


def _in_one_sentence(error: Exception) -> str:
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        return f"There is no {group}={name}; choose one of {', '.join(error.options)}."
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read as option=value; quote values with special characters."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; choose another directory with hydra.run.dir=..."
    unknown = error if isinstance(error, UNKNOWN_OPTION) else error.__cause__
    if isinstance(unknown, UNKNOWN_OPTION) and OmegaConf.is_config(unknown.parent_node):
        section = unknown.full_key.rpartition(".")[0]
        known = ", ".join(sorted(str(key) for key in unknown.parent_node if key != "hydra"))
        return f"There is no option {unknown.full_key}; {section or 'the command'} has {known}."
    return " ".join(str(error).split()) or type(error).__name__
