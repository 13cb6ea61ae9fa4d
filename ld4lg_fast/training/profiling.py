"""Profile of a stage's first steps for ``train.profile=true``: a trace and a summary page."""

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from ld4lg_fast.checkpoints.files import write_atomically
from ld4lg_fast.kernels.backend import use_backend

# Number of steps that count FLOPs and warm up, then are timed, then are traced.
COUNTED, TIMED, TRACED = 4, 16, 3
PHASES = ("data", "forward", "backward", "optimiser")
MATMUL_WIDTH = {"cpu": 1024, "cuda": 8192}


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matmul on this device, the reference of the MFU."""
    width = MATMUL_WIDTH[device.type]
    a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(5):
        _wait(device)
        start = time.perf_counter()
        a @ b
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * width**3 / min(seconds)


@contextmanager
def counted_operations() -> Iterator[FlopCounterMode]:
    """Counts the FLOPs of all matmuls; uses the reference backend, as the counter only sees PyTorch operations.

    Compilation is disabled meanwhile: torch would never compile functions that it first meets under a counter.
    """
    with (
        use_backend("reference"),
        torch.compiler.set_stance("force_eager"),
        FlopCounterMode(display=False) as counter,
    ):
        yield counter


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory so far: of the CUDA allocator, or on a CPU of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Profile:
    """Profiles the first steps of a stage, then writes ``profile_<stage>.json.gz`` and ``profile_<stage>.md``.

    Each phase waits for the device at its end, so that its time is that of its own work.
    """

    STEPS = COUNTED + TIMED + TRACED

    def __init__(self, stage: str, samples_per_step: int, device: torch.device, dtype: torch.dtype) -> None:
        self.stage, self.samples, self.device, self.dtype = stage, samples_per_step, device, dtype
        self.done = 0
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops = 0
        self._trace = profile(
            activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        )

    @property
    def is_over(self) -> bool:
        return self.done == self.STEPS

    @contextmanager
    def step(self) -> Iterator[None]:
        """Context manager around each training step."""
        number = self.done
        with ExitStack() as stack:
            if number < COUNTED:
                counter = stack.enter_context(counted_operations())
            if number == COUNTED + TIMED:
                self._trace.start()
            start = time.perf_counter()
            yield
            _wait(self.device)
        if number < COUNTED:
            self.flops += counter.get_total_flops()
        elif number < COUNTED + TIMED:
            self.seconds["step"] += time.perf_counter() - start
        self.done += 1
        if self.is_over:
            self._trace.stop()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with record_function(name):
            yield
            _wait(self.device)
        if COUNTED <= self.done < COUNTED + TIMED:
            self.seconds[name] += time.perf_counter() - start

    def abandon(self) -> None:
        """Stops the trace of a stage that ended before the profile was complete."""
        if self.done > COUNTED + TIMED:
            self._trace.stop()

    def summary(self) -> str:
        """One page of Markdown."""
        step = self.seconds["step"]
        shares = {name: self.seconds[name] / step for name in PHASES}
        shares["rest"] = 1 - sum(shares.values())
        ceiling = matmul_rate(self.device, self.dtype)
        achieved = self.flops / COUNTED * TIMED / step
        rows = "\n".join(f"| {name} | {share:.1%} |" for name, share in shares.items())
        return f"""# Profile of the {self.stage} stage

{TIMED} steps of {self.samples} texts on this process, {self.device.type}, {str(self.dtype).removeprefix("torch.")}

| figure | value |
|---|---|
| samples/s | {self.samples * TIMED / step:.1f} |
| ms a step | {1000 * step / TIMED:.1f} |
| TFLOP a step (matmuls and attention, forward and backward) | {self.flops / COUNTED / 1e12:.3g} |
| TFLOP/s | {achieved / 1e12:.3g} |
| TFLOP/s of a large matmul here | {ceiling / 1e12:.3g} |
| MFU | {achieved / ceiling:.1%} |
| peak memory | {peak_memory_mib(self.device):.0f} MiB |

| part of a step | share of its time |
|---|---|
{rows}

The trace `profile_{self.stage}.json.gz` opens in `chrome://tracing` or https://ui.perfetto.dev.
"""

    def write(self, directory: Path) -> Path:
        """Writes trace and summary; returns the summary's path."""
        directory.mkdir(parents=True, exist_ok=True)
        self._trace.export_chrome_trace(str(directory / f"profile_{self.stage}.json.gz"))
        path = directory / f"profile_{self.stage}.md"
        write_atomically(path, self.summary().encode())
        return path
