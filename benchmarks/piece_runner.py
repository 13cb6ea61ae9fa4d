"""Runs pieces one after the other, each in a process of its own; what a folder has already is not run again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import ROOT, has_module

from benchmarks.pieces import LIMIT_MINUTES, Piece
from ld4lg_fast.terminal.console import console, progress_bar

LAST_LINES = 12


@dataclass(frozen=True)
class Outcome:
    """How a piece ended: ``status`` is done, failed, timeout, skipped or "not reached", ``reason`` says why."""

    name: str
    title: str
    command: list[str]
    status: str
    seconds: float = 0.0
    reason: str | None = None


class PieceRunner:
    """Runs pieces within a folder: of each its result ``NAME.json``, its output ``NAME.log`` and ``NAME.outcome.json``.

    Args:
        max_minutes: no piece is begun that is not expected to end within so many minutes.
    """

    def __init__(
        self, out: Path, max_minutes: float | None = None, limit_minutes: float = LIMIT_MINUTES
    ) -> None:
        self.out, self.limit = out, limit_minutes * 60
        self.end = None if max_minutes is None else time.monotonic() + max_minutes * 60

    def run(self, pieces: Sequence[Piece]) -> tuple[list[Outcome], bool]:
        """One outcome a piece, and whether Ctrl-C ended the run; what was done by then is kept."""
        self.out.mkdir(parents=True, exist_ok=True)
        found: list[Outcome] = []
        with progress_bar() as progress:
            task = progress.add_task("benchmarks", total=len(pieces))
            for piece in pieces:
                progress.update(task, description=piece.title)
                try:
                    found.append(self._outcome(piece))
                except KeyboardInterrupt:
                    rest = pieces[len(found) :]
                    found += [
                        self._ended(piece, "not reached", 0.0, "the run was interrupted") for piece in rest
                    ]
                    return found, True
                progress.advance(task)
        return found, False

    def _outcome(self, piece: Piece) -> Outcome:
        if (kept := self._kept(piece)) is not None:
            console.print(f"{piece.name}: kept, {kept.seconds:.0f} s")
            return kept
        if missing := [name for name in piece.needs if not has_module(name)]:
            return self._ended(piece, "skipped", 0.0, f"not installed: {', '.join(missing)}")
        if not (ROOT / "benchmarks" / piece.command[0]).exists():
            return self._ended(piece, "skipped", 0.0, f"benchmarks/{piece.command[0]} does not exist")
        if self.end is not None and self.end - time.monotonic() < piece.minutes * 60:
            return self._ended(piece, "not reached", 0.0, "--max-minutes; start the same command again")
        console.print(f"{piece.name}: {piece.title}, at most {min(piece.minutes, self.limit / 60):g} minutes")
        outcome = self._run(piece)
        self._file(piece, "outcome.json").write_text(json.dumps(asdict(outcome), indent=1) + "\n")
        console.print(f"{piece.name}: {outcome.status}, {outcome.seconds:.0f} s", outcome.reason or "")
        return outcome

    def _file(self, piece: Piece, ending: str) -> Path:
        return self.out / f"{piece.name}.{ending}"

    def _kept(self, piece: Piece) -> Outcome | None:
        """The outcome of an earlier run of the same command that is done."""
        with suppress(OSError, ValueError, TypeError):
            found = Outcome(**json.loads(self._file(piece, "outcome.json").read_text(encoding="utf-8")))
            same = found.command == list(piece.command) and found.status == "done"
            return found if same and self._file(piece, "json").exists() else None
        return None

    def _ended(self, piece: Piece, status: str, seconds: float, reason: str | None) -> Outcome:
        return Outcome(piece.name, piece.title, list(piece.command), status, seconds, reason)

    def _run(self, piece: Piece) -> Outcome:
        result, log = self._file(piece, "json"), self._file(piece, "log")
        result.unlink(missing_ok=True)
        script = ROOT / "benchmarks" / piece.command[0]
        command = [sys.executable, str(script), *piece.command[1:], "--json", str(result.absolute())]
        environment = os.environ | {"COLUMNS": "180", "PYTHONUNBUFFERED": "1"}
        start = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                command,
                cwd=self.out,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(self.limit)
            except subprocess.TimeoutExpired:
                _kill(process)
                seconds = time.monotonic() - start
                return self._ended(piece, "timeout", seconds, f"longer than {self.limit / 60:g} minutes")
            except BaseException:
                _kill(process)
                result.unlink(missing_ok=True)
                raise
        seconds = time.monotonic() - start
        if code or not result.exists():
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:]
            return self._ended(piece, "failed", seconds, f"exit code {code}: " + "\n".join(lines))
        return self._ended(piece, "done", seconds, None)


def _kill(process: subprocess.Popen) -> None:
    """Ends a piece and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
