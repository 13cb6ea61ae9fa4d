"""Which implementation of the operations runs: ``reference`` | ``native`` | ``triton``.

``reference`` is plain PyTorch and runs everywhere. ``native`` is the C++ library for CPU tensors, ``triton``
the GPU kernels. The default, ``auto``, uses the kernels of the tensors' device where they can run and the
reference otherwise; a backend requested by name runs or raises `BackendUnavailableError`.

With ``TRITON_INTERPRET=1`` in the environment, Triton interprets its kernels on the CPU (slowly, for tests);
CPU tensors then belong to ``triton``.
"""

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ld4lg_fast.kernels import native

BACKENDS = ("reference", "native", "triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

_DEVICE = {"native": "cpu", "triton": "cpu" if INTERPRETED else "cuda"}
_BACKEND_OF_DEVICE = {device: name for name, device in _DEVICE.items()}
_DTYPES = {
    "native": (torch.float32, torch.bfloat16),
    "triton": (torch.float32, torch.bfloat16, torch.float16),
}

logger = logging.getLogger("ld4lg_fast.kernels")


class BackendUnavailableError(RuntimeError):
    """A backend that was requested by name cannot run here; the message gives the reason."""


def _find_missing() -> dict[str, str]:
    missing = {}
    if INTERPRETED:
        missing["native"] = "TRITON_INTERPRET=1 gives CPU tensors to Triton's interpreter"
    elif native.LOAD_ERROR is not None:
        missing["native"] = native.LOAD_ERROR
    if importlib.util.find_spec("triton") is None:
        missing["triton"] = "the package triton is not installed; `pip install 'ld4lg-fast[gpu]'` brings it"
    return missing


_missing = _find_missing()
_requested = "auto"
_warned: set[str] = set()


def unavailable_reason(name: str) -> str | None:
    """Why the backend ``name`` cannot run on this machine, or None if it can.

    Raises:
        ValueError: an unknown name.
    """
    _check_name(name, BACKENDS)
    if name in _missing:
        return _missing[name]
    if name == "triton" and not INTERPRETED and not torch.cuda.is_available():
        return "torch sees no GPU"
    return None


def has_native() -> bool:
    """Whether the C++ library was built and loads."""
    return unavailable_reason("native") is None


def require_native(what: str) -> None:
    """Refuses ``what``, which needs the C++ library, if that is not available.

    Raises:
        BackendUnavailableError: the library was not built or does not load.
    """
    if (reason := unavailable_reason("native")) is not None:
        raise BackendUnavailableError(f"{what} needs the backend 'native': {reason}")


def has_fast_bf16() -> bool:
    """Whether the C++ library has the fastest bfloat16 matmuls here: AVX-512 BF16 without AMX tiles."""
    return (
        has_native() and native.instruction_set() == "avx512_bf16" and not torch.cpu._is_amx_tile_supported()
    )


def current_backend() -> str:
    """The requested backend: ``auto``, or one of `BACKENDS`."""
    return _requested


def set_backend(name: str) -> None:
    """Makes every later operation use ``name``: ``auto``, or one of `BACKENDS`.

    Raises:
        ValueError: an unknown name.
        BackendUnavailableError: the backend cannot run on this machine.
    """
    global _requested
    _check_name(name, ("auto", *BACKENDS))
    if name != "auto" and (reason := unavailable_reason(name)) is not None:
        raise BackendUnavailableError(f"backend '{name}' is not available: {reason}")
    _requested = name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """`set_backend` for a ``with`` block."""
    before = _requested
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def choose(op: str, device: str, dtypes: tuple[torch.dtype, ...]) -> str:
    """The backend that runs ``op`` on tensors of these dtypes on a device of this type.

    Called inside compiled code, so it is plain Python on constants without queries of the machine.
    """
    if _requested == "reference":
        return "reference"
    name = _BACKEND_OF_DEVICE.get(device, "reference") if _requested == "auto" else _requested
    if name == "reference":
        return name
    reason = _reason_against(name, op, device, dtypes)
    if reason is None:
        return name
    if _requested != "auto":
        raise BackendUnavailableError(f"{op} cannot run on backend '{name}': {reason}")
    if name in _missing and not torch.compiler.is_compiling() and name not in _warned:
        _warned.add(name)
        logger.warning("running on the reference backend instead of '%s': %s", name, reason)
    return "reference"


def _reason_against(name: str, op: str, device: str, dtypes: tuple[torch.dtype, ...]) -> str | None:
    if name in _missing:
        return _missing[name]
    if device != _DEVICE[name]:
        return f"it takes {_DEVICE[name]} tensors, and these are on {device}"
    for dtype in dtypes:
        if dtype not in _DTYPES[name]:
            return f"it takes {', '.join(str(known) for known in _DTYPES[name])}, and got {dtype}"
    return None


def _check_name(name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ValueError(f"unknown backend '{name}'; choose one of {', '.join(known)}")
