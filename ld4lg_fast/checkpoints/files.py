"""Files of a run: written atomically; read with bounds on kind, size and depth, as somebody else may have made them."""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.json_files import parse

MAX_JSON_BYTES = 64 * 2**20  # mT5's tokenizer.json has 16 MB


def size_of(path: Path) -> int:
    """Bytes of a regular file, or of the one that a link leads to.

    Raises:
        FileNotFoundError: there is none, or the link leads nowhere.
        CheckpointError: a directory, a pipe or a device, whose reading might never end.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} is not a regular file; restore it from where the run came from.")
    return found.st_size


def check_size(path: Path, limit: int) -> None:
    """Refuses a file of more than ``limit`` bytes before it is read; otherwise as `size_of`."""
    if (size := size_of(path)) > limit:
        raise CheckpointError(
            f"{path} has {size:,} bytes, more than the {limit:,} that such a file may have."
        )


def read_text(path: Path, limit: int = MAX_JSON_BYTES) -> str:
    """A small UTF-8 file.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is no regular file, is larger than ``limit`` bytes, or is not UTF-8.
    """
    check_size(path, limit)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is damaged: byte {error.start} is not UTF-8 text.") from error


def parse_json(text: str, path: Path) -> Any:
    """JSON of finite numbers and bounded depth; see `ld4lg_fast.export.runtime.json_files.parse`.

    Raises:
        CheckpointError: it is something else; the message names ``path``.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read as JSON; the file is damaged ({error}).") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a crash leaves either the old content or the new.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written to; the old content stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}); free some space there or choose another directory."
        ) from error


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Around what transformers writes, whose errors are of many kinds.

    Raises:
        CheckpointError: for any of them; the disk is full or the folder cannot be written to.
    """
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{directory} cannot be written ({error}); free some space there or choose another directory."
        ) from error


def write_json(path: Path, content: Mapping) -> None:
    """Writes indented JSON atomically; what UTF-8 cannot hold, as bytes of a file name, stays an escape."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode(errors="backslashreplace"))


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Reads a JSON object; see `parse_json`.

    Raises:
        CheckpointError: the file is missing or broken; ``what`` says what its folder should have been.
    """
    try:
        content = parse_json(read_text(path), path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} is not {what}: it has no {path.name}.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object, so {path.parent} is not {what}.")
    return content
