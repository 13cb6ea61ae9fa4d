"""Reads datasets from the Hugging Face hub or its local cache."""

import threading
from collections.abc import Sequence
from pathlib import Path

from ld4lg_fast.checkpoints.hub import repository_status
from ld4lg_fast.data.catalogue import HubSource, split_alias
from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime.text_files import Row

# Held while the datasets package is set offline, which affects all threads.
_OFFLINE = threading.Lock()


def read_hub(source: HubSource) -> tuple[dict[str, Sequence[Row]], list[str]]:
    """Rows of the splits train, validation and test, and notes about splits that are not read.

    If the hub is unreachable, only the local cache is tried. ``source.path`` may also be a local folder of data files.

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
    try:
        with _OFFLINE:
            was_offline = datasets.config.HF_HUB_OFFLINE
            # Otherwise every file is retried for half a minute before the cache is used.
            datasets.config.HF_HUB_OFFLINE = was_offline or not reachable
            try:
                splits = datasets.load_dataset(
                    source.path, source.config, revision=source.revision, data_dir=source.data_dir
                )
            finally:
                datasets.config.HF_HUB_OFFLINE = was_offline
    except Exception as error:  # of the hub, the network or a data file
        if not reachable:
            raise DataError(
                f"the hub could not be reached for {source.path} and no copy of it is cached: "
                "to go on offline, give a folder with its files as dataset.root=..., or use dataset=demo"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{source.path} cannot be read from the hub ({reason}): check dataset.hub, "
            "or give local files with dataset.root=..."
        ) from error
    named: dict[str, Sequence[Row]] = {}
    notes = []
    for name, rows in splits.items():
        alias = split_alias(str(name))
        if alias is None or alias in named:
            notes.append(f"its split {name} is not read")
        else:
            named[alias] = rows
    if not named:
        raise DataError(
            f"{source.path} on the hub has only the splits {', '.join(map(str, splits))}: "
            "download it and use dataset=custom dataset.files.train=<file>"
        )
    return named, notes
