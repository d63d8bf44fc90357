"""fp16 and bf16 files: which nodes are low, one type at every node, and the answers of the fp32 file."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctxdeploy.core.bundle import INPUT_NAME, OUTPUT_NAMES
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Precision
from ctxdeploy.export.graph.mixed import emulated, to_mixed
from ctxdeploy.export.graph.mixed_plan import low_tensor, low_type
from ctxdeploy.export.networks import Edges
from ctxdeploy.export.networks.operators import DOMAIN
from ctxdeploy.export.networks.refinement import graph_convolution, row_blocks
from ctxdeploy.export.parity.parity import PhotoParity, compare_photo

Image = NDArray[np.uint8]
LOW = (Precision.FP16, Precision.BF16)
FLOATS = (1, 10, 16)
# Operators that must never compute in a low type: their small numbers vanish or their large ones overflow.
FP32_OPERATORS = {
    *("AveragePool", "Clip", "Div", "Exp", "GatherElements", "Mul", "ReduceL2", "ReduceMax", "ReduceSum", "Resize"),
    *("Sigmoid", "Softmax", "Softplus", "Sqrt", "Sub", "TopK", "Where"),
}


@pytest.fixture(scope="module", params=LOW, ids=lambda precision: precision.label)
def precision(request: pytest.FixtureRequest) -> Precision:
    value: Precision = request.param
    return value


@pytest.fixture(scope="module")
def mixed(small_graph: Any, precision: Precision) -> Any:
    """Return ``small_graph`` in a mixed precision."""
    return to_mixed(small_graph, precision)


def inlined(proto: Any) -> Any:
    """Return a graph without local functions, as runtimes see it, with the types of its values."""
    import onnx.inliner

    plain = onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    return onnx.shape_inference.infer_shapes(plain, strict_mode=True, check_type=True).graph


def types_of(graph: Any) -> dict[str, int]:
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def float_types(names: Iterable[str], types: Mapping[str, int]) -> set[int]:
    return {types[name] for name in names if name and types[name] in FLOATS}


def test_no_node_mixes_types(mixed: Any, precision: Precision) -> None:
    graph = inlined(mixed)
    types = types_of(graph)
    element_type = low_type(precision).element_type
    assert {types[name] for node in graph.node for name in node.output} & set(FLOATS) == {1, element_type}
    for node in graph.node:
        if node.op_type != "Cast":
            assert len(float_types((*node.input, *node.output), types)) <= 1, node


def test_the_heavy_nodes_are_low_and_the_delicate_ones_are_not(mixed: Any, precision: Precision) -> None:
    graph = inlined(mixed)
    types = types_of(graph)
    element_type = low_type(precision).element_type
    low = [node for node in graph.node if element_type in float_types(node.output, types) and node.op_type != "Cast"]
    assert not {node.op_type for node in low} & FP32_OPERATORS
    products = [node for node in graph.node if node.op_type in ("Conv", "MatMul")]
    left = [node for node in products if element_type not in float_types(node.output, types)]
    # Two scales: prediction, four ring convolutions and the whitening.
    assert [node.op_type for node in left] == ["Conv"] * 12
    assert not any(name.startswith("backbone.") for node in left for name in node.input)
    # Two graph convolutions at each scale, each of two products for each block of rows and one for all.
    blocks = [row_blocks(32, scale) for scale in (1.414, 0.5)]
    assert sum(node.op_type == "MatMul" for node in low) == sum(2 * (2 * count + 1) for count in blocks)


def test_no_casts_to_and_fro(mixed: Any) -> None:
    for nodes in (mixed.graph.node, *(function.node for function in mixed.functions)):
        casts = [node for node in nodes if node.op_type == "Cast"]
        assert not {node.input[0] for node in casts} & {node.output[0] for node in casts}
        # Once per value and type.
        targets = [(node.input[0], node.attribute[0].i) for node in casts]
        assert len(targets) == len(set(targets))


def test_the_interface_stays(mixed: Any, small_graph: Any) -> None:
    assert list(mixed.graph.input) == list(small_graph.graph.input)
    assert list(mixed.graph.output) == list(small_graph.graph.output)
    assert [(f.name, list(f.input), list(f.output)) for f in mixed.functions] == [
        (f.name, list(f.input), list(f.output)) for f in small_graph.functions
    ]


def test_weights_are_low_and_stored_once(mixed: Any, small_graph: Any, precision: Precision) -> None:
    element_type = low_type(precision).element_type
    before = {tensor.name: tensor for tensor in small_graph.graph.initializer}
    after = {tensor.name: tensor for tensor in mixed.graph.initializer}
    assert list(before) == list(after)
    for name, tensor in after.items():
        heavy = name.startswith("backbone.") or (name.startswith("refinement.") and len(tensor.dims) == 2)
        assert tensor.data_type == (element_type if heavy else before[name].data_type), name
    assert mixed.ByteSize() < 0.52 * small_graph.ByteSize()


def test_the_graph_given_is_left_as_it_was(small_graph: Any, precision: Precision) -> None:
    before = small_graph.SerializeToString(deterministic=True)
    to_mixed(small_graph, precision)
    assert small_graph.SerializeToString(deterministic=True) == before


def test_an_inlined_graph_becomes_the_same(
    mixed: Any, small_graph: Any, precision: Precision, session_of: Any, samples: Mapping[str, Image]
) -> None:
    import onnx.inliner

    plain = to_mixed(onnx.inliner.inline_local_functions(small_graph), precision)
    kinds = [
        [node.op_type for node in inlined(proto).node if node.op_type in ("Conv", "MatMul")] for proto in (plain, mixed)
    ]
    assert kinds[0] == kinds[1]
    graphs = [inlined(proto) for proto in (plain, mixed)]
    element_type = low_type(precision).element_type
    products = [
        [types_of(graph)[node.output[0]] == element_type for node in graph.node if node.op_type in ("Conv", "MatMul")]
        for graph in graphs
    ]
    assert products[0] == products[1]
    run, expected = session_of(emulated(plain)), session_of(emulated(mixed))
    for a, b in zip(run(samples["coffee"][None]), expected(samples["coffee"][None]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bf16_needs_no_other_operators(small_graph: Any) -> None:
    """bf16 raises the opset from 20 to 22: between the two, our operators gained types and nothing else."""
    import onnx

    used = {
        node.op_type for nodes in (small_graph.graph.node, *(f.node for f in small_graph.functions)) for node in nodes
    }
    used |= {"Softmax", "Conv", "MaxPool", "AveragePool"}
    for name in used - {function.name for function in small_graph.functions}:
        old, new = (onnx.defs.get_schema(name, opset) for opset in (20, 22))
        assert {a.name: a.default_value for a in old.attributes.values()} == {
            a.name: a.default_value for a in new.attributes.values()
        }, name
        assert [p.name for p in (*old.inputs, *old.outputs)] == [p.name for p in (*new.inputs, *new.outputs)], name
    opsets = {o.domain: o.version for o in to_mixed(small_graph, Precision.BF16).opset_import}
    assert opsets == {"": 22, DOMAIN: 1}


def on_two_photos(
    wanted: Callable[[Image], Any], given: Callable[[Image], Any], photos: Mapping[str, Image]
) -> list[PhotoParity]:
    return [compare_photo(n, photos[n], wanted(photos[n][None]), given(photos[n][None])) for n in ("coffee", "rocket")]


def test_rounded_in_fp32_it_answers_as_fp32_does(
    mixed: Any, small_graph: Any, precision: Precision, session_of: Any, samples: Mapping[str, Image]
) -> None:
    found = on_two_photos(session_of(small_graph), session_of(emulated(mixed)), samples)
    cosine, overlap, error = {"fp16": (0.9999, 0.95, 0.003), "bf16": (0.99, 0.85, 0.03)}[precision.label]
    assert min(photo.cosine_min for photo in found) > cosine
    # And not better than the low type's precision: it is rounded.
    assert max(photo.cosine_mean for photo in found) < {"fp16": 0.999999, "bf16": 0.99999}[precision.label]
    assert min(photo.overlap for photo in found) > overlap
    assert max(photo.attention_error for photo in found) < error


def test_onnxruntime_runs_fp16(small_graph: Any, session_of: Any, samples: Mapping[str, Image]) -> None:
    mixed = to_mixed(small_graph, Precision.FP16)
    found = on_two_photos(session_of(small_graph), session_of(mixed), samples)
    assert min(photo.cosine_min for photo in found) > 0.9999
    assert min(photo.overlap for photo in found) > 0.95


def test_openvino_runs_both(mixed: Any, small_graph: Any, session_of: Any, samples: Mapping[str, Image]) -> None:
    import onnx.inliner
    import openvino

    core = openvino.Core()
    model = core.read_model(onnx.inliner.inline_local_functions(mixed).SerializeToString())
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2})
    request = compiled.create_infer_request()

    def run(images: Image) -> list[NDArray[np.float32]]:
        request.infer({INPUT_NAME: images})
        return [np.array(request.get_tensor(name).data) for name in OUTPUT_NAMES]

    found = on_two_photos(session_of(small_graph), run, samples)
    assert min(photo.cosine_min for photo in found) > 0.99


def test_an_overflow_in_fp16_is_seen(small_graph: Any, session_of: Any, samples: Mapping[str, Image]) -> None:
    """A trunk whose features grow beyond 65504 gives no finite answer, and bf16 answers as before."""
    import onnx
    from onnx import numpy_helper

    large = onnx.ModelProto()
    large.CopyFrom(small_graph)
    # The smoothing sees features of the former size: else it is all or nothing, and its weights underflow.
    factors = {"backbone.conv1.": 30000, "smoothing.predict.weight": 1 / 30000}
    for tensor in large.graph.initializer:
        for name, factor in factors.items():
            if tensor.name.startswith(name):
                scaled = numpy_helper.to_array(tensor) * np.float32(factor)
                tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
    photo = {"coffee": samples["coffee"], "rocket": samples["rocket"]}
    overflown = on_two_photos(session_of(large), session_of(emulated(to_mixed(large, Precision.FP16))), photo)
    assert not any(parity.cosine_min > 0.5 for parity in overflown)
    held = on_two_photos(session_of(large), session_of(emulated(to_mixed(large, Precision.BF16))), photo)
    assert min(parity.cosine_min for parity in held) > 0.9


def test_many_alike_positions_do_not_overflow_in_fp16() -> None:
    """The graph refinement sums over all positions before it divides: 4096 · 0.5 · 100 is more than fp16 holds."""
    x, weight, threshold = torch.full((1, 4096, 8), 100.0), torch.eye(8), torch.tensor(0.5)
    wide = graph_convolution(x, weight, threshold, Edges.THRESHOLD, 16)
    half = graph_convolution(x.half(), weight.half(), threshold.half(), Edges.THRESHOLD, 16)
    assert torch.equal(wide, 2 * x)
    torch.testing.assert_close(half.float(), wide, rtol=0.01, atol=0)


@pytest.mark.parametrize("precision", LOW)
def test_what_decides_about_positions_alone_stays_fp32(precision: Precision) -> None:
    """FIRe's positions are products too: means of the cells that a super-feature attends to, in pixels."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    kernel = numpy_helper.from_array(rng.random((3, 3, 1, 1), np.float32), "backbone.conv1.weight")
    cells = numpy_helper.from_array(rng.random((4, 2), np.float32), "cells")
    shape = numpy_helper.from_array(np.array([3, 4]), "shape")
    nodes = [
        helper.make_node("Conv", ["image", kernel.name], ["map"]),
        helper.make_node("Reshape", ["map", "shape"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["columns"]),
        helper.make_node("MatMul", ["rows", "columns"], ["descriptors"]),
        helper.make_node("MatMul", ["rows", "cells"], ["positions"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 2, 2])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in (("descriptors", [3, 3]), ("positions", [3, 2]))
    ]
    graph = helper.make_graph(nodes, "super-features", [image], outputs, [kernel, cells, shape])
    mixed = to_mixed(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), precision)
    types = types_of(inlined(mixed))
    low = low_type(precision).element_type
    assert [(n.op_type, types[n.input[1]]) for n in mixed.graph.node if n.op_type in ("Conv", "MatMul")] == [
        ("Conv", low),
        ("MatMul", low),
        ("MatMul", 1),
    ]
    # An output is fp32 though its node is low.
    assert [(o.name, o.type.tensor_type.elem_type) for o in mixed.graph.output] == [
        ("descriptors", 1),
        ("positions", 1),
    ]
    (last,) = (node for node in mixed.graph.node if node.output[0] == "descriptors")
    assert (last.op_type, last.attribute[0].i) == ("Cast", TensorProto.FLOAT)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_bf16_is_rounded_as_pytorch_rounds(patterns: list[int]) -> None:
    from onnx import numpy_helper

    low = low_type(Precision.BF16)
    values = np.array(patterns, np.uint32).view(np.float32)
    values = np.where(np.abs(values) <= low.largest, values, np.float32(1))
    tensor = low_tensor(numpy_helper.from_array(values, "weight"), low)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
    np.testing.assert_array_equal(np.frombuffer(tensor.raw_data, np.int16), expected)
    assert (tensor.name, tensor.data_type, list(tensor.dims)) == ("weight", 16, [len(patterns)])


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_other_precisions_are_refused(precision: Precision, small_graph: Any) -> None:
    with pytest.raises(ConfigError, match=f"{precision.label} is not a mixed precision: give --precision fp16 or bf16"):
        to_mixed(small_graph, precision)


@pytest.mark.parametrize("value", [65536.0, -1e6, np.inf, np.nan])
def test_a_weight_beyond_fp16_is_refused(value: float) -> None:
    from onnx import numpy_helper

    tensor = numpy_helper.from_array(np.array([1.0, value], np.float32), "backbone.conv1.weight")
    with pytest.raises(ConfigError, match=r"weight backbone.conv1.weight holds .*but fp16 ends at 65504: use"):
        low_tensor(tensor, low_type(Precision.FP16))


def test_a_graph_without_a_trunk_is_refused() -> None:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "no trunk", values[:1], values[1:])
    with pytest.raises(ConfigError, match=r"no convolution with a weight backbone\.\*: nothing would be bf16"):
        to_mixed(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), Precision.BF16)
