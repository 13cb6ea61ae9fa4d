"""Rows of a corpus on the Hugging Face hub, or of its copy in the local hub cache."""

import threading
from collections.abc import Sequence
from pathlib import Path

from ld4lg_fast.data.catalogue import HubSource, split_alias
from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime.text_files import Row

_TIMEOUT_SECONDS = 10.0
# Held while the datasets package is told to stay offline, which it is for all threads.
_OFFLINE = threading.Lock()


def read_hub(source: HubSource) -> tuple[dict[str, Sequence[Row]], list[str]]:
    """The rows of the splits that the hub has, under the names train, validation and test; and what is not read.

    One short request first asks whether the hub answers; where it does not, only the local cache is tried,
    so that an unreachable hub costs seconds. ``source.path`` may also be a local folder of data files.
    Raises ``DataError`` for an unreachable hub, an unknown repository, or one that cannot be read.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"reading {source.path} from the hub needs the datasets package: pip install datasets"
        ) from error

    reachable = Path(source.path).is_dir() or _is_reachable(source)
    try:
        with _OFFLINE:
            was_offline = datasets.config.HF_HUB_OFFLINE
            # Otherwise every file is retried for half a minute before the cache is looked at.
            datasets.config.HF_HUB_OFFLINE = was_offline or not reachable
            try:
                splits = datasets.load_dataset(
                    source.path, source.config, revision=source.revision, data_dir=source.data_dir
                )
            finally:
                datasets.config.HF_HUB_OFFLINE = was_offline
    # Whatever the hub, the network or a data file throws, the user needs the same sentence.
    except Exception as error:
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


def _is_reachable(source: HubSource) -> bool:
    """Whether the hub answers; ``DataError`` if it answers that there is no such dataset."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(source.path, revision=source.revision, timeout=_TIMEOUT_SECONDS)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise DataError(
            f"the hub has no dataset {source.path}, or it is private: check dataset.hub, "
            "or log in with hf auth login"
        ) from error
    except HfHubHTTPError:
        return True
    # No response: the class of the error is that of whichever HTTP library the hub client uses.
    except Exception:
        return False
    return True
