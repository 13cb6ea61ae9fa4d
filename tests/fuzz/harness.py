"""Runs commands on changed folders, each in a process with a memory and a time limit, and says how they end."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.fuzz.cases import DAMAGE, Case, copy_of, removed
from tests.fuzz.foreign_cases import RAN_CODE

HERE = Path(__file__).parent
MEMORY = 3 << 29  # bytes of address space that a command may take beyond what the libraries take
SECONDS = 60.0
CLEAR, SAME, CHANGED, NOISY = "clear error", "no effect", "changed texts", "unclear error"
TRACEBACK, DEAD, HUNG, CODE = "traceback", "dead", "hung", "foreign code ran"
OUTCOMES = (CLEAR, SAME, CHANGED, NOISY, TRACEBACK, DEAD, HUNG, CODE)
BAD = (NOISY, TRACEBACK, DEAD, HUNG, CODE)

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "MALLOC_PERTURB_": "165",  # fills freed and uninitialised memory with garbage
    "PYTHONFAULTHANDLER": "1",
}


@dataclass(frozen=True)
class Command:
    """A command line with FOLDER in the place of the folder, and the part of its output that is compared."""

    arguments: tuple[str, ...]
    texts: Callable[[str], object] = lambda output: json.loads(output)["texts"]
    warm: bool = True  # whether a forked process can use the libraries that its parent has imported

    def on(self, folder: Path) -> list[str]:
        return [part.replace("FOLDER", str(folder)) for part in self.arguments]


SAMPLE = Command(
    ("sample", "FOLDER", "--num-samples", "2", "--seed", "1", "--quality", "draft", "--json", "-")
)
# Of a training only whether it goes on is compared: its numbers may depend on the machine's load.
RESUME = Command(
    ("train", "resume=true", "hydra.run.dir=FOLDER", "train.autoencoder.steps=2", "train.diffusion.steps=3"),
    texts=lambda output: bool(output),
)
# onnxruntime has threads, which a fork does not take along.
RUN_ONNX = Command(
    (
        "run-onnx",
        "FOLDER",
        "--num-samples",
        "2",
        "--seed",
        "1",
        "--quality",
        "draft",
        "--threads",
        "1",
        "--json",
        "-",
    ),
    warm=False,
)


@dataclass(frozen=True)
class Result:
    """How a case ended; ``said`` is the last line on stderr, ``peak`` the peak memory in bytes."""

    case: Case
    outcome: str
    said: str = ""
    peak: int = 0

    @property
    def is_bad(self) -> bool:
        """Whether this outcome is a fault: texts may change only if the case changes the model on purpose."""
        return self.outcome in BAD or (self.outcome == CHANGED and self.case.kind == DAMAGE)


class Server:
    """A worker process (see `worker.py`) with a scratch folder."""

    def __init__(self, python: str, scratch: Path) -> None:
        self.scratch, self.is_warm = scratch, False
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._log = (scratch / "worker.log").open("w")
        self._process = subprocess.Popen(
            [python, "-P", str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment | ENVIRONMENT,
            cwd=scratch,
        )

    def ask(self, **request: object) -> dict:
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker died: {(self.scratch / 'worker.log').read_text()[-2000:]}")
        return json.loads(answer)

    def run(self, arguments: list[str], **more: object) -> tuple[dict, str, str]:
        """Runs a command line; returns how it ended, its stdout and its stderr."""
        stdout, stderr = self.scratch / "stdout", self.scratch / "stderr"
        limits = {"memory": MEMORY, "seconds": SECONDS}
        files = {"directory": str(self.scratch), "stdout": str(stdout), "stderr": str(stderr)}
        answer = self.ask(argv=arguments, **files | limits | more)
        return answer, *(path.read_text(encoding="utf-8", errors="replace") for path in (stdout, stderr))

    def texts_of(self, command: Command, good: Path) -> object:
        """What the command writes for the unchanged folder; the first call makes the worker import its modules."""
        modules = self.scratch / "modules.json"
        answer, stdout, stderr = self.run(
            command.on(copy_of(good, self.scratch / "good")), modules=str(modules)
        )
        removed(self.scratch / "good")
        if answer["status"] != 0:
            raise RuntimeError(f"the good folder fails ({answer}): {stderr[-2000:]}")
        if command.warm and not self.is_warm:
            self.is_warm = True
            self.ask(imports=json.loads(modules.read_text()))
        return command.texts(stdout)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


@contextmanager
def servers(python: str, scratch: Path, count: int) -> Iterator["SimpleQueue[Server]"]:
    """Starts ``count`` servers; yields a queue of the idle ones."""
    idle: SimpleQueue[Server] = SimpleQueue()
    started = []
    try:
        for number in range(count):
            (scratch / f"server{number}").mkdir()
            started.append(Server(python, scratch / f"server{number}"))
            idle.put(started[-1])
        yield idle
    finally:
        for server in started:
            server.close()


@dataclass(frozen=True)
class Fuzzer:
    """A good folder, and a command that reads it.

    ``seal`` is applied after each change and renews the checksums. ``report`` is called with each result.
    """

    command: Command
    folder: Path
    seal: Callable[[Path], None] | None = None
    report: Callable[[Result], object] = lambda result: None

    def run(self, cases: Sequence[Case], idle: "SimpleQueue[Server]") -> list[Result]:
        """Runs all cases on the idle servers; results in the order of the cases."""
        waiting = [idle.get() for _ in range(idle.qsize())]
        good = [server.texts_of(self.command, self.folder) for server in waiting][0]
        for server in waiting:
            idle.put(server)

        def run(case: Case) -> Result:
            server = idle.get()
            try:
                result = self._run(server, case, good)
            finally:
                idle.put(server)
            self.report(result)
            return result

        with ThreadPoolExecutor(len(waiting)) as pool:
            return list(pool.map(run, cases))

    def _run(self, server: Server, case: Case, good: object) -> Result:
        changed = copy_of(self.folder, server.scratch / "folder")
        ran_code = server.scratch / RAN_CODE
        try:
            case.apply(changed)
            if self.seal is not None:
                self.seal(changed)
            answer, stdout, stderr = server.run(self.command.on(changed))
            ended = outcome(answer, stdout, stderr, lambda output: self.command.texts(output) == good)
            ended = CODE if ran_code.exists() else ended
        finally:
            removed(changed)
            removed(ran_code)
        lines = stderr.strip().splitlines()
        return Result(case, ended, (lines[-1] if lines else "")[:400], answer["peak"])


def outcome(answer: dict, stdout: str, stderr: str, same: Callable[[str], bool]) -> str:
    """How a command ended; ``same(stdout)`` tells whether the texts are those of the unchanged folder."""
    if answer["timed_out"]:
        return HUNG
    if answer["status"] < 0:
        return DEAD
    if answer["status"] == 0:
        try:
            return SAME if same(stdout) else CHANGED
        except (ValueError, KeyError):
            return NOISY
    if "Traceback (most recent call last)" in stderr:
        return TRACEBACK
    lines = [line for line in stderr.splitlines() if line.strip()]
    return CLEAR if answer["status"] == 2 and len(lines) == 1 and lines[0].startswith("error: ") else NOISY


def counts(results: Iterable[Result]) -> dict[str, int]:
    found = Counter(result.outcome for result in results)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def summary(title: str, results: Sequence[Result]) -> str:
    """``run directory: 200 cases: 150 clear error, 50 no effect``."""
    listed = ", ".join(f"{number} {outcome}" for outcome, number in counts(results).items() if number)
    return f"{title}: {len(results)} cases: {listed or 'none'}"
