"""Entry point of Hydra commands: runs a task with the composed config; one sentence and exit code 2 on bad input."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ConfigTypeError, OmegaConfBaseException

from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.export.runtime.option_checks import unknown_option
from ld4lg_fast.export.runtime.text_display import displayed, terminal_output
from ld4lg_fast.terminal.hydra_arguments import (
    check_flags,
    check_hydra_options,
    check_top_level,
    flags_last,
    hydra_value,
)
from ld4lg_fast.terminal.renamed_options import with_current_names

CONFIG_MODULE = "pkg://ld4lg_fast.configs"
UNKNOWN_OPTION = (ConfigAttributeError, ConfigKeyError)
SIGNALLED = 128  # plus the signal's number: the exit code of a process that a signal ended
T = TypeVar("T")


def complain(message: str) -> None:
    """Prints one sentence on stderr, in the first process of a launch only."""
    if int(os.environ.get("RANK", 0)) == 0:
        print("error:", displayed(message), file=sys.stderr)


def fail(message: str) -> NoReturn:
    """`complain`, then exit code 2."""
    complain(message)
    raise SystemExit(2)


class Folders(Callback):
    """A Hydra callback (named in the configs) that removes folders which Hydra creates and nothing uses.

    A command that writes nothing leaves no folder; a sweep leaves ``multirun.yaml`` and a folder for each job only if
    ``hydra.sweep.dir`` was given.
    """

    missing: ClassVar[list[Path]] = []
    sweeps: ClassVar[bool] = False
    of_sweep = Path(tempfile.gettempdir()) / f"ld4lg-sweep-{os.getpid()}"

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        with suppress(OSError, OmegaConfBaseException):  # Hydra will report it
            path = Path(config.hydra.run.dir)
            Folders.missing = [folder for folder in (path, *path.parents) if not folder.exists()]

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        Folders.sweeps = True
        given = config.hydra.overrides.hydra
        if not any(override.lstrip("+").startswith("hydra.sweep.dir=") for override in given):
            with open_dict(config):
                config.hydra.sweep.dir = str(self.of_sweep)
                # Each job is composed from these overrides.
                given.append(f"hydra.sweep.dir={hydra_value(self.of_sweep)}")

    @classmethod
    def tidy(cls) -> None:
        """Removes empty new folders and the temporary folder of a sweep."""
        for folder in cls.missing:
            with suppress(OSError):
                folder.rmdir()
        cls.missing = []
        shutil.rmtree(cls.of_sweep, ignore_errors=True)


class _Ended(BaseException):
    """Ends a sweep before its last job; not an `Exception`, which Hydra would treat as the job's."""


class _Jobs:
    """The task as Hydra calls it: once, or under --multirun once for each job.

    ``results``: of the jobs that did not fail. ``exit_code``: of the first job that failed; later jobs still run,
    unless a signal or an unexpected error ended it.
    """

    def __init__(self, task: Callable[[DictConfig], object], config_name: str) -> None:
        self.task, self.config_name = task, config_name
        self.num_begun = 0
        self.results: list[Any] = []
        self.exit_code = 0

    def __call__(self, config: DictConfig) -> None:
        self.num_begun += 1
        try:
            check_top_level(config, self.config_name)
            result = self.task(config)
        except (LD4LGError, OmegaConfBaseException) as error:
            # Raised on, Hydra would print a second line.
            complain(in_one_sentence(error) + _which_job())
            self._failed(2)
        except KeyboardInterrupt:
            self._failed(SIGNALLED + 2)
        except Exception as error:
            raise _Ended from error
        else:
            if isinstance(result, int) and result:
                self._failed(result)
            self.results.append(result)

    def _failed(self, exit_code: int) -> None:
        self.exit_code = self.exit_code or exit_code
        if exit_code > SIGNALLED:
            raise _Ended


def _which_job() -> str:
    """The number and overrides of a job of a sweep, for messages."""
    if HydraConfig.get().mode is not RunMode.MULTIRUN:
        return ""
    return f" (job {HydraConfig.get().job.num}: {shlex.join(HydraConfig.get().overrides.task)})"


@terminal_output()
def hydra_entry(task: Callable[[DictConfig], T], config_name: str) -> T | None:
    """Runs ``task`` with the config that the command line composes and returns its result.

    The result is None if ``task`` did not run (``--cfg job``), and that of the last job under ``--multirun``.

    Exit codes: 0 done, 2 bad input (one sentence on stderr), 128 plus the number of a signal (130: Ctrl-C), else the
    number that ``task`` returns; under ``--multirun`` that of the first job that failed.
    """
    # Makes Hydra raise errors instead of printing a traceback and exiting with 1.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    jobs = _Jobs(task, config_name)
    Folders.sweeps = False

    def run(config: DictConfig) -> None:
        jobs(config)

    try:
        sys.argv[1:] = with_current_names(flags_last(sys.argv[1:]))
        check_flags(sys.argv[1:], config_name)
        check_hydra_options(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=CONFIG_MODULE, config_name=config_name)(run)()
    except _Ended as ended:
        if ended.__cause__ is not None:
            raise ended.__cause__ from None
    except KeyboardInterrupt:
        raise SystemExit(SIGNALLED + 2) from None
    except BrokenPipeError:
        raise
    except Exception as error:  # raised by Hydra; the task's errors are caught in _Jobs
        fail(in_one_sentence(error))
    finally:
        Folders.tidy()
    if Folders.sweeps and not jobs.num_begun:
        fail(
            "The sweep has no job, as one of its options has no value to choose; name values, as in seed=1,2."
        )
    if jobs.exit_code:
        raise SystemExit(jobs.exit_code)
    return jobs.results[-1] if jobs.results else None


def in_one_sentence(error: Exception) -> str:
    """What Hydra, OmegaConf or the task raised, for a person."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        return f"There is no {group}={name}; choose one of {', '.join(error.options)}."
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read as option=value; quote values with special characters."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; choose another directory with hydra.run.dir=..."
    unknown = error if isinstance(error, UNKNOWN_OPTION) else error.__cause__
    if isinstance(unknown, UNKNOWN_OPTION) and OmegaConf.is_config(unknown.parent_node):
        known = sorted(str(key) for key in unknown.parent_node if key != "hydra")
        return unknown_option(str(unknown.full_key), known)
    if str(error).startswith("Error merging override ") and isinstance(
        error.__cause__, OmegaConfBaseException
    ):
        return _misfit(str(error).removeprefix("Error merging override "), error.__cause__)
    if isinstance(error, LD4LGError):
        return str(error)
    return " ".join(str(error).split()) or type(error).__name__


def _misfit(override: str, cause: OmegaConfBaseException) -> str:
    """The sentence about a value of the wrong type."""
    name = str(cause.full_key)
    if isinstance(cause, ConfigTypeError):
        around: Any = OmegaConf.to_container(cause.parent_node)
        first = next(iter(around.get(name.rpartition(".")[2], around)), "NAME")
        return f"{override} does not fit, as {name} is a group of options; give those, as in {name}.{first}=VALUE."
    return f"{override} does not fit ({str(cause).splitlines()[0]}); give another value."
