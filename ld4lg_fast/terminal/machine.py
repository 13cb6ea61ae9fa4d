"""What figures can depend on beside the code: the processor or GPU, its instructions, threads, versions."""

import platform
from contextlib import suppress
from pathlib import Path

import torch

from ld4lg_fast._version import __version__
from ld4lg_fast.kernels import backend
from ld4lg_fast.terminal.versions import installed_versions

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "accelerate")


def processor() -> str:
    """Name of the CPU."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine(device: torch.device) -> dict[str, str]:
    """The device that computes; on a CPU where all entries and the versions are equal, so is every bit."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    return {
        "device": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "kernels": backend.native.instruction_set() if backend.has_native() else "none",
        "threads": str(torch.get_num_threads()),
    }


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {"ld4lg-fast": __version__, "python": platform.python_version(), **installed_versions(PACKAGES)}
