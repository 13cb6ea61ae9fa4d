"""Large corpora as Arrow tables on disk: read once, then memory-mapped, by all processes and without reading a text.

They lie beside the data sets of the hub (``HF_DATASETS_CACHE``), each in a folder under a fingerprint of its files'
paths, sizes and times, or contents, and of the options; a folder may be deleted at any time.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ld4lg_fast._version import __version__
from ld4lg_fast.checkpoints.files import read_json, unfinished, write_json
from ld4lg_fast.data.corpus import SPLITS, TextDataset, TextSplit
from ld4lg_fast.data.texts import ColumnWriter, Labels, Texts, read_columns
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.text_display import get_logger

LEAST_BYTES = 64 * 2**20  # of the files of a corpus; a smaller one is read faster than it is looked up

_FORMAT = 1
_ROWS = 2**14  # of a record batch

logger = get_logger(__name__)


def corpus_key(
    name: str, by_split: Mapping[str, Sequence[Path]], options: Sequence[Any], compare_contents: bool
) -> str | None:
    """A fingerprint of a corpus of local files; None for one that is not kept.

    Args:
        options: everything else that the corpus depends on, as JSON.
        compare_contents: files are known by their contents, which are read, instead of their times.
    """
    paths = [(split, path) for split, paths in by_split.items() for path in paths]
    if not paths or not all(path.is_file() for _, path in paths):
        return None
    if sum(path.stat().st_size for _, path in paths) < LEAST_BYTES:
        return None
    known_by = _sha256 if compare_contents else _modified
    files = [(split, str(path.resolve()), path.stat().st_size, known_by(path)) for split, path in paths]
    content = json.dumps([_FORMAT, __version__, name, files, options], sort_keys=True)
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()[:32]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns


def kept_corpus(key: str, load: Callable[[Path | None], TextDataset]) -> TextDataset:
    """The corpus that is kept under ``key``; else that of ``load``, which is then kept.

    One process at a time makes it, and those that wait open what it made. A full disk is logged, and the corpus read
    into memory.

    Args:
        load: called with a folder for files of its own, which are deleted; with None, it has to do without.
    """
    folder = kept_folder(key)
    if (found := _open(folder)) is not None:
        return found
    with alone(folder):
        if (found := _open(folder)) is not None:
            return found
        try:
            _make(folder, load)
        except (OSError, CheckpointError) as error:
            logger.warning("The corpus is not kept in %s, and is read again the next time: %s", folder, error)
        return _open(folder) or load(None)


def kept_folder(name: str) -> Path:
    """The folder ``name`` beside the data sets of the hub, for what runs share."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "ld4lg_fast" / name


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other process makes a folder, where the file system has locks."""
    with ExitStack() as stack:
        with suppress(OSError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(folder.with_suffix(".lock"), "wb"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("Waiting for another process, which makes %s.", folder)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(folder: Path, load: Callable[[Path | None], TextDataset]) -> None:
    made = unfinished(folder)
    try:
        (made / "read").mkdir(parents=True)
        dataset = load(made / "read")
        for split in SPLITS:
            _write_split(made / f"{split}.arrow", getattr(dataset, split))
        sizes = {split: len(getattr(dataset, split)) for split in SPLITS}
        facts = {"name": dataset.name, "class_names": dataset.class_names, "origin": dataset.origin}
        write_json(made / "corpus.json", facts | {"sizes": sizes})
        shutil.rmtree(made / "read")
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        os.replace(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write_split(path: Path, split: TextSplit) -> None:
    columns = {"text": split.texts, "label": split.labels, "source": split.sources}
    given = {name: values for name, values in columns.items() if values is not None}
    with ColumnWriter({name: int if name == "label" else str for name in given}, path) as file:
        for start in range(0, len(split), _ROWS):
            file.write(**{name: list(values[start : start + _ROWS]) for name, values in given.items()})


def _open(folder: Path) -> TextDataset | None:
    """The corpus in a folder; None if it is missing or damaged."""
    import pyarrow as pa

    if not folder.exists():
        return None
    try:
        facts = read_json(folder / "corpus.json", "a kept corpus")
        splits = {split: _open_split(folder / f"{split}.arrow", f"{folder.name}/{split}") for split in SPLITS}
        names = facts["class_names"]
        if {split: len(part) for split, part in splits.items()} != facts["sizes"]:
            raise ValueError("it has another number of texts")
        class_names = None if names is None else tuple(map(str, names))
        return TextDataset(facts["name"], **splits, class_names=class_names, origin=facts["origin"])
    except (CheckpointError, OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        logger.warning("The corpus kept in %s is damaged and is read again (%s).", folder, error)
        return None


def _open_split(path: Path, key: str) -> TextSplit:
    columns = read_columns(path)
    return TextSplit(
        Texts(columns["text"], f"{key}/text"),
        Labels(columns["label"]) if "label" in columns else None,
        Texts(columns["source"], f"{key}/source") if "source" in columns else None,
    )
