"""A server in a process of its own, on a free port of this machine, for benchmarks and tests."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

LD4LG = [sys.executable, "-c", "from ld4lg_fast.cli.main import main; main()"]


class ServedProcess:
    """The server that a command starts; ``address`` once it is ready."""

    def __init__(self, command: Sequence[str], seconds: float = 120) -> None:
        self.process = subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://[\w.:]+", line)
        if found is None:
            raise RuntimeError(line + self._printed())
        self.address = found[0]
        end = time.monotonic() + seconds
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError(self._printed())
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.address}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def memory_mib(self) -> float:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def end(self, seconds: float = 120) -> tuple[int, str]:
        """Waits for the process after `terminate`; its exit code, and what it printed after its address."""
        try:
            return self.process.wait(seconds), self._printed()
        finally:
            self.process.kill()

    def _printed(self) -> str:
        """The rest; not by `communicate`, which would lose what was read with the first line."""
        assert self.process.stdout is not None
        with self.process.stdout:
            return self.process.stdout.read()
