"""Checks that ONNX graphs read their weights from files of the folder only.

onnxruntime 1.22 reads weights from any path in a graph. Graphs are protocol buffers; only messages that lead to tensors
are parsed here: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from .errors import RuntimeInputError
from .json_files import REMEDY

# By message: the fields to follow, and their message types.
_FIELDS = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        **{5: "Tensor", 10: "Tensor", 6: "Graph", 11: "Graph"},
        **{22: "SparseTensor", 23: "SparseTensor"},
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "ExternalData"},
}


def check_external_data(path: Path, files: Mapping[str, int]) -> dict[str, int]:
    """Refuses a graph with weights outside ``files`` (sizes by name) or beyond their ends.

    Returns:
        The number of bytes, from the start, that the graph uses of each file.

    Raises:
        RuntimeInputError: such a graph, or a file that is not a graph.
    """
    used: dict[str, int] = {}
    try:
        for place in _external_data(path.read_bytes()):
            location = place.get("location", "")
            if location not in files:
                raise ValueError(f"it has weights in {location!r}, which is no file of this folder")
            first, length = int(place.get("offset", "0")), int(place.get("length", "0"))
            if first < 0 or length < 0 or first + length > files[location]:
                raise ValueError(f"it has weights beyond the end of {location}")
            used[location] = max(used.get(location, 0), first + length)
        return used
    except OSError as error:
        raise RuntimeInputError(f"{path} cannot be read ({error.strerror}); {REMEDY}.") from error
    except ValueError as error:
        raise RuntimeInputError(f"{path} cannot be used: {error}; {REMEDY}.") from error


def _external_data(content: bytes) -> Iterator[dict[str, str]]:
    """``location``, ``offset`` and ``length`` of each tensor that is stored in another file."""
    waiting = [("Model", memoryview(content))]
    while waiting:
        message, view = waiting.pop()
        leads_to, place = _FIELDS[message], {}
        for number, value in _fields(view):
            if leads_to.get(number) == "ExternalData":
                entry = {name: bytes(text).decode() for name, text in _fields(value)}
                if entry.get(1, "") in place:
                    raise ValueError("it names the place of a weight twice")
                place[entry.get(1, "")] = entry.get(2, "")
            elif number in leads_to:
                waiting.append((leads_to[number], value))
        if place:
            yield place


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message that are messages or strings; numbers are skipped."""
    at = 0
    while at < len(view):
        tag, at = _number(view, at)
        kind = tag & 7 if tag >> 3 else None
        if kind == 0:
            _, at = _number(view, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _number(view, at)
            if at + length > len(view):
                raise ValueError("it is no ONNX graph")
            yield tag >> 3, view[at : at + length]
            at += length
        else:
            raise ValueError("it is no ONNX graph")


def _number(view: memoryview, at: int) -> tuple[int, int]:
    """A varint (seven bits per byte), and the position after it."""
    value = 0
    for place, byte in enumerate(view[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("it is no ONNX graph")
