"""Modules to ONNX graphs, and graphs to files that share one file of weights."""

import hashlib
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch.export import Dim

from ld4lg_fast.export.graphs import Graph

OPSET = 20
WEIGHTS = "weights.bin"
ALIGNMENT = 4096  # a memory page, so that the weights can be mapped
SMALL = 1024  # bytes; smaller tensors stay inside the graph


def to_onnx(graph: Graph) -> ModelProto:
    """Traces a graph with its dynamic axes; no weight is stored twice unless quantisation needs it."""
    dims = {name: Dim.DYNAMIC for axes in graph.axes.values() for name in axes.values()}
    shapes = {}
    for name, value in graph.inputs.items():
        axes = {axis: dims[dim] for axis, dim in graph.axes.get(name, {}).items()}
        shapes[name] = [axes] * len(value) if isinstance(value, list) else axes
    with _quiet(logging.getLogger("torch.onnx")), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module.eval(),
            kwargs=graph.inputs,
            input_names=graph.input_names(),
            output_names=graph.outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto  # type: ignore[union-attr]  # None is for the other exporter
    for entry in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.initializer):
        del entry.metadata_props[:]  # its origin in Python
    _fold_transposes(model)
    return model


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Hides a tool's warnings, which are of no use to users."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _fold_transposes(model: ModelProto) -> None:
    """Stores weights that are only used transposed in that form, so that loading does not transpose them."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    for node in list(model.graph.node):
        if node.op_type == "Transpose" and node.input[0] in weights and uses[node.input[0]] == 1:
            tensor = weights[node.input[0]]
            axes = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            array = numpy_helper.to_array(tensor).transpose(axes)
            tensor.CopyFrom(numpy_helper.from_array(array.copy(), node.output[0]))
            model.graph.node.remove(node)


def quantize(model: ModelProto) -> ModelProto:
    """Quantizes matmuls with constant weights to 8 bits: weights per output channel, inputs at run time.

    Weights have seven bits, so that signed weights, which VNNI multiplies twice as fast as unsigned ones, do not
    saturate on CPUs with AVX2 only.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    del model.graph.value_info[:]  # types inferred for float32 would contradict the new ones
    with _quiet(logging.getLogger()), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path, save_as_external_data=True, location="weights")
        quantize_dynamic(
            path,
            Path(folder) / "int8.onnx",
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            use_external_data_format=True,
        )
        return onnx.load(Path(folder) / "int8.onnx")


def write(models: Mapping[str, ModelProto], folder: Path) -> None:
    """Writes ``NAME.onnx`` for each model and one file of weights; equal weights are stored once."""
    places: dict[bytes, int] = {}
    with open(folder / WEIGHTS, "wb") as file:
        for name, model in models.items():
            for tensor in model.graph.initializer:
                content = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
                if len(content) < SMALL:
                    continue
                key = hashlib.sha256(content).digest()
                if key not in places:
                    file.write(b"\0" * (-file.tell() % ALIGNMENT))
                    places[key] = file.tell()
                    file.write(content)
                _refer(tensor, places[key], len(content))
            (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


def _refer(tensor: TensorProto, offset: int, length: int) -> None:
    shape, name, kind = list(tensor.dims), tensor.name, tensor.data_type
    tensor.Clear()
    tensor.dims.extend(shape)
    tensor.name, tensor.data_type = name, kind
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
