"""Which implementation of the ops is used: ``reference`` (plain PyTorch) or ``native`` (C++ on the CPU).

``auto`` takes the fastest that works for a tensor's device and says once why a faster one does not.
"""

import ctypes
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch

BACKENDS = ("reference", "native")
LIBRARY = "ld4lg_native"

logger = logging.getLogger(__name__)
_chosen: ContextVar[str] = ContextVar("ld4lg_backend", default="auto")


class BackendUnavailableError(RuntimeError):
    """A backend was asked for by name and cannot work here; the message says why and what to do."""


@cache
def _library_path() -> Path | None:
    # An editable install keeps the built library in site-packages, so every place of the package is searched.
    package = sys.modules[__package__] if __package__ in sys.modules else __import__(__package__, fromlist=[""])
    suffix = {"Darwin": "dylib", "Windows": "dll"}.get(platform.system(), "so")
    for place in package.__path__:
        for path in (Path(place) / f"lib{LIBRARY}.{suffix}", Path(place) / f"{LIBRARY}.{suffix}"):
            if path.exists():
                return path
    return None


def _load_openmp() -> None:
    """Makes torch's OpenMP runtime visible to the C++ library, so that both share one pool of threads."""
    bundled = [
        *Path(torch.__file__).parent.glob("lib/lib*omp*.*"),
        *(Path(torch.__file__).parent.parent / "torch.libs").glob("lib*omp*.*"),
    ]
    for name in (*map(str, bundled), "libgomp.so.1", "libomp.dylib"):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            return
        except OSError:
            continue


@cache
def native_library() -> ctypes.CDLL | None:
    """The C++ library, or None where it was not built or cannot be loaded (see `why_unavailable`)."""
    if (path := _library_path()) is None:
        return None
    _load_openmp()
    try:
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except OSError:
        return None


def why_unavailable(name: str) -> str | None:
    """The reason why a backend does not work here, or None if it does.

    Raises:
        BackendUnavailableError: no backend has that name.
    """
    if name not in BACKENDS:
        raise BackendUnavailableError(f"Unknown kernel backend {name!r}; choose auto, {' or '.join(BACKENDS)}.")
    if name == "native" and native_library() is None:
        if _library_path() is None:
            return "the C++ library was not built; install a C++ compiler and reinstall ld4lg-fast"
        return f"{_library_path()} cannot be loaded; reinstall ld4lg-fast on this machine"
    return None


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Chooses a backend for the calls inside: ``auto``, ``reference`` or ``native``.

    Raises:
        BackendUnavailableError: that backend cannot work here.
    """
    if name != "auto" and (reason := why_unavailable(name)):
        raise BackendUnavailableError(f"The kernel backend {name!r} cannot be used: {reason}.")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


@cache
def _say_once(reason: str) -> None:
    logger.warning("kernels run on plain PyTorch: %s", reason)


def choose(device_type: str) -> str:
    """The backend for tensors of a device.

    Raises:
        BackendUnavailableError: ``native`` was asked for by name, and the tensors are not on the CPU.
    """
    chosen = _chosen.get()
    if chosen == "auto":
        if device_type != "cpu":
            return "reference"
        if reason := why_unavailable("native"):
            _say_once(reason)
            return "reference"
        return "native"
    if chosen == "native" and device_type != "cpu":
        raise BackendUnavailableError(f"The native kernels run on the CPU, not on {device_type}; use auto.")
    return chosen
