"""Loads the C++ library through ctypes and packs arguments for it. The operations' ``cpu.py`` call it."""

import ctypes
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ld4lg_fast.kernels
from ld4lg_fast.kernels.layout import as_rows

INSTRUCTION_SETS = ("avx512_bf16", "avx512_vnni", "avx512", "avx2", "baseline")
INTERFACE = 4  # equal to that of csrc/call.cpp; increase both when a function's arguments change


class _DtypeCodes(dict):
    def __missing__(self, dtype: torch.dtype) -> int:
        raise ValueError(f"the C++ library takes {', '.join(str(known) for known in self)}, and got {dtype}")


DTYPE_CODES = _DtypeCodes({torch.float32: 0, torch.bfloat16: 1})

POINTER = I64 = I32 = U32 = "q"  # every argument takes 8 bytes
U64, FLOAT = "Q", "d"
_OUT_OF_RANGE, _NO_MEMORY = 1, 2  # statuses of csrc/call.h; 0 is success
ROWS = [POINTER, I64, I32]  # results of `describe`
VECTOR = [POINTER, I32]  # results of `describe_vector`


def _load() -> tuple[ctypes.CDLL | None, str | None]:
    """The library, or None and the reason. In an editable install it is not beside the sources."""
    folders = [Path(folder) for folder in ld4lg_fast.kernels.__path__]
    files = [file for folder in folders for file in sorted(folder.glob("libld4lg_kernels.*"))]
    if not files:
        return None, (
            "the C++ library was not built; install a C++ compiler with OpenMP and "
            "run `pip install --force-reinstall --no-deps .` again"
        )
    try:
        library = ctypes.CDLL(str(files[0]))
    except OSError as error:
        return None, f"{files[0]} does not load ({error}); reinstall ld4lg-fast"
    if not hasattr(library, "ld4lg_interface") or library.ld4lg_interface() != INTERFACE:
        return None, f"{files[0]} was built for another version; reinstall ld4lg-fast"
    return library, None


_library, LOAD_ERROR = _load()


def function(name: str, arguments: list[str]) -> Callable[..., bool]:
    """A kernel of the C++ library, which takes ``arguments`` packed into one block (``csrc/call.h``).

    It returns True if an index in a tensor is out of range. Such indices are not followed; the caller discards the
    results and names the index.
    """
    found, pack = query(name, ctypes.c_int32, ctypes.c_char_p), struct.Struct("=" + "".join(arguments)).pack

    def call(*values: float) -> bool:
        try:
            block = pack(*values)
        except struct.error as error:
            raise ValueError(f"{name} cannot take {values}: {error}") from None
        status = found(block)
        if status == _NO_MEMORY:
            raise MemoryError(f"{name} cannot allocate its work memory")
        return status == _OUT_OF_RANGE

    return call


def query(name: str, result: type, *arguments: type) -> Callable[..., Any]:
    """A function of the C++ library that ctypes calls."""
    found = getattr(_library, name)
    found.argtypes, found.restype = arguments, result
    return found


def instruction_set() -> str:
    """The variant of the kernels that runs: one of `INSTRUCTION_SETS`, by default the best of this processor."""
    return query("ld4lg_instruction_set", ctypes.c_char_p)().decode()


@contextmanager
def use_instruction_set(name: str) -> Iterator[bool]:
    """Runs another variant inside a ``with`` block. Yields False, and changes nothing, if it cannot run."""
    before = instruction_set()
    use = query("ld4lg_use_instruction_set", ctypes.c_bool, ctypes.c_char_p)
    try:
        yield use(name.encode())
    finally:
        use(before.encode())


def address(tensor: Tensor | None) -> int:
    """Address of a tensor's elements; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def as_vector(tensor: Tensor) -> Tensor:
    """The tensor as contiguous float32; itself if it already is."""
    return tensor if tensor.dtype == torch.float32 and tensor.is_contiguous() else tensor.float().contiguous()


def contiguous_like(tensor: Tensor) -> Tensor:
    """An uninitialized contiguous tensor of the same shape, dtype and device, whatever torch's default device."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def as_matrix(tensor: Tensor, width: int) -> tuple[Tensor, tuple[int, int, int]]:
    """`as_rows`, or a contiguous tensor as it is, and its `describe`; the tensor has to live as long as the call."""
    if tensor.is_contiguous():
        return tensor, (tensor.data_ptr(), width, DTYPE_CODES[tensor.dtype])
    rows = as_rows(tensor, width)
    return rows, describe(rows, width)


def describe(matrix: Tensor, width: int) -> tuple[int, int, int]:
    """Pointer, stride and dtype code, the library's form of a matrix: contiguous, or rows with a stride."""
    stride = width if matrix.is_contiguous() else matrix.stride(0)
    return matrix.data_ptr(), stride, DTYPE_CODES[matrix.dtype]


def describe_vector(vector: Tensor) -> tuple[int, int]:
    """Pointer and dtype code of a contiguous vector."""
    return vector.data_ptr(), DTYPE_CODES[vector.dtype]
