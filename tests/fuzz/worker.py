"""A process that imports the library once and forks a child for each command line that it receives.

It is a script of its own, so that any interpreter with an installed ld4lg_fast can be fuzzed. One JSON object a line on
stdin, ``{"argv", "directory", "stdout", "stderr", "memory", "seconds"}``; one a line as answer, ``{"status", "peak",
"timed_out"}``.
The parent never reads a folder that a command line names.
"""

import importlib
import json
import math
import os
import resource
import signal
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path

POLL = 0.01  # seconds
ANSWERS = b"y\n" * 64  # on a child's stdin: confirms every prompt that asks whether to run code of the folder


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "imports" in request:
            answer = {"imported": imported(request["imports"])}
        else:
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                run(request)
                return  # up to the interpreter's end, whose destructors may be what fails
            answer = waited(child, request["seconds"])
        print(json.dumps(answer), flush=True)


def imported(names: list[str]) -> int:
    """Imports the modules that a finished child imported, so that later children need not."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # a module that only works inside another's import
            continue
    return len(sys.modules)


def run(request: dict) -> None:
    """Runs the command in the child, with a memory limit and its output in files."""
    os.setsid()
    os.chdir(request["directory"])
    redirect(request)
    address_space = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    limit = address_space + request["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = math.ceil(request["seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    sys.argv = ["ld4lg", *request["argv"]]
    try:
        metadata.entry_points(group="console_scripts")["ld4lg"].load()()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        if "modules" in request:
            Path(request["modules"]).write_text(json.dumps(list(sys.modules)))


def redirect(request: dict) -> None:
    reading, writing = os.pipe()
    os.write(writing, ANSWERS)
    os.close(writing)
    os.dup2(reading, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdin = os.fdopen(0, closefd=False)


def waited(child: int, seconds: float) -> dict:
    """Waits for the child and returns how it ended; kills it and its children after ``seconds``."""
    end = time.monotonic() + seconds
    timed_out = False
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if not timed_out and time.monotonic() > end:
            timed_out = True
            os.killpg(child, signal.SIGKILL)
        time.sleep(POLL)
    code = os.waitstatus_to_exitcode(status)
    return {"status": code, "peak": usage.ru_maxrss * 1024, "timed_out": timed_out or code == -signal.SIGXCPU}


if __name__ == "__main__":
    serve()
