"""Entry points: Hydra configs in, one clear sentence and exit code 2 on bad input."""

import os
import sys
from collections.abc import Callable

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ld4lg_fast.errors import LD4LGError

CONFIG_MODULE = "pkg://ld4lg_fast.configs"


def fail(message: str) -> None:
    """Prints one sentence on stderr and exits with code 2; only the first process of a launch speaks."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def hydra_entry(task: Callable[[DictConfig], object], config_name: str) -> None:
    """Runs ``task`` with the config that the command line composes.

    Exit codes: 0 done, 2 bad input (one sentence on stderr), 130 interrupted, else what ``task`` returns.
    """
    # Hydra would print a traceback and exit with 1; this makes it raise instead.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    code: list[object] = []

    def run(config: DictConfig) -> None:
        code.append(task(config))

    try:
        hydra.main(version_base="1.3", config_path=CONFIG_MODULE, config_name=config_name)(run)()
    except (HydraException, OmegaConfBaseException) as error:
        fail(" ".join(str(error).split()))
    except LD4LGError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if code and isinstance(code[-1], int):
        raise SystemExit(code[-1])
