"""Reads datasets from the Hugging Face hub or its local cache."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from ld4lg_fast.checkpoints.hub import repository_status
from ld4lg_fast.data.catalogue import HubSource, split_alias
from ld4lg_fast.data.formats import CHUNK_ROWS
from ld4lg_fast.data.rows import Tables
from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime.text_files import Row, Table

# Held while the datasets package is set offline, which affects all threads.
_OFFLINE = threading.Lock()


def read_hub(source: HubSource, limit: int | None) -> tuple[dict[str, list[Tables]], list[str]]:
    """Tables of the splits train, validation and test, and notes about what is not read.

    If the hub is unreachable, only the local cache is tried. ``source.path`` may also be a local folder of data files.

    Args:
        limit: rows of each split that are read of a source that is streamed; None: all.

    Raises:
        DataError: the hub is unreachable, or the repository does not exist or cannot be read.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"reading {source.path} from the hub needs the datasets package: pip install datasets"
        ) from error

    is_local = Path(source.path).is_dir()
    status = "found" if is_local else repository_status(source.path, "dataset", source.revision)
    if status == "missing":
        raise DataError(
            f"the hub has no dataset {source.path}, or it is private: check dataset.hub, "
            "or log in with hf auth login"
        )
    reachable = status == "found"
    with _trouble_is_told(source, reachable), _OFFLINE:
        was_offline = datasets.config.HF_HUB_OFFLINE
        # Otherwise every file is retried for half a minute before the cache is used.
        datasets.config.HF_HUB_OFFLINE = was_offline or not reachable
        try:
            splits = datasets.load_dataset(
                source.path,
                source.config,
                revision=source.revision,
                data_dir=source.data_dir,
                streaming=source.streaming,
            )
        finally:
            datasets.config.HF_HUB_OFFLINE = was_offline
    named: dict[str, list[Tables]] = {}
    notes = []
    for name, rows in splits.items():
        alias = split_alias(str(name))
        if alias is None or alias in named:
            notes.append(f"its split {name} is not read")
        else:
            place = f"{source.path} ({alias}) on the hub"
            named[alias] = [
                partial(_streamed, source, place, rows, limit)
                if source.streaming
                else partial(_whole, place, rows)
            ]
    if not named:
        raise DataError(
            f"{source.path} on the hub has only the splits {', '.join(map(str, splits))}: "
            "download it and use dataset=custom dataset.files.train=<file>"
        )
    if source.streaming and limit is not None:
        notes.append(f"no more than the first {limit} rows of a split are read")
    return named, notes


def _whole(place: str, rows: Sequence[Row]) -> list[Table]:
    return [Table(place, rows, range(1, len(rows) + 1), "row")]


def _streamed(source: HubSource, place: str, rows: Iterable[Row], limit: int | None) -> Iterator[Table]:
    """The rows of a split as they come over the network.

    Raises:
        DataError: the hub is no longer reachable, or a file of it is damaged.
    """
    first, rest = 1, islice(iter(rows), limit)
    while True:
        with _trouble_is_told(source, reachable=True):
            chunk = list(islice(rest, CHUNK_ROWS))
        yield Table(place, chunk, range(first, first + len(chunk)), "row")
        if not chunk:
            return
        first += len(chunk)


@contextmanager
def _trouble_is_told(source: HubSource, reachable: bool) -> Iterator[None]:
    """Converts errors of the hub, the network or a data file to ``DataError``."""
    try:
        yield
    except Exception as error:
        if not reachable:
            cached = (
                "a corpus that is streamed is never cached" if source.streaming else "no copy of it is cached"
            )
            raise DataError(
                f"the hub could not be reached for {source.path} and {cached}: "
                "to go on offline, give a folder with its files as dataset.root=..., or use dataset=demo"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{source.path} cannot be read from the hub ({reason}): check dataset.hub, "
            "or give local files with dataset.root=..."
        ) from error
