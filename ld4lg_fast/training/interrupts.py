"""Ctrl-C, SIGTERM and SIGHUP: granted between two steps, or at once where nothing could be lost."""

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
ONE_WISH = 1.0  # seconds
PR_SET_PDEATHSIG = 1  # prctl(2)


class Interrupted(KeyboardInterrupt):
    """Training stopped on request, with everything saved; no `Exception`, so that nothing takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number, self.exit_code = number, SIGNALLED + number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


def end_with_launcher() -> None:
    """Has the system send SIGTERM when the launcher of this process is gone.

    ``accelerate launch`` passes no signal on where it starts a single process, which would train on without it.
    """
    with suppress(OSError, AttributeError):  # not Linux
        if b"accelerate" in Path(f"/proc/{os.getppid()}/cmdline").read_bytes():
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Interrupts:
    """While entered, the first signal only sets ``received``, for `check` to find; a second one stops at once.

    A signal that the process was started to ignore, as SIGHUP under ``nohup``, stays ignored. Under a launcher, which
    passes on what the terminal sends to all, and ends its processes itself, only the first one counts.
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
        again = self.received == number == signal.SIGINT or now - self._time > ONE_WISH
        insists = alone and self.received is not None and again
        if self.received is None:
            self.received, self._time = number, now
        if self._raises or insists:
            self._raises = False
            raise Interrupted(number if insists else self.received)

    def check(self) -> None:
        """Raises `Interrupted` if somebody wished to stop."""
        if self.received:
            raise Interrupted(self.received)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Around long work of this process alone that loses nothing: a signal ends it where it is."""
        self._raises, before = True, self._raises
        try:
            self.check()
            yield
        finally:
            self._raises = before
