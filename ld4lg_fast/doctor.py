"""What is installed here, and what works: one line each."""

import platform
from collections.abc import Iterator

import torch

from ld4lg_fast._version import __version__
from ld4lg_fast.kernels import backend
from ld4lg_fast.versions import installed_versions

PACKAGES = (
    "transformers",
    "accelerate",
    "tokenizers",
    "datasets",
    "triton",
    "flash-attn",
    "wandb",
    "tensorboard",
)


def report() -> Iterator[str]:
    """Lines for a person: versions, devices, kernel backends with the reason where one is missing."""
    yield f"ld4lg-fast {__version__}, Python {platform.python_version()}, torch {torch.__version__}"
    versions = installed_versions(PACKAGES)
    for name in PACKAGES:
        yield f"{name} {versions.get(name, 'not installed')}"
    if torch.cuda.is_available():
        yield f"GPU: {torch.cuda.get_device_name()}"
    else:
        yield "GPU: none that torch can use"
    yield f"CPU: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    for name in backend.BACKENDS:
        reason = backend.unavailable_reason(name)
        yield f"kernels, {name}: {'works' if reason is None else reason}"
