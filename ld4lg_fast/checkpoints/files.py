"""Reads and writes files of a run: writes are atomic, reads check file type, size and JSON depth (untrusted input)."""

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.json_files import parse

MAX_JSON_BYTES = 64 * 2**20  # mT5's tokenizer.json has 16 MB


def size_of(path: Path) -> int:
    """Size in bytes of a regular file, or of a link's target.

    Raises:
        FileNotFoundError: the file or the link's target does not exist.
        CheckpointError: it is a directory, a pipe or a device.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} is not a regular file; restore it from where the run came from.")
    return found.st_size


def check_size(path: Path, limit: int) -> None:
    """Checks that a file has at most ``limit`` bytes; raises as `size_of`."""
    if (size := size_of(path)) > limit:
        raise CheckpointError(
            f"{path} has {size:,} bytes, more than the {limit:,} that such a file may have."
        )


def read_text(path: Path, limit: int = MAX_JSON_BYTES) -> str:
    """Text of a small UTF-8 file.

    Raises:
        FileNotFoundError: it does not exist.
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
        CheckpointError: the text is not valid; the message names ``path``.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read as JSON; the file is damaged ({error}).") from error


def unfinished(path: Path) -> Path:
    """A name for what is written before it takes its place at ``path``, which no other writer has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file atomically: a crash leaves either the old content or the new.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written to; the old content stays.
    """
    temporary = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}); free some space there or choose another directory."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Context manager that converts all errors of transformers' writing to `CheckpointError`.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written to.
    """
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{directory} cannot be written ({error}); free some space there or choose another directory."
        ) from error


def write_json(path: Path, content: Mapping) -> None:
    """Writes indented JSON atomically; characters that UTF-8 cannot encode are escaped."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode(errors="backslashreplace"))


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Reads a JSON object; see `parse_json`.

    Raises:
        CheckpointError: the file is missing or invalid; ``what`` describes its folder in the message.
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
