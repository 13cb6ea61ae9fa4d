"""Time limits of a run and its stages (``train.max_minutes``)."""

import time

EVALUATION_SHARE = 0.03  # share of the limit that is reserved for the evaluation after each stage
LONGEST_EVALUATION = 60.0  # seconds


class RunClock:
    """Wall time of a run in seconds, over all its sessions.

    Args:
        limit: seconds for the whole run, or None.
        earlier: seconds that earlier sessions of the run took.
    """

    def __init__(self, limit: float | None, earlier: float = 0.0) -> None:
        self.limit, self.earlier = limit, earlier
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self._start

    def end_of(self, share: float) -> float | None:
        """The run's second at which a stage that may use ``share`` of the limit has to end, evaluation included."""
        return None if self.limit is None else share * self.limit


class StageClock:
    """A stage's part of a run, in run seconds: from ``start``, its first step, to ``end`` (None: no limit)."""

    def __init__(self, run: RunClock, start: float, end: float | None) -> None:
        self.run, self.start, self.end = run, start, end

    def progress(self) -> float:
        """Fraction of the stage's time that has passed; 0 without limit."""
        return self.progress_at(self.run.seconds())

    def progress_at(self, seconds: float) -> float:
        """`progress` at another time of the run."""
        if self.end is None or self.run.limit is None:
            return 0.0
        kept = min(EVALUATION_SHARE * self.run.limit, LONGEST_EVALUATION)
        available = self.end - kept - self.start
        return 1.0 if available <= 0 else min(1.0, (seconds - self.start) / available)

    def make_room(self, seconds: float) -> None:
        """Shortens the stage by its share of the ``seconds`` that work between the stages will take."""
        if self.end is not None and self.run.limit is not None:
            self.end -= self.end / self.run.limit * seconds

    def left(self) -> float:
        """Seconds that are left for the evaluation, too; infinite without limit."""
        return float("inf") if self.end is None else max(0.0, self.end - self.run.seconds())

    def is_over(self) -> bool:
        """Whether the time for the evaluation is over, too."""
        return self.end is not None and self.run.seconds() >= self.end
