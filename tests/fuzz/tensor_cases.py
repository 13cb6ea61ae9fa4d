"""Cases of safetensors files: tensors that are missing, added, renamed, not finite or of another shape or dtype;
headers that contradict the data. Written without the safetensors library, which refuses to write most of these."""

import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.cases import CONTENT, DAMAGE, Case, generator, rewrite

TENSORS = 5  # of a file's tensors, so many are changed
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I8": np.int8,
    "I64": np.int64,
    "BOOL": np.bool_,
}
STORED = DTYPES | {"I32": np.int32, "I16": np.int16, "U8": np.uint8, "U16": np.uint16, "U32": np.uint32}
HALF_TO_BFLOAT = 16  # bits that float32 has more than bfloat16

Header = dict[str, dict[str, Any]]


class File:
    """Header and content of a safetensors file."""

    def __init__(self, content: bytes) -> None:
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        self.metadata = header.pop("__metadata__", None)
        self.tensors = {}
        for name, entry in header.items():
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            self.tensors[name] = (entry["dtype"], entry["shape"], content[start:end])

    def array(self, name: str) -> np.ndarray:
        dtype, shape, data = self.tensors[name]
        return np.frombuffer(data, STORED[dtype]).reshape(shape)

    def put(self, name: str, array: np.ndarray, dtype: str | None = None) -> None:
        kind = dtype or next(key for key, value in STORED.items() if value == array.dtype)
        self.tensors[name] = (kind, list(array.shape), array.tobytes())

    def header(self) -> tuple[Header, bytes]:
        header: Header = {} if self.metadata is None else {"__metadata__": self.metadata}
        data, offset = [], 0
        for name, (dtype, shape, content) in self.tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(content)]}
            offset += len(content)
            data.append(content)
        return header, b"".join(data)

    def bytes(self) -> bytes:
        return with_header(*self.header())


def with_header(header: Header | str | bytes, data: bytes, size: int | None = None) -> bytes:
    """The bytes of a file with this header and data; ``size`` is the header size that it declares."""
    if isinstance(header, dict):
        header = json.dumps(header)
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor_cases(folder: Path, name: str) -> Iterator[Case]:
    """All cases of the safetensors file ``name`` in the folder."""
    file = File((folder / name).read_bytes())
    names = list(file.tensors)
    chosen = names
    if len(names) > TENSORS:
        chosen = [names[0], *generator(name).sample(names[1:-1], TENSORS - 2), names[-1]]
    for tensor in chosen:
        for what, (change, kind) in CHANGES.items():
            yield Case(
                f"{name}:{tensor}={what}", partial(_changed, name, partial(change, tensor=tensor)), kind
            )
        for what, change in HEADERS.items():
            yield Case(f"{name}:{tensor}={what}", partial(_headed, name, partial(change, tensor=tensor)))
    for what, change in WHOLE.items():
        yield Case(f"{name}={what}", partial(_whole, name, change))
    for tensor in names:
        if tensor not in chosen:
            yield Case(f"{name}:{tensor}=removed", partial(_changed, name, partial(_removed, tensor=tensor)))
            yield Case(f"{name}:{tensor}=one_nan", partial(_changed, name, partial(_filled, tensor=tensor)))


def _changed(name: str, change: Callable[[File], None], folder: Path) -> None:
    file = File((folder / name).read_bytes())
    change(file)
    rewrite(folder / name, file.bytes())


def _headed(name: str, change: Callable[[Header], None], folder: Path) -> None:
    header, data = File((folder / name).read_bytes()).header()
    change(header)
    rewrite(folder / name, with_header(header, data))


def _whole(name: str, change: Callable[[Header, bytes], bytes], folder: Path) -> None:
    rewrite(folder / name, change(*File((folder / name).read_bytes()).header()))


def _removed(file: File, tensor: str) -> None:
    del file.tensors[tensor]


def _renamed(file: File, tensor: str) -> None:
    file.tensors[f"{tensor}2"] = file.tensors.pop(tensor)


def _copied(file: File, tensor: str) -> None:
    file.tensors[f"{tensor}2"] = file.tensors[tensor]


def _prefixed(file: File, tensor: str) -> None:
    file.tensors = {f"module.{name}": value for name, value in file.tensors.items()}


def _reshaped(file: File, tensor: str) -> None:
    array = file.array(tensor)
    file.put(tensor, array.reshape(-1) if array.ndim != 1 else array.reshape(-1, 1))


def _turned(file: File, tensor: str) -> None:
    array = file.array(tensor)
    file.put(tensor, np.flip(array).copy() if array.ndim < 2 else array.T.copy())


def _longer(file: File, tensor: str) -> None:
    array = np.atleast_1d(file.array(tensor))
    file.put(tensor, np.concatenate([array, array]))


def _shorter(file: File, tensor: str) -> None:
    file.put(tensor, np.atleast_1d(file.array(tensor))[:-1].copy())


def _empty(file: File, tensor: str) -> None:
    dtype, shape, _ = file.tensors[tensor]
    file.tensors[tensor] = (dtype, [0, *shape[1:]], b"")


def _typed(file: File, tensor: str, dtype: str) -> None:
    array = file.array(tensor)
    with np.errstate(all="ignore"):
        file.put(tensor, (array * (100 if dtype == "I8" else 1)).astype(DTYPES[dtype]))


def _bfloat(file: File, tensor: str) -> None:
    array = file.array(tensor).astype(np.float32)
    halves = (array.view(np.uint32) >> HALF_TO_BFLOAT).astype(np.uint16)
    file.tensors[tensor] = ("BF16", list(array.shape), halves.tobytes())


def _eight_bit_float(file: File, tensor: str) -> None:
    dtype, shape, data = file.tensors[tensor]
    file.tensors[tensor] = ("F8_E4M3", shape, data[: prod(shape)])


def _filled(file: File, tensor: str, value: float = np.nan, whole: bool = False) -> None:
    array = file.array(tensor).copy()
    if array.dtype.kind != "f":
        array, value = array.astype(np.float32), np.float32(value)
    if array.size:
        array.reshape(-1)[None if whole else array.size // 2] = value
    file.put(tensor, array)


def _scaled(file: File, tensor: str, factor: float) -> None:
    with np.errstate(all="ignore"):
        file.put(tensor, (file.array(tensor).astype(np.float64) * factor).astype(file.array(tensor).dtype))


CHANGES: dict[str, tuple[Callable, str]] = {
    "removed": (_removed, DAMAGE),
    "renamed": (_renamed, DAMAGE),
    "copied": (_copied, DAMAGE),
    "all_prefixed": (_prefixed, DAMAGE),
    "reshaped": (_reshaped, DAMAGE),
    "turned": (_turned, CONTENT),
    "longer": (_longer, DAMAGE),
    "shorter": (_shorter, DAMAGE),
    "empty": (_empty, DAMAGE),
    **{dtype: (partial(_typed, dtype=dtype), CONTENT if dtype[0] == "F" else DAMAGE) for dtype in DTYPES},
    "BF16": (_bfloat, CONTENT),
    "F8_E4M3": (_eight_bit_float, DAMAGE),
    "one_nan": (_filled, DAMAGE),
    "one_infinity": (partial(_filled, value=np.inf), DAMAGE),
    "one_minus_infinity": (partial(_filled, value=-np.inf), DAMAGE),
    "all_nan": (partial(_filled, whole=True), DAMAGE),
    "zeros": (partial(_filled, value=0.0, whole=True), CONTENT),
    "times_1000": (partial(_scaled, factor=1000.0), CONTENT),
    "negated": (partial(_scaled, factor=-1.0), CONTENT),
}


def _entry(header: Header, tensor: str, **values: Any) -> None:
    header[tensor] = {**header[tensor], **values}


def _offsets(header: Header, tensor: str, change: Callable[[int, int], list[int]]) -> None:
    header[tensor] = {**header[tensor], "data_offsets": change(*header[tensor]["data_offsets"])}


HEADERS: dict[str, Callable[..., None]] = {
    "unknown_dtype": partial(_entry, dtype="F1"),
    "no_dtype": partial(_entry, dtype=None),
    "no_shape": partial(_entry, shape=None),
    "negative_shape": partial(_entry, shape=[-1]),
    "huge_shape": partial(_entry, shape=[2**62, 4]),
    "overflowing_shape": partial(_entry, shape=[2**32, 2**32]),
    "many_dimensions": partial(_entry, shape=[1] * 10_000),
    "unknown_key": partial(_entry, more=1),
    "offsets_turned": partial(_offsets, change=lambda start, end: [end, start]),
    "offsets_huge": partial(_offsets, change=lambda start, end: [start, 2**63]),
    "offsets_negative": partial(_offsets, change=lambda start, end: [-1, end]),
    "offsets_overlapping": partial(_offsets, change=lambda start, end: [max(start - 8, 0), end]),
    "offsets_elsewhere": partial(_offsets, change=lambda start, end: [0, end - start]),
    "offsets_missing": partial(_entry, data_offsets=[]),
}

WHOLE: dict[str, Callable[[Header, bytes], bytes]] = {
    "header_of_2**63": lambda header, data: with_header(header, data, size=2**63),
    "header_of_2**64-1": lambda header, data: with_header(header, data, size=2**64 - 1),
    "header_of_0": lambda header, data: with_header(header, data, size=0),
    "header_of_10**8": lambda header, data: with_header(header, data, size=10**8),
    "header_too_long": lambda header, data: with_header(header, data, size=len(json.dumps(header)) + 16),
    "header_nested": lambda header, data: with_header('{"a":' * 50_000 + "1" + "}" * 50_000, data),
    "header_list": lambda header, data: with_header("[]", data),
    "header_not_utf8": lambda header, data: with_header(json.dumps(header).encode() + b"\xff", data),
    "header_empty": lambda header, data: with_header({}, b""),
    "header_empty_with_data": lambda header, data: with_header({}, data),
    "header_only": lambda header, data: with_header(header, b""),
    "tensor_twice": lambda header, data: with_header(
        "{" + ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in 2 * list(header.items())) + "}", data
    ),
    "metadata_of_numbers": lambda header, data: with_header({"__metadata__": {"a": 1}, **header}, data),
    "metadata_long": lambda header, data: with_header({**header, "__metadata__": {"a": "b" * 10**6}}, data),
    "metadata_format": lambda header, data: with_header({**header, "__metadata__": {"format": "tf"}}, data),
    "many_tensors": lambda header, data: with_header(
        {
            **header,
            **{
                f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}
                for n in range(20_000)
            },
        },
        data,
    ),
}
