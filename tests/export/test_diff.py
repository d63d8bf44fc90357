"""Finding the first layer where two graphs diverge: small graphs with one thing changed, and the real one."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from ctxdeploy.core.bundle import OUTPUT_NAMES, Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.errors import BackendError, BundleError, ConfigError
from ctxdeploy.core.files import file_sha256
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.export.diff import SIZES, Diff, DiffConfig, Side, compare_graphs, side
from ctxdeploy.export.diff.layers import SELECTION, Graph
from ctxdeploy.export.diff.sides import Runner, distance
from ctxdeploy.report import diff_lines

FACTORS = (1.5, 1.0, 0.5)
K = 12
SHAPES = {
    "backbone.conv1": (8, 3, 3, 3),
    "backbone.layer1.0.conv1": (8, 8, 3, 3),
    "backbone.layer1.0.conv2": (8, 8, 3, 3),
    "dim_reduction": (4, 8, 1, 1),
}
Weights = dict[str, Any]
Save = Callable[..., Path]


def weights() -> Weights:
    rng = np.random.default_rng(0)
    found = {f"{name}.weight": rng.normal(size=shape) * 0.3 for name, shape in SHAPES.items()}
    return {name: array.astype(np.float32) for name, array in found.items()}


class Builder:
    """Nodes of a graph, each with one output, named by the operator and a number as the tracer does."""

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.prefix = prefix

    def __call__(self, op: str, *inputs: str, outputs: tuple[str, ...] = (), **attributes: Any) -> str:
        outputs = outputs or (f"{self.prefix}{op.lower()}_{len(self.nodes)}",)
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), **attributes))
        return outputs[0]

    def constant(self, array: Any) -> str:
        name = f"{self.prefix}val_{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name


def level(b: Builder, x: str, factor: float) -> tuple[str, str, str]:
    """Return descriptors N×D, attention N and positions N×2 of one scale."""
    sizes = b.constant(np.array([1, 1, factor, factor], np.float32))
    x = b("Resize", x, "", sizes, mode="linear")
    x = b("Relu", b("Conv", x, "backbone.conv1.weight", strides=[2, 2], pads=[1, 1, 1, 1]))
    y = b("Relu", b("Conv", x, "backbone.layer1.0.conv1.weight", pads=[1, 1, 1, 1]))
    y = b("Conv", y, "backbone.layer1.0.conv2.weight", pads=[1, 1, 1, 1])
    x = b("Relu", b("Add", y, x))
    channels, rest = b.constant(np.array([1])), b.constant(np.array([-1]))
    attention = b("Sqrt", b("ReduceSum", b("Mul", x, x), channels, keepdims=0))
    descriptors = b("Conv", x, "dim_reduction.weight")
    rows = b("Transpose", b("Reshape", descriptors, b.constant(np.array([4, -1]))), perm=[1, 0])
    attention = b("Reshape", attention, rest)
    count = b("Cast", b("Squeeze", b("Shape", attention)), to=TensorProto.FLOAT)
    line = b("Range", b.constant(np.float32(0)), count, b.constant(np.float32(1)))
    line = b("Reshape", line, b.constant(np.array([-1, 1])))
    return rows, attention, b("Concat", line, line, axis=1)


def graph(values: Weights, *, factors: tuple[float, ...] = FACTORS, prefix: str = "") -> Any:
    """Return a network of two convolutions with a residual, a whitening and a selection, over three scales."""
    b = Builder(prefix)
    x = b("Transpose", b("Cast", "image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    x = b("Div", x, b.constant(np.float32(255)))
    levels = [level(b, x, factor) for factor in factors]
    rows, attention, positions = (b("Concat", *parts, axis=0) for parts in zip(*levels, strict=True))
    scales = [b("Mul", b("Add", parts[1], b.constant(np.float32(1))), b.constant(np.float32(0))) for parts in levels]
    scales = [b("Add", s, b.constant(np.float32(f))) for s, f in zip(scales, factors, strict=True)]
    one = b.constant(np.array([0]))
    b("TopK", attention, b.constant(np.array([K])), outputs=(f"{prefix}strongest", f"{prefix}index"))
    b("Unsqueeze", f"{prefix}strongest", one, outputs=("attention",))
    for name, value in (("descriptors", rows), ("positions", positions), ("scales", b("Concat", *scales, axis=0))):
        b("Unsqueeze", b("Gather", value, f"{prefix}index"), one, outputs=(name,))
    initialisers = [numpy_helper.from_array(array, name) for name, array in {**values, **b.constants}.items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "height", "width", 3])
    shapes = ([1, K, 4], [1, K], [1, K, 2], [1, K])
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(OUTPUT_NAMES, shapes, strict=True)
    ]
    made = helper.make_graph(b.nodes, "small", [image], outputs, initialisers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def in_fp16(model: Any, *, keep_name: bool) -> Any:
    """Return the graph with convolutions in fp16; the old name stays with their result, or with the cast one."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Conv":
            nodes.append(node)
            continue
        x, weight, y = node.input[0], node.input[1], node.output[0]
        low = f"{y}_low" if not keep_name else y
        high = y if not keep_name else f"{y}_high"
        changed = helper.make_node("Conv", [f"{y}_in", f"{y}_weight"], [low])
        changed.attribute.extend(node.attribute)
        nodes += [
            helper.make_node("Cast", [x], [f"{y}_in"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", [weight], [f"{y}_weight"], to=TensorProto.FLOAT16),
            changed,
            helper.make_node("Cast", [low], [high], to=TensorProto.FLOAT),
        ]
    renamed = {node.output[0]: f"{node.output[0]}_high" for node in model.graph.node if node.op_type == "Conv"}
    del half.graph.node[:]
    for node in nodes:
        if keep_name and node.op_type != "Cast":
            node.input[:] = [renamed.get(name, name) for name in node.input]
        elif keep_name and node.input[0] in renamed and not node.output[0].endswith("_high"):
            node.input[:] = [renamed[node.input[0]]]
        half.graph.node.append(node)
    onnx.checker.check_model(half, full_check=True)
    return half


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def make(model: Any, name: str = "b.onnx") -> Path:
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def reference(save: Save) -> Path:
    return save(graph(weights()), "a.onnx")


@pytest.fixture
def image() -> Any:
    return np.random.default_rng(1).integers(0, 256, (22, 30, 3), dtype=np.uint8)


def compare(a: Path, b: Path, image: Any, **config: Any) -> Diff:
    return compare_graphs(Side(path=a), Side(path=b), image, DiffConfig(threads=1, **config))


def perturbed(layer: str, amount: float = 0.2) -> Weights:
    values = weights()
    noise = np.random.default_rng(2).normal(size=values[f"{layer}.weight"].shape).astype(np.float32)
    values[f"{layer}.weight"] += amount * 0.3 * noise
    return values


def test_layers_and_scales(reference: Path) -> None:
    found = Graph(reference)
    assert found.scales == len(FACTORS)
    assert found.precision == "fp32"
    assert found.selects
    layers = [(tensor.op, tensor.layer, tensor.scale) for tensor in found.tensors.values()]
    for scale in range(len(FACTORS)):
        assert ("Resize", "input", scale) in layers
        for name in SHAPES:
            assert ("Conv", name, scale) in layers
        assert ("Add", "backbone.layer1.0.conv2", scale) in layers
        assert ("Sqrt", "backbone.layer1.0.conv2", scale) in layers
        assert ("Range", SIZES, scale) in layers
    assert ("Div", "input", None) in layers
    assert ("Concat", SELECTION, None) in layers
    assert not {"Gather", "TopK", "Unsqueeze"} & {op for op, _, _ in layers}, "rows after the selection may be permuted"


def test_identical_files(reference: Path, save: Save, image: Any) -> None:
    found = compare(reference, save(graph(weights())), image)
    assert not found.diverged
    assert found.first is None
    assert found.jump is None
    assert found.verdict() == ""
    assert {layer.error for layer in found.layers} == {0.0}
    assert found.outputs is not None
    assert (found.outputs.overlap, found.outputs.descriptors) == (1.0, K)
    assert found.outputs_error < 1e-6


@pytest.mark.parametrize("layer", SHAPES)
def test_a_changed_weight_is_found(reference: Path, save: Save, image: Any, layer: str) -> None:
    found = compare(reference, save(graph(perturbed(layer))), image)
    assert found.first is not None
    assert (found.first.tensor.layer, found.first.tensor.op, found.first.tensor.scale) == (layer, "Conv", 0)
    before = found.layers[: found.layers.index(found.first)]
    assert all(value.error == 0 for value in before)
    assert found.jump is not None
    assert (found.jump.tensor.layer, found.jump.tensor.op) == (layer, "Conv")
    assert found.jump.added == found.jump.error
    assert f"diverge first at {layer} (Conv {found.first.tensor.name}, scale #1)" in found.verdict()


@pytest.mark.parametrize("keep_name", [True, False])
@pytest.mark.parametrize("layer", [None, "backbone.layer1.0.conv1", "dim_reduction"])
def test_a_changed_weight_in_fp16(reference: Path, save: Save, image: Any, layer: str | None, keep_name: bool) -> None:
    """Rounding of fp16 stays below its tolerance; the changed layer is found by name, wherever the casts took it."""
    values = weights() if layer is None else perturbed(layer)
    found = compare(reference, save(in_fp16(graph(values), keep_name=keep_name)), image)
    assert found.tolerance == 0.05
    convolutions = [value for value in found.layers if value.tensor.op == "Conv"]
    assert len(convolutions) == len(SHAPES) * len(FACTORS)
    assert 1e-5 < convolutions[0].error < 2e-3
    if layer is None:
        assert not found.diverged
    else:
        assert found.first is not None
        assert (found.first.tensor.layer, found.first.tensor.op) == (layer, "Conv")


def test_quantised(reference: Path, save: Save, image: Any) -> None:
    """Weights behind DequantizeLinear keep their layer's name, activations between Q and DQ theirs."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = iter([{"image": image[None]}])

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self.images, None)

    path = reference.with_name("int8.onnx")
    kinds = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "quant_format": QuantFormat.QDQ}
    quantize_static(reference, path, Reader(), op_types_to_quantize=["Conv"], per_channel=True, **kinds)
    found = compare(reference, path, image)
    assert found.tolerance == 0.7
    assert not found.diverged
    assert not found.only_a
    convolutions = [value for value in found.layers if value.tensor.op == "Conv"]
    assert len(convolutions) == len(SHAPES) * len(FACTORS)
    assert all(0.001 < value.error < 0.2 for value in convolutions)


def test_other_names(reference: Path, save: Save, image: Any) -> None:
    """A graph made by another tool has other value names: layers are matched by their weights and their order."""
    found = compare(reference, save(graph(perturbed("backbone.layer1.0.conv2"), prefix="other_")), image)
    assert found.first is not None
    assert found.first.tensor.layer == "backbone.layer1.0.conv2"


def test_another_scale_is_no_match_by_name(reference: Path, save: Save, image: Any) -> None:
    """With a scale less, values of one name are of different sizes: the shapes are the divergence."""
    found = compare(reference, save(graph(weights(), factors=(1.5, 0.7, 0.5))), image)
    assert found.first is not None
    assert (found.first.tensor.op, found.first.tensor.scale) == ("Resize", 1)
    assert found.first.shapes == ((1, 3, 22, 30), (1, 3, 15, 21))
    assert "1×3×22×30 against 1×3×15×21" in found.verdict()
    assert "shape*" in "\n".join(diff_lines(found))


def test_not_finite(reference: Path, save: Save, image: Any) -> None:
    values = weights()
    values["backbone.layer1.0.conv2.weight"][3, 2, 1, 1] = np.nan
    found = compare(reference, save(graph(values)), image)
    assert found.first is not None
    assert found.first.tensor.layer == "backbone.layer1.0.conv2"
    assert found.first.distance.nonfinite[0] == 0
    assert found.first.distance.nonfinite[1] > 0
    assert "values are not finite" in found.verdict()
    json.dumps(found.metadata(), allow_nan=False)
    assert "infinite*" in "\n".join(diff_lines(found))


def test_layers_agree_but_not_the_outputs(reference: Path, save: Save, image: Any) -> None:
    """A fault in the selection, here the weakest positions, shows in the outputs alone."""
    model = graph(weights())
    (node,) = (node for node in model.graph.node if node.op_type == "TopK")
    node.attribute.append(helper.make_attribute("largest", 0))
    found = compare(reference, save(model), image)
    assert found.first is None
    assert found.diverged
    assert "agree in every layer" in found.verdict()


def test_positions_are_exact_in_every_precision(reference: Path, save: Save, image: Any) -> None:
    model = graph(weights())
    for value in model.graph.initializer:
        if value.name in {node.input[2] for node in model.graph.node if node.op_type == "Range"}:
            value.CopyFrom(numpy_helper.from_array(np.float32(1.002), value.name))
    found = compare(reference, save(model), image, tolerance=0.5)
    assert found.first is not None
    assert (found.first.tensor.layer, found.first.tensor.op) == (SIZES, "Range")


def test_nothing_in_common(reference: Path, save: Save, image: Any) -> None:
    model = graph(weights())
    for node in model.graph.node:
        node.input[:] = [name.replace("backbone", "trunk").replace("dim_r", "r") for name in node.input]
    for value in model.graph.initializer:
        value.name = value.name.replace("backbone", "trunk").replace("dim_r", "r")
    with pytest.raises(ConfigError, match="no layer in common"):
        compare(reference, save(model), image)


def test_layers_that_only_one_has(reference: Path, save: Save, image: Any) -> None:
    model = graph(weights())
    for holder in (model.graph.initializer, *(node.input for node in model.graph.node)):
        for i, value in enumerate(holder):
            if isinstance(value, str) and value == "dim_reduction.weight":
                holder[i] = "whitening.weight"
            elif not isinstance(value, str) and value.name == "dim_reduction.weight":
                value.name = "whitening.weight"
    found = compare(reference, save(model), image)
    assert found.only_a == ("dim_reduction",)
    assert "only in A: dim_reduction" in diff_lines(found)


def test_budget(reference: Path, save: Save, image: Any) -> None:
    """One value at a time gives the same figures as all at once."""
    path = save(graph(perturbed("backbone.conv1", 0.01)))
    steps: list[str] = []
    sides = Side(path=reference), Side(path=path)
    few = compare_graphs(*sides, image, DiffConfig(budget=1, threads=1), steps.append)
    many = compare_graphs(*sides, image, DiffConfig(threads=1))
    assert f"run {len(few.layers)} of {len(few.layers)}" in steps[-2]
    assert [(v.tensor, v.shapes) for v in few.layers] == [(v.tensor, v.shapes) for v in many.layers]
    np.testing.assert_allclose([v.error for v in few.layers], [v.error for v in many.layers], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 300), (299, 403)])
def test_sizes_of_values(reference: Path, shape: tuple[int, int]) -> None:
    """Sizes on a large image follow from those on two small ones; what they decide is how much is held at a time."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    runner = Runner(Side(path=reference), Graph(reference), 1)
    names = list(runner.graph.tensors)
    sizes = [value.size * 4 for value in runner.values(names, image)]
    np.testing.assert_allclose(runner.sizes(names, image), sizes, rtol=0.15, atol=16)


@given(
    a=hnp.arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32)),
    b=hnp.arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32)),
)
def test_distance_is_that_of_plain_loops(a: Any, b: Any) -> None:
    x, y = [float(v) for v in a.flat], [float(v) for v in b.flat]
    squares, others = sum(v * v for v in x), sum(v * v for v in y)
    error = sum((p - q) ** 2 for p, q in zip(x, y, strict=True))
    found = distance(a, b)
    assert found.max_abs == max(abs(p - q) for p, q in zip(x, y, strict=True))
    if squares > 0:
        assert found.error == pytest.approx((error / squares) ** 0.5, rel=1e-9)
    else:
        assert found.error == (np.inf if error > 0 else 0)
    if squares > 0 and others > 0:
        products = sum(p * q for p, q in zip(x, y, strict=True))
        assert found.cosine == pytest.approx(products / (squares * others) ** 0.5, rel=1e-9, abs=1e-9)


def test_distance_of_blocks_and_of_what_is_not_finite() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(1 << 20) + 17).astype(np.float32)
    b = a + rng.normal(size=a.shape).astype(np.float32) * 0.01
    expected = np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(a.astype(np.float64))
    assert distance(a, b).error == pytest.approx(expected, rel=1e-12)
    a[[0, 5]], b[[0, 5]] = np.inf, np.inf
    assert distance(a, b).error == pytest.approx(expected, rel=1e-3), "both infinite at the same place: no difference"
    assert distance(a, b).nonfinite == (2, 2)
    b[5] = -np.inf
    assert distance(a, b).error == np.inf
    assert distance(a[:5], b[:6]).error == np.inf


def test_openvino_against_onnxruntime(reference: Path, image: Any) -> None:
    pytest.importorskip("openvino")
    found = compare_graphs(Side(path=reference), Side(path=reference, engine="openvino"), image, DiffConfig(threads=1))
    assert not found.diverged
    assert max(layer.error for layer in found.layers) < 1e-5
    assert any(layer.error > 0 for layer in found.layers), "they are two engines"


@pytest.mark.slow
def test_real_graph(small_graph: Any, samples: Mapping[str, Any], save: Save) -> None:
    """The graph with local functions: both engines agree in every layer, and a changed weight is found."""
    pytest.importorskip("openvino")
    path, photo = save(small_graph, "real.onnx"), samples["coffee"][:120, :150]
    sides = Side(path=path), Side(path=path, engine="openvino")
    found = compare_graphs(*sides, photo, DiffConfig(threads=2))
    assert not found.diverged
    assert max(layer.error for layer in found.layers) < 1e-4
    assert {"refinement.blocks.0", "refinement.blocks.1", "smoothing.predict", "backbone.layer4.1.conv2"} <= {
        layer.tensor.layer for layer in found.layers
    }
    changed = onnx.ModelProto()
    changed.CopyFrom(small_graph)
    for value in changed.graph.initializer:
        if value.name == "refinement.blocks.1.weight":
            value.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(value) * 1.1, value.name))
    found = compare_graphs(sides[0], Side(path=save(changed)), photo, DiffConfig(threads=2))
    assert found.first is not None
    assert (found.first.tensor.layer, found.first.tensor.op) == ("refinement.blocks.1", "MatMul")


def test_a_graph_that_does_not_run(reference: Path, save: Save, image: Any) -> None:
    model = graph(weights())
    for value in model.graph.initializer:
        if value.name == "dim_reduction.weight":
            value.CopyFrom(numpy_helper.from_array(np.zeros((4, 9, 1, 1), np.float32), value.name))
    with pytest.raises((BackendError, ConfigError), match=r"b\.onnx"):
        compare(reference, save(model), image)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x00" * 100])
def test_no_graph(reference: Path, tmp_path: Path, image: Any, content: bytes) -> None:
    (tmp_path / "b.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=r"b\.onnx"):
        compare(reference, tmp_path / "b.onnx", image)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tolerance": 0.0}, "--tolerance"),
        ({"tolerance": float("nan")}, "--tolerance"),
        ({"threads": 0}, "--threads"),
        ({"budget": 0}, "budget"),
    ],
)
def test_configuration_is_checked(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DiffConfig(**settings)


def test_sides(reference: Path, tmp_path: Path) -> None:
    """What the command line's A and B mean."""
    folder = tmp_path / "net:one.ctxbundle"
    folder.mkdir()
    for name in ("model.onnx", "model.int8.onnx"):
        (folder / name).write_bytes(reference.read_bytes())
    files = {"sha256": file_sha256(reference), "bytes": reference.stat().st_size, "format": "onnx"}
    fp32 = Artefact(file="model.onnx", precision="fp32", target="onnxruntime", **files)
    bundle = Bundle(
        path=folder,
        network={"family": "how"},
        source={"weights_sha256": "0" * 64},
        preprocessing=Preprocessing(image_size=640),
        extraction=Extraction(scales=FACTORS, top_k=K, dim=4),
        shapes=ShapeRange(),
        artefacts=(
            fp32,
            replace(fp32, target="openvino", precision="bf16"),
            replace(fp32, file="model.int8.onnx", precision="int8"),
        ),
    )
    bundle.write_manifest()
    plain = side(str(folder))
    assert (plain.path, plain.engine, plain.hint) == (folder / "model.onnx", "onnxruntime", "fp32")
    assert (plain.scales, plain.image_size) == (FACTORS, 640)
    assert side(f"{folder}:int8").path.name == "model.int8.onnx"
    bf16 = side(f"{folder}:bf16")
    assert (bf16.path.name, bf16.engine, bf16.hint) == ("model.onnx", "openvino", "bf16")
    assert (side(str(folder), "openvino").hint, side(str(folder), "openvino", "bf16").hint) == ("fp32", "bf16")
    assert side(f"{folder}:int8", "openvino").hint == "fp32"
    assert side(str(reference)).path == reference
    for text, error, words in (
        (f"{folder}:fp16", BundleError, "fp16, only bf16, fp32, int8"),
        (f"{folder}:fp13", ConfigError, "fp13"),
        (str(tmp_path / "nothing"), ConfigError, "does not exist"),
        (str(tmp_path), BundleError, "not a bundle"),
    ):
        with pytest.raises(error, match=words):
            side(text)
    with pytest.raises(ConfigError, match="openvino"):
        side(str(folder), "onnxruntime", "bf16")
    with pytest.raises(ConfigError, match="tensorrt"):
        Side(path=reference, engine="tensorrt")
