"""Workers of a Ray cluster: actors that hold a model, are started again when they are lost, and report errors."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ld4lg_fast.checkpoints.shipped import run_directory
from ld4lg_fast.errors import ConfigError, LD4LGError
from ld4lg_fast.export.runtime.option_checks import WholeNumber, shown
from ld4lg_fast.options.checks import check

if TYPE_CHECKING:
    from ray.data import Dataset


def check_workers(what: str, workers: object, num_cpus: object, num_gpus: object) -> None:
    """Checks that Ray is installed, and the numbers of workers and of their cores and GPUs.

    Raises:
        ConfigError: the sentence names the option, or the extra to install.
    """
    found = find_spec("ray")
    if found is None or found.origin is None:  # without one it is a folder of that name
        raise ConfigError(
            f"{what} needs the package ray, which is not installed: pip install 'ld4lg-fast[ray]'."
        )
    check("workers", workers, WholeNumber(1))
    for name, value in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ConfigError(f"{name} is {shown(value)}; it must be a number from 0, of each worker.")


def worker_device() -> torch.device:
    """The GPU that Ray gave to this worker, or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def absolute(run: Path | str | None) -> str | None:
    """A run's name as workers with another working directory find it: folders by their whole path."""
    folder = run_directory(run)
    return str(folder.resolve()) if run is None or folder.is_dir() else str(run)


def error_in(work: Callable[[], object]) -> LD4LGError | None:
    """The error that a user can mend of ``work``, or None."""
    try:
        work()
    except LD4LGError as error:
        return error
    return None


def on_a_worker(work: Callable[[], object], num_cpus: float, num_gpus: float) -> None:
    """Runs ``work`` once on one of the cluster's machines.

    Raises:
        LD4LGError: what ``work`` raised, as it raised it.
    """
    import ray

    task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(error_in)
    error = ray.get(task.remote(work))
    if error is not None:
        raise error


def mapped(
    rows: "Dataset",
    stage: type,
    arguments: Mapping[str, Any],
    *,
    batch_size: int,
    workers: int,
    num_cpus: float,
    num_gpus: float,
) -> "Dataset":
    """``rows`` through ``stage``, of which each worker has one instance, made with ``arguments``.

    Ray Data starts lost workers again, and has done again what they were doing, without limit.
    """
    from ray.data import ActorPoolStrategy

    return rows.map_batches(
        stage,
        fn_constructor_kwargs=dict(arguments),
        batch_size=batch_size,
        compute=ActorPoolStrategy(size=workers),
        num_cpus=num_cpus,
        num_gpus=num_gpus or None,
    )
