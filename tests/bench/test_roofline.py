"""Operations are counted from what the nodes of a graph met."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ctxdeploy.bench.roofline import _of_event, count_operations
from ctxdeploy.core import bundle as bundles


@pytest.mark.parametrize(
    ("kind", "inputs", "output", "operations"),
    [  # a multiply-add for each output and each of its inputs, two operations each
        ("Conv", [[2, 8, 9, 7], [6, 4, 3, 3]], [2, 6, 7, 5], 2 * (2 * 6 * 7 * 5) * (4 * 9)),  # two groups
        ("ConvTranspose", [[1, 8, 5, 5], [8, 3, 2, 2]], [1, 3, 6, 6], 2 * (8 * 5 * 5) * (3 * 4)),
        ("MatMul", [[3, 4, 5], [3, 5, 6]], [3, 4, 6], 2 * 3 * 4 * 5 * 6),
        ("MatMul", [[2, 3, 4, 5], [5, 6]], [2, 3, 4, 6], 2 * 2 * 3 * 4 * 5 * 6),
        ("Gemm", [[5, 4], [5, 6], [6]], [4, 6], 2 * 4 * 5 * 6),  # the first transposed
    ],
)
def test_operations_of_nodes(kind: str, inputs: list[list[int]], output: list[int], operations: int) -> None:
    event = {
        "op_name": kind,
        "input_type_shape": [{"float": shape} for shape in inputs],
        "output_type_shape": [{"float": output}],
    }
    assert _of_event(event) == operations


def test_operations_of_a_graph_whose_sizes_are_computed_in_it(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        node("Shape", ["planes"], ["size"], start=2),
        node("Div", ["size", "two"], ["half"]),
        node("Concat", ["lead", "half"], ["sizes"], axis=0),
        node("Resize", ["planes", "", "", "sizes"], ["small"], mode="linear"),
        node("Conv", ["small", "weights"], ["found"], pads=[1] * 4),
        node("Relu", ["found"], ["y"]),
    ]
    constants = {
        "two": np.array([2], np.int64),
        "lead": np.array([1, 3], np.int64),
        "weights": np.zeros((5, 3, 3, 3), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "half",
        [value("image", TensorProto.UINT8, ["B", "H", "W", 3])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    artefact = bundles.Artefact(
        file="m.onnx", sha256="", bytes=0, format="onnx", precision="fp32", target="onnxruntime"
    )
    bundle = bundles.Bundle(
        path=tmp_path,
        network={},
        source={},
        preprocessing=bundles.Preprocessing(),
        extraction=bundles.Extraction(),
        shapes=bundles.ShapeRange(),
        artefacts=(artefact,),
    )
    found = count_operations(bundle, [(21, 40), (8, 8), (21, 40)])
    assert found == {(21, 40): 2.0 * 10 * 20 * 5 * 27, (8, 8): 2.0 * 4 * 4 * 5 * 27}


def test_the_tiny_bundle_has_no_convolutions(load_reference: Callable[[str], ModuleType], tmp_path: Path) -> None:
    load_reference("trt/tiny_bundle").write(tmp_path / "tiny.ctxbundle")
    assert count_operations(bundles.open(tmp_path / "tiny.ctxbundle"), [(8, 8)]) == {(8, 8): 0.0}
