"""Progress of a training stage: a live bar in a terminal, a line every 15 seconds if the output is piped."""

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
    """A context manager that shows the step, loss, speed and remaining time of a stage."""

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
        """``share`` in [0, 1]: the finished part of the steps or of the time budget, whichever is larger."""
        now = time.monotonic()
        if self._first is None:
            self._first = share
        # A resumed stage starts above zero; the remaining time follows from this session's speed.
        gained = share - self._first
        left = f" · {duration((1 - share) / gained * (now - self._start))} left" if gained > 0 else ""
        status = f"step {step} of {self.steps} · loss {loss:.4f} · {samples_per_second:.0f} texts/s{left}"
        self._bar.update(self._task, completed=share, status=status)
        if not console.is_terminal and (now - self._last_line >= SECONDS_BETWEEN_LINES or share >= 1):
            self._last_line = now
            console.print(f"{self.title}: {status}")
