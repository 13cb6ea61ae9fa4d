"""Loads corpora by name: searches their files, reads the rows and makes the splits."""

import difflib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ld4lg_fast.data.catalogue import DATASETS, DatasetSpec, HubSource, split_alias
from ld4lg_fast.data.corpus import SPLITS, TextDataset, TextSplit
from ld4lg_fast.data.corpus_cache import corpus_key, kept_corpus
from ld4lg_fast.data.corpus_options import check_corpus_options
from ld4lg_fast.data.demo import demo_dataset
from ld4lg_fast.data.demo_documents import demo_documents
from ld4lg_fast.data.documents import one_text_a_source
from ld4lg_fast.data.files import corpus_files, expanded, files_in, lone_file, not_read
from ld4lg_fast.data.formats import ENDINGS_IN_WORDS, read_in_chunks
from ld4lg_fast.data.hub_datasets import read_hub
from ld4lg_fast.data.rows import Columns, Tables, Writer, rows_of
from ld4lg_fast.data.splits import PUBLISHED_SEED, complete_custom, complete_published
from ld4lg_fast.data.texts import ColumnWriter, ListWriter
from ld4lg_fast.errors import ConfigError, DataError
from ld4lg_fast.export.runtime.documents import tidied

ROOT_VARIABLE = "LD4LG_DATASETS"
SEARCHED = ("data", "datasets", "../shared/datasets")

_MODEL_FACTS = ("max_len", "source_max_len", "num_classes", "seq2seq")


def load_text_dataset(
    name: str,
    *,
    root: str | os.PathLike | None = None,
    files: str | Sequence[str] | Mapping[str, object] | None = None,
    hub: str | Mapping[str, Any] | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    source_column: str | None = None,
    limit: int | None = None,
    num_examples: int | None = None,
    seed: int = PUBLISHED_SEED,
    train_fallback: str | None = None,
    documents: bool = False,
    compare_contents: bool = False,
) -> TextDataset:
    """Loads a corpus: one of ``DATASETS``, including ``custom`` files and the generated ``demo`` corpus.

    Args:
        root: a folder, or for custom also a file, or a pattern such as ``texts/*.jsonl.gz``. In a folder the files of a
            split may be shards, as ``train-00000-of-00002.parquet``.
        files: one file, folder or pattern, several, or a mapping from split to these.
        hub: ``owner/name`` or a mapping with ``path`` and optionally ``config``, ``revision``, ``data_dir`` and
            ``streaming``: true keeps the texts in memory and nothing on disk, and reads no more than the first
            ``limit`` rows of each split. Without root, files and hub, ``$LD4LG_DATASETS``, ``data``, ``datasets`` and
            ``../shared/datasets`` are searched for a folder of the corpus's name, then the hub.
        limit: keeps the first texts of each split.
        num_examples: number of training texts of the demo corpus.
        seed: for splits. Missing held-out splits of a custom corpus are a twentieth of its training texts each, at most
            1,000.
        train_fallback: the split of which nine tenths become training texts if there is no training file.
        documents: a text is a document, to be written block by block: of the demo corpus those of a second grammar, of
            E2E all texts of one meaning; white space is tidied (`export.runtime.documents.tidied`).
        compare_contents: what is kept of a large corpus is found by the contents of its files, which are read at every
            start, and not by their sizes and times.

    Blank texts are dropped.

    Raises:
        ConfigError: invalid options.
        DataError: invalid or missing files.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(str(name), DATASETS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(f"there is no dataset={name}{hint}: choose one of {', '.join(DATASETS)}")
    check_corpus_options(
        {
            "root": root,
            "files": files,
            "hub": hub,
            "text_column": text_column,
            "label_column": label_column,
            "source_column": source_column,
            "limit": limit,
            "num_examples": num_examples,
            "seed": seed,
            "train_fallback": train_fallback,
            "documents": documents,
            "compare_contents": compare_contents,
        }
    )
    if num_examples is not None and name != "demo":
        raise ConfigError(f"dataset.num_examples={num_examples} is for dataset=demo: use dataset.limit")

    if name == "demo":
        make = demo_documents if documents else demo_dataset
        demo = make(seed) if num_examples is None else make(seed, train=num_examples)
        return _finished(name, {split: getattr(demo, split) for split in SPLITS}, None, demo.origin, limit)
    place = _locate(name, DATASETS[name], root, files, hub)
    # A column's name on the command line may look like a number.
    given = (text_column, label_column, source_column)
    text, label, source = (None if column is None else str(column) for column in given)
    asked = Columns(text, label, source, documents)

    def load(folder: Path | None = None) -> TextDataset:
        return _load(name, place, asked, limit, seed, train_fallback, folder)

    options: list[Any] = [
        asdict(asked),
        limit,
        seed,
        train_fallback,
        [str(path) for path in place.left_out],
    ]
    key = corpus_key(name, place.by_split, options, compare_contents)
    return load() if key is None else kept_corpus(key, load)


def _load(
    name: str,
    place: "_Place",
    asked: Columns,
    limit: int | None,
    seed: int,
    train_fallback: str | None,
    folder: Path | None,
) -> TextDataset:
    """Reads a corpus and makes its splits, see `load_text_dataset`; with a ``folder`` into files there, but for
    documents whose texts come from several rows."""
    spec = DATASETS[name]
    grouped = asked.documents and spec.document is not None
    if grouped:
        asked = replace(asked, source=asked.source or spec.document, documents=False)

    def writer(file: str, columns: Mapping[str, type]) -> Writer:
        if place.hub is not None and place.hub.streaming:
            return ColumnWriter(columns)
        return ListWriter(columns) if folder is None or grouped else ColumnWriter(columns, folder / file)

    found = _find(place, limit)
    read = rows_of(spec, found.tables, asked, writer, 0 if place.hub is None else place.hub.first_label)
    splits, origin = read.splits, read.names if place.hub is None else f"{place.hub.path} on the hub"
    if name == "custom":
        splits = {split: part.select(part.filled()) for split, part in splits.items()}
        splits, notes = complete_custom(splits, seed, origin)
    else:
        # Blank texts are dropped later, as the published permutations include them.
        splits, notes = complete_published(name, spec, splits, seed, train_fallback, origin)
    origin = "; ".join([", ".join(read.accounts), *found.notes, *notes])
    if grouped:
        splits = {split: one_text_a_source(part) for split, part in splits.items()}
        splits = {split: replace(part, texts=list(map(tidied, part.texts))) for split, part in splits.items()}
    return _finished(name, splits, read.class_names, origin, limit)


def _finished(
    name: str,
    splits: Mapping[str, TextSplit],
    class_names: tuple[str, ...] | None,
    origin: str,
    limit: int | None,
) -> TextDataset:
    """The corpus without blank texts, and of each split the first ``limit``."""
    finished = {}
    for split in SPLITS:
        part, filled = splits[split], splits[split].filled()
        part = part if len(filled) == len(part) else part.select(filled)
        if not len(part):
            raise DataError(f"dataset={name} has only blank {split} texts ({origin}): give at least one text")
        finished[split] = part if limit is None else part.select(range(min(len(part), limit)))
    return TextDataset(name, **finished, class_names=class_names, origin=origin)


def load_from_config(config: Mapping) -> TextDataset:
    """Loads the corpus of a ``dataset`` config group.

    Raises as `load_text_dataset`, and ``ConfigError`` for an unknown option or another number of classes.
    """
    options = {key: value for key, value in config.items() if key not in _MODEL_FACTS}
    known = inspect.signature(load_text_dataset).parameters
    if unknown := sorted(options.keys() - known.keys()):
        raise ConfigError(f"there is no dataset.{unknown[0]}: the options are {', '.join(known)}")
    dataset = load_text_dataset(**options)
    num_classes = config.get("num_classes")
    if num_classes is not None and dataset.num_classes not in (None, num_classes):
        raise ConfigError(
            f"dataset.num_classes={num_classes}, but dataset={dataset.name} has {dataset.num_classes} "
            "classes: correct it or set it to null"
        )
    return dataset


class _Place(NamedTuple):
    """Where a corpus lies: files of each split, or the hub; ``looked``: where it was looked for before the hub."""

    by_split: Mapping[str, Sequence[Path]] = MappingProxyType({})
    left_out: Sequence[Path] = ()
    hub: HubSource | None = None
    looked: str = ""


class _Found(NamedTuple):
    tables: Mapping[str, Sequence[Tables]]
    notes: Sequence[str]


def _locate(name: str, spec: DatasetSpec, root: Any, files: Any, hub: Any) -> _Place:
    """The given place, else the searched folders, else the hub."""
    by_split = {} if files is None else _named_files(files, None if root is None else _path(root))
    if hub is not None and (root is not None or by_split):
        raise ConfigError(f"dataset.hub={hub} excludes dataset.root and dataset.files: set only one of them")
    if by_split:
        return _Place(by_split)
    if root is not None:
        return _in_root(name, spec, _path(root))
    if hub is not None:
        return _Place(hub=HubSource(hub) if isinstance(hub, str) else HubSource(**hub))
    if name == "custom":
        raise ConfigError(
            "dataset=custom needs texts: set dataset.root=<file or folder>, dataset.files=... or "
            "dataset.hub=owner/name"
        )
    bases = [Path(os.environ[ROOT_VARIABLE])] if os.environ.get(ROOT_VARIABLE) else []
    bases += [Path(base) for base in SEARCHED]
    folders = [base / folder for base in bases for folder in (name, *spec.folders)]
    for folder in folders:
        by_split, left_out = files_in(folder, spec)
        if by_split:
            return _Place(by_split, left_out)
    looked = f"dataset={name} was found in none of {', '.join(map(str, folders))}"
    if spec.hub is None:
        raise DataError(
            f"{looked}, and it is not on the hub ({spec.where_to_get}): "
            "set dataset.root=<folder with its files>"
        )
    return _Place(hub=spec.hub, looked=looked)


def _find(place: _Place, limit: int | None) -> _Found:
    """The tables of a corpus by split, and notes about what is not read."""
    if place.hub is None:
        files = {split: place.by_split[split] for split in SPLITS if split in place.by_split}
        return _Found(
            {split: list(map(_tables_of, paths)) for split, paths in files.items()}, not_read(place.left_out)
        )
    try:
        return _Found(*read_hub(place.hub, limit))
    except DataError as error:
        if place.looked:
            raise DataError(f"{place.looked}, and {error}") from error
        raise


def _tables_of(path: Path) -> Tables:
    if path.exists() and not path.is_file():  # a pipe, which can be read once
        tables = list(read_in_chunks(path))
        return lambda: tables
    return partial(read_in_chunks, path)


def _path(given: object) -> Path:
    return Path(os.path.expanduser(str(given)))


def _in_root(name: str, spec: DatasetSpec, root: Path) -> _Place:
    """Files of a corpus in a folder, or of a custom one in a file, or in those that match a pattern."""
    if name == "custom" and not root.exists() and (matches := expanded("dataset.root", root)) != [root]:
        return _Place({"train": matches})
    if not root.exists():
        raise DataError(f"dataset.root={root} does not exist: correct the path")
    if not root.is_dir():
        if name != "custom":
            raise DataError(
                f"dataset.root={root} is a file: give the folder of dataset={name}, or use dataset=custom"
            )
        return _Place({"train": [root]})
    by_split, left_out = files_in(root, spec)
    if not by_split:
        by_split, left_out = files_in(root / name, spec)
    if name == "custom":
        read = {path for paths in by_split.values() for path in paths}
        left_out = [path for path in corpus_files(root) if path not in read]
        if "train" not in by_split and (found := lone_file(left_out)):
            by_split["train"], left_out = found, []
    if not by_split:
        stems = "; ".join(f"{split}: {', '.join(spec.stems_of(split))}" for split in SPLITS)
        raise DataError(
            f"dataset.root={root} has no file that dataset={name} knows: looked for {stems}, "
            f"ending in {ENDINGS_IN_WORDS}; rename yours, or use dataset=custom"
        )
    return _Place(by_split, left_out)


def _named_files(files: str | Sequence[str] | Mapping[str, Any], root: Path | None) -> dict[str, list[Path]]:
    """The files of each split; ``root`` is the folder that they are relative to."""
    if not isinstance(files, Mapping):
        files = {"train": files}
    by_split: dict[str, list[Path]] = {}
    for split, paths in files.items():
        if paths is not None:
            paths = [paths] if isinstance(paths, str | os.PathLike) else paths
            option = f"dataset.files.{split}"
            places = [file for path in paths for file in expanded(option, (root or Path()) / _path(path))]
            by_split.setdefault(split_alias(split), []).extend(places)  # type: ignore[arg-type]  # a known split
    if by_split and root is not None and root.is_file():
        raise ConfigError(
            f"dataset.root={root} is a file, and dataset.files name others: leave one of the two out, or give the "
            "folder of the files as dataset.root"
        )
    return by_split
