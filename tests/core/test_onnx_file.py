"""Graphs that a bundle may not hold: weights elsewhere, nodes that end nowhere, tensors of any size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ctxdeploy.core.errors import BundleError
from ctxdeploy.core.onnx_file import check_onnx

node = helper.make_node


def model(nodes: list[Any], constants: dict[str, Any] | None = None, functions: tuple[Any, ...] = ()) -> Any:
    """Return a model of some nodes from ``image`` to ``y``."""
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("image", TensorProto.UINT8, ["B", "H", "W", 3])],
        [value("y", TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, functions=functions, opset_imports=[helper.make_opsetid("", 20)])


def elsewhere(tensor: Any) -> None:
    """Let a tensor's numbers lie in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"


def external_weights() -> Any:
    made = model([node("Add", ["image", "w"], ["y"])], {"w": np.ones(3, np.float32)})
    elsewhere(made.graph.initializer[0])
    return made


def external_without_the_mark() -> Any:
    made = external_weights()
    made.graph.initializer[0].ClearField("data_location")
    return made


def external_constant() -> Any:
    made = model([node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(3, np.float32)))])
    elsewhere(made.graph.node[0].attribute[0].t)
    return made


def external_sparse() -> Any:
    made = model([node("Identity", ["image"], ["y"])])
    sparse = made.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    elsewhere(sparse.values)
    return made


def external_in_a_function() -> Any:
    function = ours([node("Constant", [], ["b"], value=numpy_helper.from_array(np.ones(3, np.float32)))])
    elsewhere(function.node[0].attribute[0].t)
    return model([node("F", ["image"], ["y"], domain="ctx")], functions=(function,))


def ours(body: list[Any], domain: str = "ctx") -> Any:
    return helper.make_function(domain, "F", ["a"], ["b"], body, [helper.make_opsetid("", 20)])


def body_graph() -> Any:
    return helper.make_graph([node("Identity", ["image"], ["z"])], "body", [], [])


SHAPE = np.array([60_000, 50_000], np.int64)
GRAPHS: dict[str, tuple[Callable[[], Any], str]] = {
    "weights": (external_weights, "takes weights from another file, which the hashes of the bundle do not cover"),
    "weights, unmarked": (external_without_the_mark, "takes weights from another file"),
    "a constant": (external_constant, "takes weights from another file"),
    "sparse weights": (external_sparse, "takes weights from another file"),
    "a function's": (external_in_a_function, "takes weights from another file"),
    "Loop": (
        lambda: model([node("Loop", ["n", ""], ["y"], body=body_graph())], {"n": np.int64(2**62)}),
        "within a node",
    ),
    "Scan": (lambda: model([node("Scan", ["image"], ["y"], body=body_graph())]), "has a graph within a node"),
    "If": (lambda: model([node("If", ["image"], ["y"], then_branch=body_graph())]), "has a graph within a node"),
    "Loop of no body": (
        lambda: model([node("Loop", ["image"], ["y"])]),
        "has a node Loop, which no graph of ctxdeploy",
    ),
    "another engine's file": (
        lambda: model([node("EPContext", ["image"], ["y"], domain="com.microsoft", ep_cache_context="/etc/passwd")]),
        "has a node com.microsoft.EPContext, which",
    ),
    "a node of no kind": (lambda: model([node("\x1b[31m", ["image"], ["y"])]), r"has a node \\x1b\[31m, which"),
    "a function in itself": (
        lambda: model(
            [node("F", ["image"], ["y"], domain="ctx")], functions=(ours([node("F", ["a"], ["b"], domain="ctx")]),)
        ),
        "has a node ctx.F, which",
    ),
    "a function of a library": (
        lambda: model([], functions=(ours([node("Identity", ["a"], ["b"])], "com.microsoft"),)),
        "has a function of the domain 'com.microsoft'",
    ),
    "12 GB": (
        lambda: model([node("ConstantOfShape", ["s"], ["y"])], {"s": SHAPE}),
        r"makes a tensor of the shape \[60000, 50000\]",
    ),
    "12 GB, from a node": (
        lambda: model([node("Constant", [], ["s"], value_ints=[3000, 10**6]), node("Expand", ["image", "s"], ["y"])]),
        r"makes a tensor of the shape \[3000, 1000000\]",
    ),
    "12 GB, from a constant": (
        lambda: model(
            [node("Constant", [], ["s"], value=numpy_helper.from_array(SHAPE)), node("Tile", ["image", "s"], ["y"])]
        ),
        "makes a tensor of the shape",
    ),
    "12 GB, scaled": (
        lambda: model([node("Resize", ["image", "", "", "s"], ["y"])], {"s": SHAPE}),
        r"makes a tensor of the shape \[60000, 50000\]",
    ),
    "12 GB, typed": (
        lambda: typed(model([node("ConstantOfShape", ["s"], ["y"])], {"s": SHAPE})),
        "makes a tensor of the shape",
    ),
}


def typed(made: Any) -> Any:
    """Write the numbers of a constant as numbers, not as bytes."""
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.int64_data.extend(SHAPE.tolist())
    return made


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_refused(name: str, tmp_path: Path) -> None:
    make, message = GRAPHS[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(BundleError, match=message + ".*export the bundle anew$") as caught:
        check_onnx(path)
    assert str(caught.value).startswith(str(path)) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "data", [b"", b"hello\n", b"\x0a", b"\x3a\x05ab", b"\x00\x00", b"\x0b", b"\xff" * 20, b"\x3a\x01\xff"]
)
def test_what_is_no_graph(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="is not an ONNX graph, or is damaged: export the bundle anew"):
        check_onnx(tmp_path / "model.onnx")


def test_ordinary_graphs_pass(tmp_path: Path) -> None:
    shape = node("Concat", ["batch", "k"], ["shape"], axis=0)
    nodes = [node("Shape", ["image"], ["batch"]), shape, node("Expand", ["zero", "shape"], ["e"])]
    nodes += [node("F", ["e"], ["f"], domain="ctx"), node("Slice", ["f", "begin", "end"], ["y"])]
    constants = {"k": np.array([1000], np.int64), "zero": np.float32(0), "end": np.array([2**63 - 1], np.int64)}
    made = model(nodes, {**constants, "begin": np.array([0], np.int64)}, (ours([node("Relu", ["a"], ["b"])]),))
    onnx.save(made, tmp_path / "model.onnx")
    check_onnx(tmp_path / "model.onnx")


@given(data=st.binary(max_size=200), at=st.integers(0, 400))
def test_any_bytes_give_an_answer(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    whole: bytes = external_weights().SerializeToString()
    for written in (data, whole[: at % len(whole)] + data):
        path.write_bytes(written)
        try:
            check_onnx(path)
        except BundleError as error:
            assert str(error).endswith("export the bundle anew")
