"""Loads corpora by name: searches their files, reads the rows and makes the splits."""

import difflib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ld4lg_fast.data.catalogue import DATASETS, DatasetSpec, HubSource, split_alias
from ld4lg_fast.data.corpus import SPLITS, TextDataset
from ld4lg_fast.data.corpus_options import check_corpus_options
from ld4lg_fast.data.demo import demo_dataset
from ld4lg_fast.data.demo_documents import demo_documents
from ld4lg_fast.data.documents import one_text_a_source
from ld4lg_fast.data.formats import read_table
from ld4lg_fast.data.hub_datasets import read_hub
from ld4lg_fast.data.rows import Columns, splits_from_rows
from ld4lg_fast.data.splits import PUBLISHED_SEED, complete_custom, complete_published
from ld4lg_fast.errors import ConfigError, DataError
from ld4lg_fast.export.runtime.documents import tidied
from ld4lg_fast.export.runtime.text_files import EXTENSIONS, Table

ROOT_VARIABLE = "LD4LG_DATASETS"
SEARCHED = ("data", "datasets", "../shared/datasets")

_MODEL_FACTS = ("max_len", "source_max_len", "num_classes", "seq2seq")


def load_text_dataset(
    name: str,
    *,
    root: str | os.PathLike | None = None,
    files: str | Sequence[str] | Mapping[str, object] | None = None,
    hub: str | Mapping[str, str] | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    source_column: str | None = None,
    limit: int | None = None,
    num_examples: int | None = None,
    seed: int = PUBLISHED_SEED,
    train_fallback: str | None = None,
    documents: bool = False,
) -> TextDataset:
    """Loads a corpus: one of ``DATASETS``, including ``custom`` files and the generated ``demo`` corpus.

    Args:
        root: a folder, or for custom also a file.
        files: one file, several, or a mapping from split to file(s).
        hub: ``owner/name`` or a mapping with ``path`` and optionally ``config``, ``revision``, ``data_dir``. Without
            root, files and hub, ``$LD4LG_DATASETS``, ``data``, ``datasets`` and ``../shared/datasets`` are searched for
            a folder of the corpus's name, then the hub.
        limit: keeps the first texts of each split.
        num_examples: number of training texts of the demo corpus.
        seed: for splits. Missing held-out splits of a custom corpus are a twentieth of its training texts each, at most
            1,000.
        train_fallback: the split of which nine tenths become training texts if there is no training file.
        documents: a text is a document, to be written block by block: of the demo corpus those of a second grammar, of
            E2E all texts of one meaning; white space is tidied (`export.runtime.documents.tidied`).

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
        }
    )
    if num_examples is not None and name != "demo":
        raise ConfigError(f"dataset.num_examples={num_examples} is for dataset=demo: use dataset.limit")

    class_names = None
    if name == "demo":
        make = demo_documents if documents else demo_dataset
        demo = make(seed) if num_examples is None else make(seed, train=num_examples)
        splits, origin = {split: getattr(demo, split) for split in SPLITS}, demo.origin
    else:
        spec = DATASETS[name]
        found = _find(name, spec, root, files, hub)
        # A column's name on the command line may look like a number.
        columns = (None if name is None else str(name) for name in (text_column, label_column, source_column))
        asked = Columns(*columns)
        grouped = documents and spec.document is not None
        if grouped and asked.source is None:
            asked = replace(asked, source=spec.document)
        splits, class_names, accounts = splits_from_rows(spec, found.tables, asked, found.first_label)
        if name == "custom":
            splits = {split: part.select(part.filled()) for split, part in splits.items()}
            splits, notes = complete_custom(splits, seed, found.origin)
        else:
            # Blank texts are dropped later, as the published permutations include them.
            splits, notes = complete_published(name, spec, splits, seed, train_fallback, found.origin)
        origin = "; ".join([", ".join(accounts), *found.notes, *notes])
        if grouped:
            splits = {split: one_text_a_source(part) for split, part in splits.items()}
        if documents:
            splits = {
                split: replace(part, texts=list(map(tidied, part.texts))) for split, part in splits.items()
            }
    finished = {}
    for split in SPLITS:
        part = splits[split].select(splits[split].filled())
        if not len(part):
            raise DataError(f"dataset={name} has only blank {split} texts ({origin}): give at least one text")
        finished[split] = part.select(range(min(len(part), limit or len(part))))
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


class _Found(NamedTuple):
    tables: dict[str, list[Table]]
    origin: str
    first_label: int = 0
    notes: Sequence[str] = ()


def _find(name: str, spec: DatasetSpec, root: Any, files: Any, hub: Any) -> _Found:
    """Rows from the given source, else from the searched folders, else from the hub."""
    by_split = {} if files is None else _named_files(files, None if root is None else _path(root))
    if hub is not None and (root is not None or by_split):
        raise ConfigError(f"dataset.hub={hub} excludes dataset.root and dataset.files: set only one of them")
    if by_split:
        return _read_files(spec, by_split)
    if root is not None:
        return _in_root(name, spec, _path(root))
    if hub is not None:
        return _from_hub(HubSource(hub) if isinstance(hub, str) else HubSource(**hub))
    if name == "custom":
        raise ConfigError(
            "dataset=custom needs texts: set dataset.root=<file or folder>, dataset.files=... or "
            "dataset.hub=owner/name"
        )
    bases = [Path(os.environ[ROOT_VARIABLE])] if os.environ.get(ROOT_VARIABLE) else []
    bases += [Path(base) for base in SEARCHED]
    folders = [base / folder for base in bases for folder in (name, *spec.folders)]
    for folder in folders:
        if by_split := _files_in(folder, spec):
            return _read_files(spec, by_split)
    looked = f"dataset={name} was found in none of {', '.join(map(str, folders))}"
    if spec.hub is None:
        raise DataError(
            f"{looked}, and it is not on the hub ({spec.where_to_get}): "
            "set dataset.root=<folder with its files>"
        )
    try:
        return _from_hub(spec.hub)
    except DataError as error:
        raise DataError(f"{looked}, and {error}") from error


def _path(given: object) -> Path:
    return Path(os.path.expanduser(str(given)))


def _from_hub(source: HubSource) -> _Found:
    splits, notes = read_hub(source)
    tables = {
        split: [Table(f"{source.path} ({split}) on the hub", rows, range(1, len(rows) + 1), "row")]
        for split, rows in splits.items()
    }
    return _Found(tables, f"{source.path} on the hub", source.first_label, notes)


def _files_in(folder: Path, spec: DatasetSpec) -> dict[str, list[Path]]:
    """The first file of each split in ``folder`` with one of the usual names."""
    by_split = {}
    for split in SPLITS:
        paths = (folder / f"{stem}{ending}" for stem in spec.stems_of(split) for ending in EXTENSIONS)
        path = next((path for path in paths if path.is_file()), None)
        if path:
            by_split[split] = [path]
    return by_split


def _in_root(name: str, spec: DatasetSpec, root: Path) -> _Found:
    """Rows of a corpus in a folder, or of a custom one in a file."""
    if not root.exists():
        raise DataError(f"dataset.root={root} does not exist: correct the path")
    if not root.is_dir():
        if name != "custom":
            raise DataError(
                f"dataset.root={root} is a file: give the folder of dataset={name}, or use dataset=custom"
            )
        return _read_files(spec, {"train": [root]})
    by_split = _files_in(root, spec) or _files_in(root / name, spec)
    if name != "custom":
        others = []
    else:
        others = [path for path in sorted(root.iterdir()) if path.suffix.lower() in EXTENSIONS]
        others = [path for path in others if [path] not in by_split.values()]
        if "train" not in by_split and len(others) == 1:
            by_split["train"], others = others, []
    if not by_split:
        stems = "; ".join(f"{split}: {', '.join(spec.stems_of(split))}" for split in SPLITS)
        raise DataError(
            f"dataset.root={root} has no file that dataset={name} knows: looked for {stems}, "
            f"ending in {', '.join(EXTENSIONS)}; rename yours, or use dataset=custom"
        )
    found = _read_files(spec, by_split)
    return found._replace(notes=[f"{path} is not read" for path in others])


def _named_files(files: str | Sequence[str] | Mapping[str, Any], root: Path | None) -> dict[str, list[Path]]:
    """The files of each split; ``root`` is the folder that they are relative to."""
    if not isinstance(files, Mapping):
        files = {"train": files}
    by_split: dict[str, list[Path]] = {}
    for split, paths in files.items():
        if paths is not None:
            paths = [paths] if isinstance(paths, str | os.PathLike) else paths
            places = [(root or Path()) / _path(path) for path in paths]
            by_split.setdefault(split_alias(split), []).extend(places)  # type: ignore[arg-type]  # a known split
    if by_split and root is not None and root.is_file():
        raise ConfigError(
            f"dataset.root={root} is a file, and dataset.files name others: leave one of the two out, or give the "
            "folder of the files as dataset.root"
        )
    return by_split


def _read_files(spec: DatasetSpec, by_split: Mapping[str, Sequence[Path]]) -> _Found:
    tables = {
        split: [_table_of(spec, path) for path in by_split[split]]
        for split in sorted(by_split, key=SPLITS.index)
    }
    return _Found(tables, ", ".join(table.name for parts in tables.values() for table in parts))


def _table_of(spec: DatasetSpec, path: Path) -> Table:
    table = read_table(path)
    if spec.separator is None or path.suffix.lower() != ".txt":
        return table
    texts = []
    for index, row in enumerate(table.rows):
        _, separator, text = str(row["text"]).partition(spec.separator)
        if not separator and str(row["text"]).strip():
            raise DataError(
                f"{table.where(index)} has no {spec.separator}: write each line as "
                f"meta{spec.separator}text, or read plain lines with dataset=custom"
            )
        texts.append({"text": text})
    return replace(table, rows=texts)
