"""Finds the files of a corpus: by their names in a folder, as shards, and by patterns."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from ld4lg_fast.data.catalogue import DatasetSpec
from ld4lg_fast.data.corpus import SPLITS
from ld4lg_fast.data.formats import ENDINGS, ENDINGS_IN_WORDS, format_of
from ld4lg_fast.errors import DataError

# train-00003-of-00128.parquet, train_003.jsonl.gz
_SHARD = re.compile(r"(?P<stem>.+?)(?:-(?P<number>\d+)-of-(?P<count>\d+)|[-_.]\d{2,})", re.DOTALL)
_SHOWN = 10  # file names in a message


def files_in(folder: Path, spec: DatasetSpec) -> tuple[dict[str, list[Path]], list[Path]]:
    """The first file of each split in ``folder`` with one of the usual names, or its shards; and the other such files.

    Raises:
        DataError: a shard is missing.
    """
    by_split: dict[str, list[Path]] = {}
    left_out: list[Path] = []
    paths = corpus_files(folder) if folder.is_dir() else []
    by_name, shards = {path.name: [path] for path in paths}, _shards(paths)
    for split in SPLITS:
        for name in (f"{stem}{ending}" for stem in spec.stems_of(split) for ending in ENDINGS):
            for found in (by_name.get(name, []), shards.get(name, [])):
                if found and split not in by_split:
                    by_split[split] = _complete(found, name)
                else:
                    left_out += found
    return by_split, left_out


def corpus_files(folder: Path) -> list[Path]:
    """All files of known formats in a folder, by their names."""
    return [path for path in sorted(folder.iterdir()) if format_of(path) and path.is_file()]


def lone_file(paths: Sequence[Path]) -> list[Path]:
    """The only file of a list, or all of it if it is one set of shards; else nothing.

    Raises:
        DataError: a shard is missing.
    """
    if len(paths) == 1:
        return list(paths)
    shards = _shards(paths)
    ((name, found),) = shards.items() if len(shards) == 1 else [("", [])]
    return _complete(found, name) if found and len(found) == len(paths) else []


def expanded(option: str, path: Path) -> list[Path]:
    """The files that an option names: one, all of a folder, or those that match a pattern such as ``shards/*.jsonl``.

    Raises:
        DataError: there is none.
    """
    if path.is_dir():
        if found := corpus_files(path):
            return found
        raise DataError(
            f"{option}={path} has no file whose name ends in {ENDINGS_IN_WORDS}: name another folder"
        )
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    if found := [
        match for match in map(Path, sorted(glob.glob(str(path), recursive=True))) if match.is_file()
    ]:
        return found
    raise DataError(f"{option}={path} matches no file: correct the pattern, or the folder before it")


def not_read(paths: Sequence[Path]) -> list[str]:
    """Notes about files that are left out."""
    shown = [f"{path} is not read" for path in paths[:_SHOWN]]
    more = len(paths) - len(shown)
    return [*shown, f"{more} more files are not read"] if more else shown


def _shards(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the name of what they are shards of: ``train.jsonl`` of ``train-00000-of-00002.jsonl``."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        ending = format_of(path) or ""
        if match := _SHARD.fullmatch(path.name.removesuffix(ending)):
            found.setdefault(f"{match['stem']}{ending}", []).append(path)
    return found


def _complete(found: list[Path], name: str) -> list[Path]:
    """The files, after a check that none is missing of those that their names count.

    Raises:
        DataError: the sentence has the number of a missing one.
    """
    matches = [_SHARD.fullmatch(path.name.removesuffix(format_of(path) or "")) for path in found]
    numbers = {(int(match["number"]), int(match["count"])) for match in matches if match and match["count"]}
    for count in {count for _, count in numbers}:
        have = {number for number, of in numbers if of == count}
        first = 0 if 0 in have else 1
        missing = sorted(set(range(first, first + count)) - have)
        if missing:
            raise DataError(
                f"{found[0].parent} has {len(have)} of the {count} shards of {name}; number {missing[0]} is missing: "
                "fetch it, or name the files with dataset.files.train=[...]"
            )
    return found
