"""The hidden folder of an export until it is complete. Deletes the folders that killed exports left."""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ld4lg_fast.errors import ConfigError


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target``, deleted in the end; the caller renames its content to ``target``.

    A lock, which the system releases when a process ends, lets one process at a time write a target. The process with
    the lock deletes the folders of earlier ones that were killed.

    Raises:
        ConfigError: another process writes the target.
    """
    prefix = f".{target.name}.exporting"
    with _lock(target.parent / prefix, target):
        for left in target.parent.iterdir():
            if re.fullmatch(re.escape(prefix) + "-[a-z0-9_]{8}", left.name) and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f"{prefix}-", dir=target.parent) as folder:
            yield Path(folder)


@contextmanager
def _lock(path: Path, target: Path) -> Iterator[None]:
    """Holds a lock on a file that exists only meanwhile."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise ConfigError(
                f"Another process is exporting to {target}; wait until it ends, or choose another folder."
            ) from error
        if _lies_at(file, path):
            break
        os.close(file)  # deleted by a process that has just ended
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _lies_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
