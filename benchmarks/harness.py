"""What all benchmarks share: interleaved timing, the machine's ceilings, and the description of the machine."""

import argparse
import ctypes
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from ld4lg_fast.engine.precision import PRECISIONS, PlainLinear, choose_linear
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.options.precisions import precision_name
from ld4lg_fast.terminal.versions import installed_versions

PACKAGES = ("ld4lg-fast", "torch", "triton", "transformers", "onnxruntime", "numpy")
CEILING_BYTES = 256 * 2**20  # far beyond every cache
CEILING_WIDTH = {"cpu": 2048, "cuda": 8192}
GLIBC_DEFAULTS = {-4: 65536, -3: 32 * 2**20, -1: 64 * 2**20}  # mallopt(3): mmap_max, mmap and trim threshold
ROOT = Path(__file__).resolve().parents[1]

sys.path.insert(0, str(ROOT))  # a script started by its file name finds benchmarks.reference


@dataclass(frozen=True)
class Timing:
    """Seconds of one call over interleaved rounds: median, and the 20th and 80th percentile."""

    median: float
    p20: float
    p80: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        ordered = torch.tensor(seconds, dtype=torch.float64)
        p20, median, p80 = ordered.quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
        return cls(median, p20, p80)


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option ``--device``: the GPU where there is one."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)


def add_precisions(parser: argparse.ArgumentParser, names: Iterable[str], help: str) -> None:
    """The option ``--precisions``, each by either of its names."""
    parser.add_argument("--precisions", nargs="+", type=precision_name, choices=list(names), help=help)


def chosen_device(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """``options.device``, refused where it is a GPU and there is none."""
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; use --device cpu")
    return options.device


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    device: str = "cpu",
    rounds: int = 15,
    round_seconds: float = 0.02,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, Timing]:
    """Times the functions in turns, so that a busy moment of the machine meets all of them.

    In each of ``rounds`` every function is called as often as fills about ``round_seconds``, at least once;
    an untimed first call and one that finds this number come before. ``before`` is called with a
    function's name, untimed, whenever its turn comes.
    """
    calls = {}
    for name, function in functions.items():
        before(name)
        function()
        calls[name] = 1
        if round_seconds:
            calls[name] = max(1, round(round_seconds / max(_seconds(function, 1, device), 1e-7)))
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            before(name)
            taken[name].append(_seconds(function, calls[name], device) / calls[name])
    return {name: Timing.of(seconds) for name, seconds in taken.items()}


def timed(function: Callable[[], object], device: str) -> tuple[float, object]:
    """Seconds of one call, and what it gives."""
    synchronize(device)
    start = time.perf_counter()
    result = function()
    synchronize(device)
    return time.perf_counter() - start, result


def _seconds(function: Callable[[], object], calls: int, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    synchronize(device)
    return time.perf_counter() - start


def copy_bandwidth(device: str) -> float:
    """Bytes a second of a large copy, reads and writes counted."""
    source = torch.ones(CEILING_BYTES // 4, device=device)
    target = torch.empty_like(source)
    timing = interleaved({"copy": lambda: target.copy_(source)}, device, rounds=7)["copy"]
    return 2 * CEILING_BYTES / timing.median


def product_rate(device: str, dtype: torch.dtype, linear: type[PlainLinear] = PlainLinear) -> float:
    """FLOP a second of a large matrix product of random numbers, as ``linear`` does it."""
    width = CEILING_WIDTH[device]
    a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    product = linear(b, None)
    timing = interleaved({"product": lambda: product(a)}, device, rounds=5)["product"]
    return 2 * width**3 / timing.median


def describe_device(device: str) -> dict:
    """Name, threads and memory of what ran."""
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return {
            "type": "cuda",
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
        }
    flags = torch.backends.cpu.get_cpu_capability()
    return {"type": "cpu", "name": _processor(), "threads": torch.get_num_threads(), "instructions": flags}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that timings depend on, of those that are installed."""
    return {"python": platform.python_version()} | installed_versions(PACKAGES)


def added_peak_mib(function: Callable[[], object], device: str) -> float | None:
    """Memory in MiB that one call needs at its peak beyond what is taken before it; weights do not count.

    On a GPU that is of allocated bytes, else of the resident set by the kernel's own high-water mark; None where that
    cannot be reset.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(
                0
            )  # what the allocator keeps for later would hide what the call needs
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5): resets VmHWM
        before = _high_water_mib()
    except OSError:
        return None
    function()
    return _high_water_mib() - before


def return_freed_memory() -> None:
    """glibc's default handling of freed memory after large blocks; undoes `malloc_settings.keep_freed_memory`."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for option, value in GLIBC_DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _high_water_mib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10


def has_module(name: str) -> bool:
    """Whether a package can be imported."""
    return find_spec(name) is not None


def can_plot() -> bool:
    """Whether matplotlib is installed; says so where it is not."""
    if not has_module("matplotlib"):
        print("no plot is drawn: matplotlib is not installed")
    return has_module("matplotlib")


def has_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 by itself."""
    return device == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def available_precisions(device: str) -> list[str]:
    """Precisions that the device multiplies in by itself; on a CPU fp16 is none of them."""
    found = []
    for name in PRECISIONS:
        if device == "cpu" and (name == "fp16" or (name == "bf16" and not has_bf16(device))):
            continue
        with suppress(ConfigError):
            choose_linear(name, torch.float32, torch.device(device))
            found.append(name)
    return found
