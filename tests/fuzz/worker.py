"""A process that imports the library once and forks a child for each command line that it receives.

It is a script of its own, so that any interpreter with an installed ld4lg_fast can be fuzzed. One JSON object a line on
stdin, ``{"argv", "directory", "stdout", "stderr", "memory", "seconds"}``; one a line as answer, ``{"status", "peak",
"timed_out"}``.
The parent never reads a folder that a command line names.
"""

import atexit
import gc
import importlib
import json
import math
import os
import resource
import signal
import sys
import threading
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import NoReturn

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
                end(run(request))
            answer = waited(child, request["seconds"])
        print(json.dumps(answer), flush=True)


def imported(names: list[str]) -> int:
    """Imports the modules that a finished child imported, so that later children need not."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # a module that only works inside another's import
            continue
    gc.collect()
    gc.freeze()  # a child's collector need not look at, and so copy, what it has from its parent
    return len(sys.modules)


def run(request: dict) -> int:
    """Runs the command in the child, with a memory limit and its output in files; returns its exit code."""
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
    code = 0
    try:
        metadata.entry_points(group="console_scripts")["ld4lg"].load()()
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if "modules" in request:
        Path(request["modules"]).write_text(json.dumps(list(sys.modules)))
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    return code


def end(code: int) -> NoReturn:
    """Ends the child as Python does, with threads and destructors of all that the command made, but for the modules,
    most of which are its parent's: to take them apart takes as long as many a command."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
