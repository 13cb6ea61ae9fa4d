"""How far a stage has come, in steps and against ``train.max_minutes``."""

import time

EVALUATION_SHARE = 0.03  # of the limit, kept for the evaluation after each stage
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
        """When a stage's evaluation has to be over, if it may use the run up to ``share`` of the limit."""
        return None if self.limit is None else share * self.limit


class StageClock:
    """The part of a run that one stage has: from ``start``, where its steps begin, to ``end`` (None: no limit), in run
    seconds."""

    def __init__(self, run: RunClock, start: float, end: float | None) -> None:
        self.run, self.start, self.end = run, start, end

    def progress(self) -> float:
        """Share of the training time that has passed; 0 where there is no limit."""
        return self.progress_at(self.run.seconds())

    def progress_at(self, seconds: float) -> float:
        """`progress` at another moment of the run."""
        if self.end is None or self.run.limit is None:
            return 0.0
        kept = min(EVALUATION_SHARE * self.run.limit, LONGEST_EVALUATION)
        available = self.end - kept - self.start
        return 1.0 if available <= 0 else min(1.0, (seconds - self.start) / available)

    def make_room(self, seconds: float) -> None:
        """Gives up this stage's share of what something else between the stages will take."""
        if self.end is not None and self.run.limit is not None:
            self.end -= self.end / self.run.limit * seconds

    def is_over(self) -> bool:
        """Whether not even the evaluation has time left."""
        return self.end is not None and self.run.seconds() >= self.end
