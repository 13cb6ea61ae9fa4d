"""Defers SIGINT, SIGTERM and SIGHUP to the end of the current training step."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ld4lg_fast.terminal.hydra_entry import SIGNALLED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A terminal that closes, or a service manager, sends a second signal along with the first one.
SAME_REQUEST = 1.0  # seconds within which signals count as one
PR_SET_PDEATHSIG = 1  # prctl(2)


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, with everything saved. Not an `Exception`, so that no handler swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number, self.exit_code = number, SIGNALLED + number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


def end_with_launcher() -> None:
    """Makes the system send SIGTERM to this process when its launcher ends.

    ``accelerate launch`` does not forward signals to a single process, which would otherwise keep training.
    """
    with suppress(OSError, AttributeError):  # not Linux
        if b"accelerate" in Path(f"/proc/{os.getppid()}/cmdline").read_bytes():
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Interrupts:
    """Context manager: the first signal only sets ``received``, which `check` reads; a second one stops immediately.

    A signal that was ignored before, such as SIGHUP under ``nohup``, stays ignored. Under a launcher, which forwards
    signals to all processes and ends them itself, only the first signal counts.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._time = 0.0
        self._raises = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: object) -> None:
        now, alone = time.monotonic(), int(os.environ.get("WORLD_SIZE", 1)) == 1
        again = self.received == number == signal.SIGINT or now - self._time > SAME_REQUEST
        insists = alone and self.received is not None and again
        if self.received is None:
            self.received, self._time = number, now
        if self._raises or insists:
            self._raises = False
            raise Interrupted(number if insists else self.received)

    def check(self) -> None:
        """Raises `Interrupted` if a signal was received."""
        if self.received:
            raise Interrupted(self.received)

    @contextmanager
    def immediately(self) -> Iterator[None]:
        """Context manager around long work that can be repeated: a signal stops it immediately."""
        self._raises, before = True, self._raises
        try:
            self.check()
            yield
        finally:
            self._raises = before
