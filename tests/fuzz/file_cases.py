"""Cases of any file: missing, truncated, changed, replaced by another kind of file or by that of another run."""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.fuzz.cases import CONTENT, Case, generator, removed, rewrite

FLIPS = 6
OF_ANOTHER = "of_another_run"


def file_cases(folder: Path, name: str, other: Path | None = None) -> Iterator[Case]:
    """All cases of the file ``name``; ``other`` is a folder of another run, with parts of the same sizes."""
    changes = {
        "missing": _missing,
        "empty": partial(_cut, share=0.0),
        "first_byte": partial(_cut, share=1e-9),
        "cut_at_1/4": partial(_cut, share=0.25),
        "cut_at_3/4": partial(_cut, share=0.75),
        "last_byte_missing": partial(_cut, share=1.0),
        "directory": _directory,
        "dangling_link": partial(_link, target="nowhere"),
        "link_to_itself": partial(_link, target=Path(name).name),
        "link_to_zeros": partial(_link, target="/dev/zero"),
        "link_to_null": partial(_link, target="/dev/null"),
        "link_to_folder": partial(_link, target="."),
        "link_out": partial(_link, target="/etc/passwd"),
        "pipe": _pipe,
        "sparse": partial(_resized, size=1 << 40),
        "trailing_zero": partial(_longer, tail=b"\0"),
        "trailing_text": partial(_longer, tail=b"trailing text\n"),
        "twice": _twice,
        "zeros": _zeros,
        "random": _random,
    }
    for what, change in changes.items():
        yield Case(f"{name}={what}", partial(change, name=name))
    for number in range(FLIPS):
        yield Case(f"{name}=flip_{number}", partial(_flip, name=name, number=number), CONTENT)
    if other is not None:
        yield Case(f"{name}={OF_ANOTHER}", partial(_of_another, name=name, other=other), CONTENT)


def folder_cases(folder: Path, name: str, other: Path | None = None) -> Iterator[Case]:
    """All cases of the folder ``name`` in the folder."""
    changes = {
        "missing": _missing,
        "empty": _empty_folder,
        "file": partial(_rewritten, content=b"{}"),
        "dangling_link": partial(_link, target="nowhere"),
        "link_to_itself": partial(_link, target=Path(name).name),
        "link_to_root": partial(_link, target="/"),
        "pipe": _pipe,
    }
    for what, change in changes.items():
        yield Case(f"{name}/={what}", partial(change, name=name))
    if other is not None:
        yield Case(f"{name}/={OF_ANOTHER}", partial(_of_another, name=name, other=other), CONTENT)


def _missing(folder: Path, name: str) -> None:
    removed(folder / name)


def _rewritten(folder: Path, name: str, content: bytes) -> None:
    rewrite(folder / name, content)


def _cut(folder: Path, name: str, share: float) -> None:
    content = (folder / name).read_bytes()
    size = len(content) - 1 if share == 1.0 else max(int(len(content) * share), 1 if share else 0)
    rewrite(folder / name, content[:size])


def _directory(folder: Path, name: str) -> None:
    removed(folder / name).mkdir()


def _empty_folder(folder: Path, name: str) -> None:
    removed(folder / name).mkdir()


def _link(folder: Path, name: str, target: str) -> None:
    removed(folder / name).symlink_to(target)


def _pipe(folder: Path, name: str) -> None:
    os.mkfifo(removed(folder / name))


def _resized(folder: Path, name: str, size: int) -> None:
    _longer(folder, name, b"")
    os.truncate(folder / name, size)


def _longer(folder: Path, name: str, tail: bytes) -> None:
    rewrite(folder / name, (folder / name).read_bytes() + tail)


def _twice(folder: Path, name: str) -> None:
    rewrite(folder / name, 2 * (folder / name).read_bytes())


def _zeros(folder: Path, name: str) -> None:
    rewrite(folder / name, bytes((folder / name).stat().st_size))


def _random(folder: Path, name: str) -> None:
    rewrite(folder / name, generator(name, "random").randbytes((folder / name).stat().st_size))


def _flip(folder: Path, name: str, number: int) -> None:
    content, choice = bytearray((folder / name).read_bytes()), generator(name, number)
    # Half of the flips lie at the beginning, where headers are.
    end = len(content) if number % 2 else min(len(content), 2000)
    content[choice.randrange(end)] ^= 1 << choice.randrange(8)
    rewrite(folder / name, bytes(content))


def _of_another(folder: Path, name: str, other: Path) -> None:
    removed(folder / name)
    if (other / name).is_dir():
        shutil.copytree(other / name, folder / name, copy_function=os.link)
    else:
        os.link(other / name, folder / name)
