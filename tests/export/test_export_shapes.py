"""Symbolic sizes of a graph, such as the batch size, are checked on its outputs."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx import helper, numpy_helper  # noqa: E402

from ld4lg_fast.export.runtime import OnnxTextDiffusion, RuntimeInputError  # noqa: E402
from tests.export.exported_folders import change_graph, copied  # noqa: E402


def sliced(axis: int, count: int):
    def nodes(given: str, wanted: str) -> tuple[list, list]:
        numbers = {"first": 0, "last": count, "axis": axis}
        constants = [numpy_helper.from_array(np.array([value]), name) for name, value in numbers.items()]
        return [helper.make_node("Slice", [given, *numbers], [wanted])], constants

    return nodes


def doubled(axis: int):
    return lambda given, wanted: ([helper.make_node("Concat", [given, given], [wanted], axis=axis)], [])


CHANGES = {
    **{f"sliced along {axis}": sliced(axis, 1) for axis in range(3)},
    **{f"emptied along {axis}": sliced(axis, 0) for axis in range(3)},
    **{f"doubled along {axis}": doubled(axis) for axis in range(3)},
}


@pytest.mark.parametrize(("graph", "output"), [("denoiser", "output"), ("decoder", "logits")])
@pytest.mark.parametrize("change", CHANGES)
def test_outputs_of_another_shape_are_refused(exported, tmp_path, graph, output, change):
    folder = copied(exported, tmp_path / "folder")

    def changed(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = ["given" if name == output else name for name in names]
        nodes, constants = CHANGES[change]("given", output)
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(constants)

    change_graph(folder, f"{graph}.onnx", changed)
    for options in ({"strategy": "nucleus", "num_decodes": 2}, {"strategy": "beam"}):
        if change == "sliced along 1" and graph == "decoder" and options["strategy"] == "nucleus":
            continue  # one beam of one
        with pytest.raises(RuntimeInputError) as caught:
            OnnxTextDiffusion(folder, threads=1)(2, num_inference_steps=2, sampler="ddim", seed=3, **options)
        sentence = str(caught.value)
        assert "\n" not in sentence and f"output {output} " in sentence
