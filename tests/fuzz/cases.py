"""A case of a fuzzer: a name, and what it does to a folder."""

import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# What a case does, as far as another text may legitimately come of it once the folder is sealed again: ``value`` puts
# another value of the same type or in the place of null, ``content`` other weights or another run's file. All else is
# damage.
DAMAGE, VALUE, CONTENT = "damage", "value", "content"


@dataclass(frozen=True)
class Case:
    """One change of a folder.

    ``apply(folder)`` makes it; ``kind`` is one of `DAMAGE`, `VALUE` and `CONTENT`.
    """

    name: str
    apply: Callable[[Path], None]
    kind: str = DAMAGE


SMALL = 100_000  # bytes; logs, which a command may go on writing, are no larger


def copy_of(folder: Path, target: Path) -> Path:
    """Copies a folder with hard links to its large files; a case replaces the files it changes."""
    shutil.copytree(folder, target, copy_function=_copy_or_link, symlinks=True)
    return target


def _copy_or_link(source: str, target: str) -> None:
    small = os.path.getsize(source) < SMALL
    shutil.copy2(source, target) if small else os.link(source, target)


def removed(path: Path) -> Path:
    """Removes a file or folder if it exists; returns the path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return path


def rewrite(path: Path, content: bytes) -> None:
    """Replaces a file; the target of a link is left unchanged."""
    removed(path).write_bytes(content)


def files_in(folder: Path) -> list[str]:
    """Paths of all files in a folder, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def generator(*names: object) -> random.Random:
    """A random generator seeded by the names."""
    return random.Random(zlib.crc32("/".join(map(str, names)).encode()))


def sampled(cases: Iterable[Case], count: int | None, seed: int) -> list[Case]:
    """A random sample of ``count`` cases, sorted by name; all if ``count`` is None.

    Each case has its own random number: adding or removing one changes few others of the sample.
    """
    ordered = sorted(cases, key=lambda case: case.name)
    if count is None or count >= len(ordered):
        return ordered
    chosen = sorted(ordered, key=lambda case: generator(seed, case.name).random())[:count]
    return sorted(chosen, key=lambda case: case.name)


def without_repetition(cases: Iterable[Case]) -> Iterator[Case]:
    """Yields the cases; raises ValueError if two have the same name."""
    seen: set[str] = set()
    for case in cases:
        if case.name in seen:
            raise ValueError(f"two cases are called {case.name}")
        seen.add(case.name)
        yield case
