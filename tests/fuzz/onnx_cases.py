"""Cases of ONNX graphs: unexpected inputs, outputs and weights, and weights in files outside the folder."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.fuzz.cases import CONTENT, DAMAGE, Case, rewrite


def onnx_cases(folder: Path, name: str) -> Iterator[Case]:
    """All cases of the graph ``name`` in the folder."""
    model = onnx.load(folder / name, load_external_data=False)
    for what, (change, kind) in CHANGES.items():
        yield Case(f"{name}={what}", partial(_changed, name, change), kind)
    for number, node in enumerate(model.graph.input):
        yield Case(
            f"{name}:input {node.name}=removed", partial(_changed, name, partial(_input, number=number))
        )
        for what, kind in (("double", TensorProto.DOUBLE), ("string", TensorProto.STRING)):
            change = partial(_input_type, number=number, kind=kind)
            yield Case(f"{name}:input {node.name}={what}", partial(_changed, name, change))
    for number, node in enumerate(model.graph.output):
        yield Case(
            f"{name}:output {node.name}=removed", partial(_changed, name, partial(_output, number=number))
        )
    if external(model):
        for what, (key, value) in PLACES.items():
            yield Case(
                f"{name}:weights={what}", partial(_changed, name, partial(_placed, key=key, value=value))
            )


def external(model: ModelProto) -> list[TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]


def _changed(name: str, change: Callable[[ModelProto], None], folder: Path) -> None:
    model = onnx.load(folder / name, load_external_data=False)
    change(model)
    rewrite(folder / name, model.SerializeToString())


def _input(model: ModelProto, number: int) -> None:
    del model.graph.input[number]


def _input_type(model: ModelProto, number: int, kind: int) -> None:
    model.graph.input[number].type.tensor_type.elem_type = kind


def _output(model: ModelProto, number: int) -> None:
    del model.graph.output[number]


def _placed(model: ModelProto, key: str, value: str) -> None:
    for entry in external(model)[0].external_data:
        if entry.key == key:
            entry.value = value


PLACES = {
    "outside": ("location", "../../../../../../etc/passwd"),
    "absolute": ("location", "/etc/passwd"),
    "device": ("location", "/dev/zero"),
    "missing": ("location", "missing.bin"),
    "of a graph": ("location", "denoiser.onnx"),
    "nowhere": ("location", ""),
    "far": ("offset", str(2**62)),
    "negative": ("offset", "-1"),
    "no number": ("offset", "x"),
    "too long": ("length", str(2**62)),
    "too short": ("length", "4"),
    "negative length": ("length", "-4"),
}


def _no_node(model: ModelProto) -> None:
    del model.graph.node[len(model.graph.node) // 2]


def _no_nodes(model: ModelProto) -> None:
    del model.graph.node[:]


def _unknown_operation(model: ModelProto) -> None:
    model.graph.node[0].op_type = "Unknown"


def _unknown_domain(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def _other_operation(model: ModelProto) -> None:
    node = next((node for node in model.graph.node if node.op_type == "MatMul"), model.graph.node[0])
    node.op_type = "Add"


def _future(model: ModelProto) -> None:
    model.opset_import[0].version = 9999


def _future_format(model: ModelProto) -> None:
    model.ir_version = 9999


def _cycle(model: ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def _renamed(model: ModelProto) -> None:
    old, new = model.graph.output[0].name, "renamed"
    model.graph.output[0].name = new
    for node in model.graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
        node.input[:] = [new if name == old else name for name in node.input]


def _weights(model: ModelProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and tensor.data_type == TensorProto.FLOAT:
            array = change(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            return


def _shape(model: ModelProto, dims: list[int]) -> None:
    tensor = (external(model) or model.graph.initializer)[0]
    tensor.dims[:] = dims


def _external_type(model: ModelProto) -> None:
    (external(model) or model.graph.initializer)[0].data_type = TensorProto.INT8


def _huge(model: ModelProto) -> None:
    """A node that makes a tensor of 2**40 numbers when the graph runs."""
    shape = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "huge_shape")
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge_shape"], ["huge"]))
    model.graph.output.append(helper.make_tensor_value_info("huge", TensorProto.FLOAT, None))


CHANGES: dict[str, tuple[Callable[[ModelProto], None], str]] = {
    "no node": (_no_node, DAMAGE),
    "no nodes": (_no_nodes, DAMAGE),
    "unknown operation": (_unknown_operation, DAMAGE),
    "unknown domain": (_unknown_domain, DAMAGE),
    "other operation": (_other_operation, DAMAGE),
    "future operations": (_future, DAMAGE),
    "future format": (_future_format, DAMAGE),
    "cycle": (_cycle, DAMAGE),
    "output renamed": (_renamed, DAMAGE),
    "weights nan": (partial(_weights, change=lambda array: np.full_like(array, np.nan)), DAMAGE),
    "weights infinite": (partial(_weights, change=lambda array: np.full_like(array, np.inf)), DAMAGE),
    "weights zero": (partial(_weights, change=np.zeros_like), CONTENT),
    "weights flat": (partial(_weights, change=lambda array: array.reshape(-1)), DAMAGE),
    "shape negative": (partial(_shape, dims=[-1]), DAMAGE),
    "shape huge": (partial(_shape, dims=[2**40, 2**20]), DAMAGE),
    "shape empty": (partial(_shape, dims=[0]), DAMAGE),
    "weights of another type": (_external_type, DAMAGE),
    "huge tensor": (_huge, DAMAGE),
}
