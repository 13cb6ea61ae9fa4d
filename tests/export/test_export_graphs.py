"""Invalid graphs in an exported folder: each is refused in one sentence."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from ld4lg_fast.export.runtime import OnnxTextDiffusion, RuntimeInputError
from tests.export.exported_folders import (
    change_graph,
    content_of,
    copied,
    refused,
    seal,
)


def weights(model: onnx.ModelProto) -> list:
    return [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]


def place(key: str, value: str):
    def change(model: onnx.ModelProto) -> None:
        for entry in weights(model)[0].external_data:
            entry.value = value if entry.key == key else entry.value

    return change


def hidden(model: onnx.ModelProto) -> None:
    """External weights in the subgraph of a node, such as the branch of an If."""
    node = model.graph.node.add(op_type="If", name="if")
    branch = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    tensor = branch.initializer.add(name="w", data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")


def named_twice(model: onnx.ModelProto) -> None:
    weights(model)[0].external_data.add(key="location", value="/etc/passwd")


def renamed(what: str, number: int):
    def change(model: onnx.ModelProto) -> None:
        old = getattr(model.graph, what)[number].name
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = ["renamed" if name == old else name for name in names]
        getattr(model.graph, what)[number].name = "renamed"

    return change


def typed(kind: int):
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = kind

    return change


def sized(number: int):
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[number].dim_value += 1

    return change


def first_inline(value: float):
    """Sets a bias in the graph to that value."""

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_location != TensorProto.EXTERNAL and tensor.data_type == 1 and tensor.dims:
                array = np.full_like(numpy_helper.to_array(tensor), value)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
                return
        raise AssertionError("there is none")

    return change


def unknown_operation(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type, model.graph.node[0].domain = "Surprise", "com.example"


def test_a_graph_that_fails_while_it_runs_is_one_sentence(folder, capfd):
    """The decoder has positions for 16 tokens; the config says 2,000 and forbids shorter texts."""
    content = content_of(folder)
    content["generation"] |= {"max_length": 1500, "min_length": 1400}
    seal(folder, content | {"max_len": 2000})
    with pytest.raises(RuntimeInputError, match="onnxruntime .* cannot run .*decoder.onnx: ") as caught:
        OnnxTextDiffusion(folder, threads=1)(1, num_inference_steps=2, sampler="ddim")
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")


NO_SURPRISES = "copy the folder again, or write it anew with ld4lg export"
GRAPHS = {
    "outside": ("latents", place("location", "../folder/weights.bin"), "no file of this folder"),
    "absolute": (
        "latents",
        place("location", "/etc/passwd"),
        "has weights in '/etc/passwd', which is no file",
    ),
    "memory": ("latents", place("location", "*/_ORT_MEM_ADDR_/*"), "no file of this folder"),
    "nowhere": ("latents", place("location", ""), "has weights in '', which is no file of this folder"),
    "hidden": ("latents", hidden, "has weights in '/etc/passwd', which is no file of this folder"),
    "named twice": ("latents", named_twice, "names the place of a weight twice"),
    "beyond": ("latents", place("offset", str(10**9)), "weights beyond the end of weights.bin"),
    "too long": ("latents", place("length", str(10**18)), "weights beyond the end of weights.bin"),
    "before": ("latents", place("offset", "-4096"), "weights beyond the end of weights.bin"),
    "no number": ("latents", place("offset", "x"), "invalid literal"),
    "too short": ("latents", place("length", "4"), "cannot load"),
    "input": ("denoiser", renamed("input", 0), "has no input 'z_t'"),
    "output": ("denoiser", renamed("output", 0), "has no output 'output'"),
    "cache": ("cache", renamed("input", 1), "has no input 'past.0.key'"),
    "logits": ("decoder", renamed("output", 0), "has no output 'logits'"),
    "latents": ("latents", renamed("output", 0), "output"),
    "type": ("latents", typed(TensorProto.DOUBLE), "cannot load"),
    "text": ("denoiser", typed(TensorProto.STRING), "cannot load"),
    "size": ("denoiser", sized(2), "cannot load"),
    "positions": ("latents", sized(1), "cannot load"),
    "operation": ("decoder", unknown_operation, "cannot load"),
    "a NaN": ("latents", first_inline(float("nan")), "not finite"),
    "infinity": ("denoiser", first_inline(float("inf")), "not finite"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_that_cannot_be_used_are_one_sentence(folder, case, capfd):
    name, change, sentence = GRAPHS[case]
    change_graph(folder, f"{name}.onnx", change)
    refused(folder, sentence)
    assert capfd.readouterr() == ("", "")


def test_a_graph_in_place_of_another_is_refused(exported, tmp_path):
    names = ("denoiser", "latents", "decoder", "cache")
    for target in names:
        for source in set(names) - {target}:
            folder = copied(exported, tmp_path / f"{target}-{source}")
            (folder / f"{target}.onnx").write_bytes((exported / f"{source}.onnx").read_bytes())
            seal(folder)
            said = refused(folder, NO_SURPRISES)
            assert f"{target}.onnx has " in said or "weights.bin has 1830912 bytes, more than the " in said
