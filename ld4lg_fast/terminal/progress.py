"""A stage's progress on the screen: a live bar in a terminal, a line now and then where output is piped."""

import time

from rich.progress import BarColumn, Progress, TimeElapsedColumn

from ld4lg_fast.terminal.console import ShownColumn, console

SECONDS_BETWEEN_LINES = 15.0


def duration(seconds: float) -> str:
    """``75.2`` -> ``1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class StageProgress:
    """Shows how far a stage is, its loss, speed and the time left; a context manager."""

    def __init__(self, title: str, steps: int) -> None:
        self.title, self.steps = title, steps
        self._start = self._last_line = time.monotonic()
        self._first: float | None = None
        self._bar = Progress(
            ShownColumn("{task.description}"),
            BarColumn(),
            ShownColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=1.0, status="")

    def __enter__(self) -> "StageProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, share: float, step: int, loss: float, samples_per_second: float) -> None:
        """``share`` in [0, 1] is what has been done, in steps or in time, whichever is further."""
        now = time.monotonic()
        if self._first is None:
            self._first = share
        # A resumed stage starts above zero, so the speed is that of this session.
        gained = share - self._first
        left = f" · {duration((1 - share) / gained * (now - self._start))} left" if gained > 0 else ""
        status = f"step {step} of {self.steps} · loss {loss:.4f} · {samples_per_second:.0f} texts/s{left}"
        self._bar.update(self._task, completed=share, status=status)
        if not console.is_terminal and (now - self._last_line >= SECONDS_BETWEEN_LINES or share >= 1):
            self._last_line = now
            console.print(f"{self.title}: {status}")
