"""The C++ library: found, loaded through ctypes, described. The functions that call it are in ``cpu/``."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

import ld4lg_fast.kernels

INSTRUCTION_SETS = ("avx512", "avx2", "baseline")
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}

_pointer, _i64, _i32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_rows = [_pointer, _i64, _i32]
_SIGNATURES = {
    "ld4lg_instruction_set": (ctypes.c_char_p, []),
    "ld4lg_use_instruction_set": (ctypes.c_bool, [ctypes.c_char_p]),
    "ld4lg_adaln_residual": (
        None,
        [*_rows, *_rows, _pointer, _pointer, *_rows, *_rows, _pointer, _pointer]
        + [_pointer, _pointer, _i32, _pointer, _i64, _i64, _i64, ctypes.c_float, _i32],
    ),
    "ld4lg_adaln_residual_backward": (
        None,
        [*_rows, *_rows, *_rows, _pointer, _pointer, _pointer, *_rows]
        + [_pointer, _pointer, _pointer, _pointer, _i64, _i64, _i64, _i64, _i64, _i32],
    ),
    "ld4lg_philox_normal": (
        None,
        [ctypes.c_uint64, _pointer, _i64, ctypes.c_uint32, _i64, _pointer, _i32],
    ),
}


def _load() -> tuple[ctypes.CDLL | None, str | None]:
    """The library, or None and the reason. In an editable install it lies apart from the sources."""
    folders = [Path(folder) for folder in ld4lg_fast.kernels.__path__]
    files = [file for folder in folders for file in sorted(folder.glob("libld4lg_kernels.*"))]
    if not files:
        return None, (
            "the C++ library was not built; install a C++ compiler with OpenMP and "
            "run `pip install --force-reinstall --no-deps .` again"
        )
    try:
        library = ctypes.CDLL(str(files[0]))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        return None, f"{files[0]} does not load ({error}); reinstall ld4lg-fast"
    return library, None


library, LOAD_ERROR = _load()


def instruction_set() -> str:
    """The variant of the kernels that runs: one of `INSTRUCTION_SETS`, the best of this processor unless changed."""
    return library.ld4lg_instruction_set().decode()


@contextmanager
def use_instruction_set(name: str) -> Iterator[bool]:
    """Runs another variant inside a ``with`` block; gives False, and changes nothing, where it cannot run."""
    before = instruction_set()
    try:
        yield library.ld4lg_use_instruction_set(name.encode())
    finally:
        library.ld4lg_use_instruction_set(before.encode())


def describe(rows: Tensor) -> tuple[int, int, int]:
    """Pointer, stride and dtype code, as the library takes a matrix."""
    return rows.data_ptr(), rows.stride(0), DTYPE_CODES[rows.dtype]
