"""Ctrl-C and SIGTERM as a wish that is granted between two steps, so that nothing is lost."""

import os
import signal
import threading


class Interrupted(Exception):
    """Training stopped on request, with everything saved. ``exit_code``: 130 for Ctrl-C, 0 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 130 if number == signal.SIGINT else 0


class Interrupts:
    """While entered, SIGINT and SIGTERM only set ``received``; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        # A launcher passes the terminal's Ctrl-C on, so its processes get it twice.
        alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
        if alone and number == signal.SIGINT == self.received:
            raise KeyboardInterrupt
        self.received = self.received or number

    def check(self) -> None:
        """Raises `Interrupted` if somebody wished to stop; for the long parts outside of the loop."""
        if self.received:
            raise Interrupted(self.received)
