"""The int8 file: its form, its answers in two runtimes, and the search for what stays fp32."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core.bundle import INPUT_NAME, OUTPUT_NAMES, Extraction
from ctxdeploy.core.errors import ConfigError, ParityError
from ctxdeploy.export.graph import build_graph
from ctxdeploy.export.int8 import Int8Config
from ctxdeploy.export.int8.calibration import Ranges, calibrate
from ctxdeploy.export.int8.layers import find_trunk
from ctxdeploy.export.int8.qdq import quantise
from ctxdeploy.export.int8.search import search
from ctxdeploy.export.parity import torch_runner
from ctxdeploy.export.parity.parity import compare_photo

Image = NDArray[np.uint8]
Session = Callable[[Any], Callable[[Image], Any]]
FIRST = "backbone.conv1"


@pytest.fixture(scope="module")
def ranges(small_graph: Any, samples: Mapping[str, Image]) -> Ranges:
    return calibrate(small_graph, samples)


@pytest.fixture(scope="module")
def int8_graph(small_graph: Any, ranges: Ranges) -> Any:
    return quantise(small_graph, ranges, keep=[FIRST])


def array(proto: Any, name: str) -> NDArray[Any]:
    from onnx import numpy_helper

    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == name]
    return np.asarray(numpy_helper.to_array(tensor))


def cosine(samples: Mapping[str, Image], wanted: Callable[[Image], Any], given: Callable[[Image], Any]) -> float:
    """Return the mean cosine over all descriptors of all photos."""
    figures = [compare_photo(n, p, wanted(p[None]), given(p[None])).cosine_mean for n, p in samples.items()]
    return float(np.mean(figures))


def test_symmetric_int8_only_and_per_channel(int8_graph: Any) -> None:
    import onnx

    onnx.checker.check_model(int8_graph, full_check=True)
    initializers = {tensor.name: tensor for tensor in int8_graph.graph.initializer}
    pairs = [node for node in int8_graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {node.op_type for node in pairs} == {"QuantizeLinear", "DequantizeLinear"}
    for node in pairs:
        assert initializers[node.input[2]].data_type == onnx.TensorProto.INT8
        assert not array(int8_graph, node.input[2]).any()
        assert (array(int8_graph, node.input[1]) > 0).all()
    types = {tensor.data_type for tensor in int8_graph.graph.initializer}
    assert onnx.TensorProto.UINT8 not in types
    weight = array(int8_graph, "backbone.layer1.0.conv1.weight.int8")
    assert weight.dtype == np.int8 and weight.shape == (32, 32, 3, 3)
    # Every channel uses its whole range, and -128 is left out.
    assert (np.abs(weight.reshape(32, -1).astype(int)).max(axis=1) == 127).all()
    assert array(int8_graph, "backbone.layer1.0.conv1.weight.scale").shape == (32,)


def test_one_copy_of_weights_and_scales_for_all_image_scales(small_graph: Any, int8_graph: Any) -> None:
    weights = [name for name in tuple(find_trunk(small_graph).layers) if name != FIRST]
    names = [tensor.name for tensor in int8_graph.graph.initializer]
    assert len(names) == len(set(names))
    assert [name for name in names if name.endswith(".weight.int8")] == [f"{name}.weight.int8" for name in weights]
    # The trunk shrinks to a quarter, the rest (0.6 million numbers of the graph refinement) stays.
    trunk = sum(array(small_graph, f"{name}.weight").nbytes for name in weights)
    assert small_graph.ByteSize() - int8_graph.ByteSize() == pytest.approx(0.75 * trunk, rel=0.01)
    scales = {n.input[1] for n in int8_graph.graph.node if n.op_type == "QuantizeLinear"}
    quantised = [n for n in int8_graph.graph.node if n.op_type == "QuantizeLinear"]
    assert len(quantised) == 2 * len(scales)  # two image scales
    assert all(names.count(scale) == 1 for scale in scales)


def test_only_the_trunk_changes(small_graph: Any, int8_graph: Any) -> None:
    trunk = find_trunk(small_graph)

    def others(proto: Any) -> list[bytes]:
        nodes = [n for n in proto.graph.node if n.output[0] not in trunk.places and "Linear" not in n.op_type]
        return [node.SerializeToString() for node in nodes]

    assert others(small_graph) == others(int8_graph)
    assert [f.SerializeToString() for f in small_graph.functions] == [
        f.SerializeToString() for f in int8_graph.functions
    ]


def test_places_and_layers_have_the_networks_names(small_graph: Any) -> None:
    trunk = find_trunk(small_graph)
    assert list(trunk.layers)[:3] == [FIRST, "backbone.layer1.0.conv1", "backbone.layer1.0.conv2"]
    assert len(trunk.layers) == 20
    assert {len(nodes) for nodes in trunk.layers.values()} == {2}
    assert trunk.ends == ["backbone.layer4.1.conv2/sum/relu"]
    assert {"image", "backbone.conv1/relu/pool", "backbone.layer2.0.downsample.0"} <= set(trunk.observed())
    assert "backbone.layer1.0.conv1" not in trunk.observed()


def test_ranges_hold_what_was_seen(small_graph: Any, samples: Mapping[str, Image]) -> None:
    ranges = calibrate(small_graph, samples, Int8Config(max_photos=3))
    assert len(ranges.photos) == 3
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    pixels = np.concatenate([(samples[name] / 255 - mean).reshape(-1, 3) / std for name in ranges.photos])
    # Bilinear scaling makes no value beyond those of the photo.
    assert ranges.largest["image"] <= np.abs(pixels).max() + 1e-5
    assert ranges.largest["image"] >= 0.9 * np.abs(pixels).max()
    assert all(ranges.limits[place] <= largest for place, largest in ranges.largest.items())


def test_clipping_limit_has_the_least_squared_error(rng: np.random.Generator) -> None:
    from ctxdeploy.export.int8.calibration import _limit

    values = rng.standard_normal(200_000).astype(np.float32)
    values[0] = 40.0
    limit = _limit(values, 40.0)

    def error(limit: float) -> float:
        step = limit / 127
        return float(((np.clip(np.rint(values / step), -127, 127) * step - values) ** 2).mean())

    assert error(limit) <= 1.01 * min(error(40 * share) for share in np.linspace(0.05, 1, 200))
    assert limit < 20
    assert _limit(np.zeros(9, np.float32), 0.0) == 1.0
    with pytest.raises(ConfigError, match="reaches inf on a photo"):
        _limit(values, float("inf"))
    with pytest.raises(ConfigError, match="reaches nan on a photo"):
        _limit(values, float("nan"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_onnxruntime_and_openvino_agree(
    small_graph: Any, int8_graph: Any, samples: Mapping[str, Image], session_of: Session, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    import onnx

    from ctxdeploy.runtime.backends.unsigned import with_unsigned

    openvino = openvino_session(int8_graph, tmp_path)
    unsigned = onnx.load_from_string(with_unsigned(tmp_path / "model.onnx"))
    reference, ort = session_of(small_graph), session_of(unsigned)
    photos = {name: samples[name] for name in ("coffee", "rocket", "astronaut")}
    # OpenVINO adds to a sum before it rounds, ONNX Runtime after; both are as near to fp32.
    assert cosine(photos, ort, openvino) > 0.98
    assert cosine(photos, reference, ort) > 0.96
    assert cosine(photos, reference, openvino) > 0.96


def openvino_session(proto: Any, folder: Path) -> Callable[[Image], Any]:
    import openvino

    from ctxdeploy.runtime.backends.openvino import inlined

    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    core = openvino.Core()
    model = core.read_model(inlined(folder / "model.onnx"))
    request = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()

    def run(images: Image) -> Any:
        request.infer({INPUT_NAME: images})
        return [np.array(request.get_tensor(name).data) for name in OUTPUT_NAMES]

    return run


def test_openvino_gets_a_bias_for_every_convolution(int8_graph: Any, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    import onnx

    from ctxdeploy.runtime.backends.openvino import inlined

    (tmp_path / "model.onnx").write_bytes(int8_graph.SerializeToString())
    content = inlined(tmp_path / "model.onnx")
    model = onnx.load_from_string(content)
    biases = [n.input[2] for n in model.graph.node if n.op_type == "Conv" and len(n.input) == 3]
    assert len(biases) == len(set(biases)) >= 2 * 21
    for name in ("backbone.layer1.0.conv1.bias", "dim_reduction.bias"):
        np.testing.assert_array_equal(array(model, f"{name}.2"), array(int8_graph, name))
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    layers = [
        {key: str(value.astype(str)) for key, value in layer.get_rt_info().items() if key != "originalLayersNames"}
        for layer in compiled.get_runtime_model().get_ops()
    ]
    # Whatever vectors the CPU has, the trunk but for its first convolution is int8, at two scales.
    convolutions = [layer for layer in layers if layer["layerType"] == "Convolution"]
    assert sum(layer["runtimePrecision"] in ("i8", "u8") for layer in convolutions) == 2 * 19


def test_unsigned_form(
    small_graph: Any, int8_graph: Any, samples: Mapping[str, Image], session_of: Session, tmp_path: Path
) -> None:
    import onnx

    from ctxdeploy.runtime.backends.unsigned import with_unsigned

    path = tmp_path / "model.onnx"
    path.write_bytes(int8_graph.SerializeToString())
    unsigned = onnx.load_from_string(with_unsigned(path))
    zeros = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in unsigned.graph.initializer}
    producers = {tensor: node for node in unsigned.graph.node for tensor in node.output}
    for node in unsigned.graph.node:
        if node.op_type == "QuantizeLinear":
            positive = producers[node.input[0]].op_type in ("Relu", "MaxPool")
            assert zeros[node.input[2]].dtype == np.uint8 and zeros[node.input[2]] == (0 if positive else 128)
    photos = {name: samples[name] for name in ("coffee", "rocket")}
    assert cosine(photos, session_of(int8_graph), session_of(unsigned)) > 0.99
    # A graph without int8 stays as it is, byte for byte.
    path.write_bytes(small_graph.SerializeToString())
    assert with_unsigned(path) == path.read_bytes()


def two_layers(reach: float, limit: float) -> Any:
    """Return photo → 1×1 convolution → Clip(0, limit) → 1×1 convolution, int8 around the Clip reaching ``reach``."""
    from onnx import TensorProto, helper, numpy_helper

    values = {
        "w": np.arange(-6, 6, dtype=np.float32).reshape(4, 3, 1, 1),
        "v": np.ones((2, 4, 1, 1), np.float32) / 4,
        "low": np.float32(0),
        "high": np.float32(limit),
        "scale": np.float32(reach / 127),
        "zero": np.int8(0),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("QuantizeLinear", ["b", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Conv", ["d", "v"], ["y"]),
    ]
    shapes = {"x": [1, 3, 40, 40], "y": [1, 2, 40, 40]}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "two", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("reach", "limit"), [(6.0, 6.0), (2.5, 6.0), (9.0, 6.0)])
def test_unsigned_form_is_a_relu6_with_half_the_error(reach: float, limit: float) -> None:
    import onnx
    import onnxruntime

    from ctxdeploy.runtime.backends.unsigned import rewrite

    signed = two_layers(reach, limit)
    unsigned = onnx.ModelProto()
    unsigned.CopyFrom(signed)
    assert rewrite(unsigned.graph)
    onnx.checker.check_model(unsigned, full_check=True)
    assert [node.op_type for node in unsigned.graph.node] == ["Conv", "QuantizeLinear", "DequantizeLinear", "Conv"]
    assert "low" not in {tensor.name for tensor in unsigned.graph.initializer}
    x = np.random.default_rng(3).uniform(-1, 1, (1, 3, 40, 40)).astype(np.float32)
    first, second = array(signed, "w")[:, :, 0, 0], array(signed, "v")[:, :, 0, 0]
    inside = np.clip(np.einsum("oc,bchw->bohw", first.astype(float), x.astype(float)), 0, min(reach, limit))
    wanted = np.einsum("oc,bchw->bohw", second.astype(float), inside)
    errors = []
    for proto in (signed, unsigned):
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        errors.append(float(np.square(session.run(None, {"x": x})[0] - wanted).mean()) ** 0.5)
    step = min(reach, limit) / 255
    assert errors[1] < step / 12**0.5 * 0.6, "the mean of four rounding errors is half of one"
    assert errors[1] < 0.6 * errors[0]


def test_other_clips_keep_their_limits() -> None:
    from onnx import numpy_helper

    from ctxdeploy.runtime.backends.unsigned import rewrite

    proto = two_layers(6.0, 6.0)
    (low,) = [tensor for tensor in proto.graph.initializer if tensor.name == "low"]
    low.CopyFrom(numpy_helper.from_array(np.float32(-1), "low"))
    assert rewrite(proto.graph)
    assert [node.op_type for node in proto.graph.node][1] == "Clip"
    (quantise_node,) = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    assert array(proto, quantise_node.input[2]) == 128 and array(proto, quantise_node.input[1]) == np.float32(6 / 127)


def test_batch_equals_single_and_tiny_images_run(
    int8_graph: Any, samples: Mapping[str, Image], session_of: Session
) -> None:
    run = session_of(int8_graph)
    pair = np.stack([samples["coffee"][:120, :100], samples["rocket"][:120, :100]])
    together = run(pair)
    for row in range(2):
        both = tuple(outputs[row : row + 1] for outputs in together)
        figures = compare_photo(f"row {row}", pair[row], run(pair[row : row + 1]), both)
        assert figures.overlap == 1 and figures.cosine_min > 0.99999 and figures.attention_error < 1e-5
    for shape in ((1, 1, 1, 3), (2, 1, 40, 3), (1, 33, 1, 3)):
        descriptors, attention, _, _ = run(np.full(shape, 200, np.uint8))
        assert np.isfinite(descriptors).all() and (attention.max(axis=1) == 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (64, 48)])
def test_calibration_with_one_photo(
    small_graph: Any, samples: Mapping[str, Image], session_of: Session, shape: tuple[int, int]
) -> None:
    photo = samples["coffee"][: shape[0], : shape[1]]
    run = session_of(quantise(small_graph, calibrate(small_graph, {"one": photo})))
    assert np.isfinite(run(samples["rocket"][None])[0]).all()


def test_messages(small_graph: Any, ranges: Ranges, samples: Mapping[str, Image]) -> None:
    with pytest.raises(ConfigError, match=r"no photo to calibrate with: give a folder of photos with --calibrate"):
        calibrate(small_graph, {})
    with pytest.raises(ConfigError, match=r"has no convolution layer9, only backbone\.conv1, "):
        quantise(small_graph, ranges, keep=["layer9"])
    with pytest.raises(ConfigError, match="--calibration-photos is 0: give 1 or more"):
        Int8Config(max_photos=0)
    with pytest.raises(ConfigError, match=r"max_kept is 1\.5: give a share"):
        Int8Config(max_kept=1.5)
    foreign = Ranges(limits={"image": 1.0}, largest={"image": 1.0}, photos=("a",))
    with pytest.raises(ConfigError, match=r"the ranges lack backbone.*: calibrate this network"):
        quantise(small_graph, foreign)


@pytest.fixture(scope="module")
def sensitive(config_of: Callable[..., Any], samples: Mapping[str, Image]) -> tuple[Any, Any]:
    """Return a network whose ``layer2.0.conv2`` reads one channel 300 times as large as the others, and its graph."""
    import torch

    from ctxdeploy.export import untrained_network

    network = untrained_network(
        config_of("how", dim=32), Extraction(scales=(1.0,), top_k=40, dim=32), [*samples.values()]
    )
    block = network.backbone.get_submodule("layer2.0")
    with torch.no_grad():
        block.bn1.weight[3] *= 300
        block.bn1.bias[3] *= 300
        block.conv2.weight[:, 3] /= 300
    return network, build_graph(network)


@pytest.mark.slow
def test_search_keeps_the_sensitive_convolution(
    sensitive: tuple[Any, Any], samples: Mapping[str, Image], session_of: Session
) -> None:
    network, graph = sensitive
    reference = torch_runner(network)
    photos = {name: samples[name] for name in ("coffee", "rocket", "astronaut", "chelsea")}
    reached: list[float] = []

    def check(proto: Any) -> str:
        reached.append(cosine(photos, reference, session_of(proto)))
        return "" if reached[-1] > 0.95 else f"cosine {reached[-1]:.3f}, but 0.95 is needed"

    proto, details = search(graph, samples, check, Int8Config(source="photos of a test"))
    assert reached[0] < 0.95
    noise = details["noise"]
    assert max(noise, key=lambda name: noise[name]) == "backbone.layer2.0.conv2"
    assert details["kept_fp32"] == ["backbone.layer2.0.conv2"]
    assert array(proto, "backbone.layer2.0.conv2.weight").dtype == np.float32
    assert details["attempts"][-1] == {"kept": 1, "refused": ""}
    assert details["calibration"]["source"] == "photos of a test"
    assert details["calibration"]["photos"] == len(samples)
    assert json.loads(json.dumps(details)) == details


@pytest.mark.parametrize("needed", [1, 2, 3, 6, 7])
def test_search_finds_the_fewest(needed: int) -> None:
    from ctxdeploy.export.int8.search import _fewest

    tried: list[int] = []

    def attempt(kept: list[str]) -> str | None:
        tried.append(len(kept))
        return "accepted " + "".join(kept) if len(kept) >= needed else None

    assert _fewest(attempt, list("abcdefghij"), 0, 7) == (needed, "accepted " + "abcdefghij"[:needed])
    assert len(tried) == len(set(tried)) and max(tried) <= 7


@pytest.mark.slow
def test_search_gives_up(sensitive: tuple[Any, Any], samples: Mapping[str, Image]) -> None:
    attempts: list[int] = []

    def check(proto: Any) -> str:
        attempts.append(sum(tensor.name.endswith(".weight.int8") for tensor in proto.graph.initializer))
        return "cosine 0.9, but 0.95 is needed"

    message = (
        r"int8 misses its tolerance even with 4 of 20 convolutions in fp32 \(cosine 0\.9, but 0\.95 is needed\): "
        "calibrate on photos of your own archive with --calibrate, or give --precision bf16"
    )
    with pytest.raises(ParityError, match=message):
        search(sensitive[1], {"coffee": samples["coffee"]}, check, Int8Config(max_kept=0.2))
    assert attempts == [20, 19, 17, 16]


def test_search_begins_with_what_it_is_told_to_keep(sensitive: tuple[Any, Any], samples: Mapping[str, Image]) -> None:
    photos = {"coffee": samples["coffee"]}
    _, details = search(sensitive[1], photos, lambda proto: "", Int8Config(keep=frozenset({FIRST})))
    assert details["kept_fp32"] == [FIRST] and details["noise"] == {}
