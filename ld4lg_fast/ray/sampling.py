"""Texts of sample ids, on many machines: a text depends on the run, the seed, its id and its conditions alone."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ld4lg_fast.errors import ConfigError, DataError
from ld4lg_fast.export.runtime.conditions import class_index
from ld4lg_fast.export.runtime.option_checks import Switch, WholeNumber, shown
from ld4lg_fast.export.runtime.text_display import get_logger
from ld4lg_fast.options.checks import as_config_errors, check
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.ray.workers import absolute, check_workers, mapped, on_a_worker, worker_device

if TYPE_CHECKING:
    from ray.data import Dataset

ID = "sample_id"
CONDITIONS = {"prompt": "prompt", "source": "source", "class": "class_id"}
"""Columns of conditions, and the option of a call of the pipeline that each one is."""
OPTIONS = (
    *("quality", "num_inference_steps", "sampler", "spacing", "eta", "guidance_scale", "guidance_interval"),
    *("guides", "guide_scales", "class_id", "class_name", "precision", "cuda_graph", "decoding"),
    *("max_new_tokens", "batch_size"),
)
"""Options of a call of the pipeline that all samples have in common."""
ROWS = 64  # of a batch of a worker

logger = get_logger("ld4lg_fast")


class TextDiffusion:
    """A stage of Ray Data that adds the column ``text`` to rows with a column ``sample_id``.

    >>> rows.map_batches(TextDiffusion, fn_constructor_kwargs={"run": "/runs/foo", "seed": 1}, concurrency=2)

    The text of an id is that of `TextDiffusionPipeline` with this seed for the id alone, in deterministic mode: neither
    the batch nor the worker nor their number changes it. Ids are whole numbers from 0 (int64). The columns ``prompt``,
    ``source`` (texts) and ``class`` (names or ids) are conditions, for models that take them; others are left as they
    are.

    Args:
        run: a run directory that all machines see under this path, a shipped model, or a name on the hub.
        deterministic: see `TextDiffusionPipeline.set_deterministic`. None: where it can be had, which is on a CPU with
            C++ kernels. Elsewhere batches change texts by rounding alone.
        options: `OPTIONS` of a call of the pipeline.

    Raises:
        CheckpointError: the run is missing or has no finished diffusion stage.
        ConfigError: an option that there is not, that the model does not take, or that a column gives.
    """

    def __init__(
        self,
        run: Path | str | None,
        *,
        seed: int = 0,
        deterministic: bool | None = None,
        **options: Any,
    ) -> None:
        check_options_of(options)
        if deterministic is not None:
            check("deterministic", deterministic, Switch())
        self.pipe = TextDiffusionPipeline.from_pretrained(run).to(worker_device())
        self.options: dict[str, Any] = {**options, "seed": seed}
        try:
            self.pipe.set_deterministic(deterministic is not False)
        except ConfigError as error:
            if deterministic:
                raise
            logger.warning("Batches change texts by rounding here, as %s", error)

    def __call__(self, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The rows (B,) of a batch and their ``text``.

        Raises:
            DataError: there is no column ``sample_id``.
            ConfigError: ids that are no whole numbers from 0, or conditions that the model does not take or misses.
        """
        check_columns(list(rows))
        given: dict[str, Any] = {
            CONDITIONS[name]: [_plain(value) for value in rows[name]] for name in CONDITIONS if name in rows
        }
        if "class_id" in given:
            given["class_id"] = [self._class_id(value) for value in given["class_id"]]
        ids = [_plain(value) for value in rows[ID]]
        texts = self.pipe(len(ids), sample_ids=ids, **self.options, **given).texts
        return {**rows, "text": np.array(texts, dtype=object)}

    def check(self, columns: Sequence[str]) -> None:
        """Checks options and conditions as a call does, and samples nothing.

        Raises:
            ConfigError: an option out of range, or a condition that the model does not take or misses.
        """
        stand_in = {"prompt": "a", "source": "a", "class": 0}
        given: dict[str, Any] = {
            CONDITIONS[name]: [value] for name, value in stand_in.items() if name in columns
        }
        self.pipe.stream(1, **self.options, **given)

    def _class_id(self, value: Any) -> Any:
        """The id of a class that is given by its name or its id."""
        names = self.pipe.statistics.class_names
        if not isinstance(value, str) or not names:
            return value
        with as_config_errors():
            return class_index(names, value)


def sample(
    run: Path | str | None,
    samples: "int | Dataset",
    *,
    workers: int,
    seed: int = 0,
    num_cpus: float = 1,
    num_gpus: float = 0,
    **options: Any,
) -> "Dataset":
    """Rows with their texts, in any order, of a cluster's workers, each of which holds a `TextDiffusion`.

    >>> sample("outputs/foo", 1_000_000, workers=8, seed=1, quality="draft").write_parquet("/data/texts")

    A worker that is lost is started again, and its rows are sampled again, with the same texts. Nothing is sampled
    until the result is read or written; the run, the options and the columns are checked before, by one worker.

    Args:
        samples: how many, with the ids from 0; or rows as `TextDiffusion` takes them, whose reading needs cores beside
            those of the workers.
        workers, num_cpus, num_gpus: how many workers, and the cores and GPUs of each.
        options: of `TextDiffusion`.

    Raises:
        CheckpointError, ConfigError, DataError: as `TextDiffusion`, or Ray is not installed.
    """
    check_workers("ld4lg_fast.ray.sample", workers, num_cpus, num_gpus)
    check_options_of(options)
    if isinstance(samples, int):
        rows, columns = _ids(samples), [ID]
    else:
        rows, columns = samples, samples.columns() or []
    check_columns(columns)
    arguments = {"run": absolute(run), "seed": seed, **options}
    on_a_worker(partial(_check, TextDiffusion, arguments, columns), num_cpus, num_gpus)
    return mapped(
        rows,
        TextDiffusion,
        arguments,
        batch_size=ROWS,
        workers=workers,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


def check_options_of(options: Mapping[str, Any]) -> None:
    """Refuses options that samples of a cluster do not have in common.

    Raises:
        ConfigError: the sentence names the first.
    """
    for name in options:
        if name not in (*OPTIONS, "deterministic"):
            raise ConfigError(
                f"{name} is {shown(options[name])}, which is no option of samples by their ids; choose from "
                f"{', '.join(OPTIONS)} and deterministic, and give conditions of each sample in the columns "
                f"{', '.join(CONDITIONS)}."
            )


def check_columns(columns: Sequence[str]) -> None:
    """Checks that rows have ids and no texts yet.

    Raises:
        DataError: the sentence names the column.
    """
    if ID not in columns:
        raise DataError(
            f"The rows have no column {ID}, but {', '.join(columns) or 'none at all'}; add one with a whole number "
            "from 0 for each sample."
        )
    if "text" in columns:
        raise DataError("The rows have a column text already; rename it, as the samples are put there.")


def _check(stage: type[TextDiffusion], arguments: Mapping[str, Any], columns: Sequence[str]) -> None:
    stage(**arguments).check(columns)


def _ids(num_samples: int) -> "Dataset":
    """Rows with the ids from 0, in blocks that a lost worker loses."""
    import pyarrow as pa
    import ray.data

    check("samples", num_samples, WholeNumber(1))
    starts = range(0, num_samples, ROWS)
    blocks = [
        pa.table({ID: np.arange(start, min(start + ROWS, num_samples), dtype=np.int64)}) for start in starts
    ]
    return ray.data.from_arrow(blocks)


def _plain(value: Any) -> Any:
    """A value of a NumPy array as one of Python."""
    return value.item() if isinstance(value, np.generic) else value
