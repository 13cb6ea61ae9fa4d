"""Lock of a run directory, so that only one process writes to it."""

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from ld4lg_fast.errors import CheckpointError, ConfigError

NAME = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """``<run directory>/.lock``, which names host, process and start time of its holder; a context manager.

    The lock is ``flock``, which the system releases when the process ends and which network file systems propagate to
    other hosts. On file systems without locks the file's content decides: a process of this host holds the lock while
    it runs, and one of another host until the file is deleted.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory.resolve() / NAME
        self._file: int | None = None
        self._made: list[Path] = []

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock; creates the directory if it is missing.

        Raises:
            ConfigError: another process holds it.
            CheckpointError: the directory cannot be written to.
        """
        try:
            self._made = [folder for folder in self.path.parents if not folder.exists()]
            while self._file is None:
                self._try()
        except OSError as error:
            self._remove_made()
            raise CheckpointError(
                f"{self.directory} cannot be written ({error.strerror}); choose another directory, as with "
                "hydra.run.dir=..."
            ) from error

    def release(self) -> None:
        """Releases the lock and removes its file, and directories that it created if they are still empty."""
        if self._file is not None:
            if self._is_in_place(self._file):
                self.path.unlink()
            os.close(self._file)
            self._file = None
        self._remove_made()

    def holder(self) -> dict:
        """Host, process and start time of who holds the lock according to its file; empty if there is none."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return {}
        try:
            return _read(file)
        finally:
            os.close(file)

    def follow(self, moved_to: Path) -> None:
        """Locks a new directory in the place of a moved one, then unlocks the moved one.

        Raises:
            ConfigError: another process locked the new directory first.
        """
        old, self._file = self._file, None
        try:
            self.acquire()
        finally:
            (moved_to / NAME).unlink(missing_ok=True)
            if old is not None:
                os.close(old)

    def _try(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            self._lock(file)
            if self._is_in_place(file):
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(_this_process()).encode(), 0)
                self._file = file
        finally:
            if self._file is None:
                os.close(file)

    def _is_in_place(self, file: int) -> bool:
        """Whether an open file is still the one at the path, as releasing a lock deletes it."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _lock(self, file: int) -> None:
        """Locks the file, or raises `ConfigError` if another process holds it."""
        advice = ""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _read(file)
        except OSError as error:
            holder = _read(file)
            if error.errno not in _UNSUPPORTED:
                raise
            if not _may_live(holder):
                return
            advice = f", or delete {self.path} if that process is gone."
        who = "another process"
        if holder:
            who = f"process {holder['process']} on {holder['host']} since {holder['since']}"
        raise ConfigError(
            f"{self.directory} is in use by {who}; wait until it ends, or choose another run directory, as with "
            f"hydra.run.dir=...{advice}"
        )

    def _remove_made(self) -> None:
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()
        self._made = []


def _this_process() -> dict:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "started": _started(os.getpid()),
    }


def _read(file: int) -> dict:
    """The holder according to the file; empty if its content is invalid."""
    try:
        content = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    wanted = _this_process()
    known = isinstance(content, dict) and content.keys() == wanted.keys()
    return content if known and all(type(content[k]) is type(wanted[k]) for k in wanted) else {}


def _started(process: int) -> str:
    """Start time of a process of this host in clock ticks; empty if unknown."""
    try:
        # The command's name, in parentheses, may contain any characters.
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""


def _may_live(holder: dict) -> bool:
    """Whether the process may still run; its start time tells it from a later process with the same number."""
    if not holder or holder["host"] != socket.gethostname():
        return bool(holder)
    if not 0 < holder["process"] != os.getpid():
        return False
    try:
        os.kill(holder["process"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return holder["started"] == _started(holder["process"])
