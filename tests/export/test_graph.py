"""The exported graph: its form, and the same answers as PyTorch in every way of running it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

from ctxdeploy.core.bundle import INPUT_NAME, OUTPUT_NAMES, Extraction
from ctxdeploy.core.types import Precision
from ctxdeploy.export.graph import build_graph, save_graph
from ctxdeploy.export.graph.mixed import to_mixed
from ctxdeploy.export.graph.tracing import OPSET
from ctxdeploy.export.networks import NetworkConfig
from ctxdeploy.export.networks.operators import DOMAIN
from ctxdeploy.export.parity import TOLERANCES, Parity, ParityPhotos, ParityRun, torch_runner
from ctxdeploy.runtime.backends.openvino import inlined

Image = NDArray[np.uint8]


def compare(photos: Mapping[str, Image], network: Any, candidate: Any) -> Parity:
    """Return the figures of a graph against its network in PyTorch."""
    trial = ParityRun(ParityPhotos(parity=photos, retrieval={}), torch_runner(network))
    return trial.compare(candidate, TOLERANCES[Precision.FP32], measured_with="the graph")


def spread(network: Any, photos: Mapping[str, Image]) -> float:
    """Return the mean cosine between descriptors: near 1, every graph would agree with every other."""
    vectors = []
    for photo in list(photos.values())[:2]:
        descriptors, attention, _, _ = torch_runner(network)(photo[None])
        vectors.append(descriptors[0][attention[0] > 0])
    rows = np.concatenate(vectors)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return float(np.abs((rows @ rows.T).mean()))


def test_interface_is_the_contract(small_graph: Any) -> None:
    def shape(value: Any) -> list[Any]:
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    inputs, outputs = small_graph.graph.input, small_graph.graph.output
    assert [(i.name, shape(i)) for i in inputs] == [(INPUT_NAME, ["batch", "height", "width", 3])]
    assert [o.name for o in outputs] == list(OUTPUT_NAMES)
    assert [shape(o) for o in outputs] == [["batch", 60, 64], ["batch", 60], ["batch", 60, 2], ["batch", 60]]


def test_functions_have_the_opset_of_the_model_and_no_operators_name(small_graph: Any) -> None:
    import onnx

    opsets = {opset.domain: opset.version for opset in small_graph.opset_import}
    assert opsets == {"": OPSET, DOMAIN: 1}
    assert [(f.domain, f.name) for f in small_graph.functions] == [
        (DOMAIN, "GaussianSmoothing"),
        (DOMAIN, "GraphConvolution2"),
        (DOMAIN, "GraphConvolution1"),
    ]
    standard = {schema.name for schema in onnx.defs.get_all_schemas()}
    for function in small_graph.functions:
        assert function.name not in standard
        assert {opset.domain: opset.version for opset in function.opset_import} == {"": OPSET}
        assert {node.domain for node in function.node} == {""}
    onnx.checker.check_model(small_graph, full_check=True)


def test_nodes_say_what_a_kernel_needs(small_graph: Any) -> None:
    import onnx

    nodes = [node for node in small_graph.graph.node if node.domain == DOMAIN]
    found = [(n.op_type, {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}) for n in nodes]
    smoothing = ("GaussianSmoothing", {"kernel_size": 3})
    attributes = {"edges": b"threshold", "neighbours": 16}
    # Per scale two blocks of refinement, each in as many blocks of rows as its scale needs, then the smoothing.
    larger, smaller = (("GraphConvolution2", attributes), ("GraphConvolution1", attributes))
    assert found == [larger, larger, smoothing, smaller, smaller, smoothing]
    assert [len(n.input) for n in nodes] == [3] * 6


def test_no_batch_norm_no_traces_of_the_exporter(small_graph: Any) -> None:
    types = {node.op_type for node in small_graph.graph.node}
    assert "BatchNormalization" not in types
    assert not small_graph.graph.value_info
    assert not any(node.metadata_props for node in small_graph.graph.node)
    assert str(Path.home()) not in str(small_graph.graph.node)


def test_weights_are_stored_once(small_network: Any, small_graph: Any, tmp_path: Path) -> None:
    save_graph(small_graph, tmp_path / "model.onnx")
    parameters = sum(4 * p.numel() for p in small_network.parameters())
    assert parameters < (tmp_path / "model.onnx").stat().st_size < 1.15 * parameters
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.slow
def test_the_network_is_left_as_it_was(config_of: Callable[..., NetworkConfig], network_of: Any) -> None:
    network = network_of(config_of("how", dim=8), Extraction(scales=(1.0,), top_k=20, dim=8))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    build_graph(network)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_inlined_graph_is_bit_identical_and_plain(
    small_graph: Any, session_of: Any, samples: Mapping[str, Image]
) -> None:
    import onnx.inliner

    plain = onnx.inliner.inline_local_functions(small_graph)
    assert not plain.functions
    assert {node.domain for node in plain.graph.node} == {""}
    with_functions, without = session_of(small_graph), session_of(plain)
    for photo in (samples["coffee"], samples["rocket"][:77, :50], samples["page"][:1, :1]):
        for a, b in zip(with_functions(photo[None]), without(photo[None]), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_nothing_of_the_machine_that_exported_it_is_in_the_graph(small_graph: Any) -> None:
    assert small_graph.functions
    for nodes in (small_graph.graph.node, *(function.node for function in small_graph.functions)):
        assert not [node.name for node in nodes if node.metadata_props]
    assert b"functions.py" not in small_graph.SerializeToString()


@pytest.mark.slow
def test_inline_option_writes_the_plain_graph(
    config_of: Callable[..., NetworkConfig], network_of: Any, session_of: Any, samples: Any
) -> None:
    network = network_of(config_of("ctx-gaussian", dim=64), Extraction(scales=(0.5,), top_k=60, dim=64))
    plain = build_graph(network, inline=True)
    assert not plain.functions
    compare({name: samples[name] for name in ("chelsea", "rocket")}, network, session_of(plain)).check()


@pytest.mark.parametrize("size", [(150, 200), (97, 131), (33, 47), (1, 1), (150, 31)])
def test_a_batch_of_four_equals_four_photos(
    size: tuple[int, int], small_network: Any, small_graph: Any, session_of: Any, samples: Mapping[str, Image]
) -> None:
    photos = np.stack([samples[name][: size[0], : size[1]] for name in ("coffee", "astronaut", "chelsea", "retina")])
    for run in (session_of(small_graph), torch_runner(small_network)):
        batch = run(photos)
        singles = [np.concatenate(arrays) for arrays in zip(*(run(photo[None]) for photo in photos), strict=True)]
        scale = np.abs(singles[0]).max()
        assert np.abs(batch[0] - singles[0]).max() <= 1e-5 * scale
        for a, b in zip(batch[1:], singles[1:], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_small_graph_equals_pytorch(
    small_network: Any, small_graph: Any, session_of: Any, samples: Mapping[str, Image]
) -> None:
    photos = {name: samples[name] for name in ("coffee", "rocket", "hubble_deep_field", "stereo_motorcycle")}
    photos.update({"portrait": samples["coffee"][:, 40:91], "tiny": samples["page"][:9, :5]})
    assert spread(small_network, photos) < 0.5
    parity = compare(photos, small_network, session_of(small_graph))
    parity.check()
    assert parity.cosine > 0.99999


def test_ties_go_to_the_first_position(small_graph: Any, session_of: Any) -> None:
    # A plain photo has cells that look the same; among equals ONNX's TopK takes the lower index: scale, row, column.
    photo = np.full((1, 512, 512, 3), 120, np.uint8)
    _, attention, positions, scales = (array[0] for array in session_of(small_graph)(photo))
    rank = list(Extraction(scales=(1.414, 0.5)).scales)
    keys = [(rank.index(round(float(s), 3)), y, x) for s, (x, y) in zip(scales, positions.tolist(), strict=True)]
    equal = [i for i in range(len(keys) - 1) if attention[i] == attention[i + 1] > 0]
    assert equal, "the photo must have ties"
    assert all(keys[i] < keys[i + 1] for i in equal)


def load_minibench(folder: Path, size: int, count: int) -> dict[str, Image]:
    """Return photos of as many scenes, which are named in front of the number."""
    first: dict[str, Path] = {}
    for path in sorted(folder.glob("*.jpg")):
        first.setdefault(path.stem.rpartition("_")[0], path)
    chosen = list(first.values())[:: max(1, len(first) // count)][:count]
    photos = {}
    for i, path in enumerate(chosen):
        with Pillow.open(path) as picture:
            picture.thumbnail((size, size), Pillow.Resampling.LANCZOS)
            # Every photo of another height: sizes that no stride divides, and no batch of all to run once more.
            photos[path.name] = np.asarray(picture.convert("RGB"))[i:]
    return photos


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "trunk"),
    # Each time the one that has all parts; on the large trunk that takes half a minute.
    [
        pytest.param("how", "half", marks=pytest.mark.long),
        pytest.param("ctx-gaussian", "half", marks=pytest.mark.long),
        pytest.param("ctx-graph", "half", marks=pytest.mark.long),
        ("ctx-both", "r18"),
        pytest.param("ctx-both", "r50-", marks=pytest.mark.long),
    ],
)
def test_every_network_equals_pytorch_on_minibench(
    variant: str,
    trunk: str,
    minibench: Path,
    config_of: Callable[..., NetworkConfig],
    session_of: Any,
    record_property: Callable[[str, object], None],
) -> None:
    from ctxdeploy.export import untrained_network

    photos = load_minibench(minibench, 384, 6)
    assert len(photos) == 6
    extraction = Extraction(scales=(1.0, 0.5), top_k=300)
    fitting = [photo[:160, :160] for photo in photos.values()]
    network = untrained_network(config_of(variant, trunk), extraction, fitting)
    assert spread(network, photos) < 0.5
    parity = compare(photos, network, session_of(build_graph(network)))
    record_property("cosine_min", parity.cosine)
    record_property("overlap_min", parity.overlap)
    print(f"\n{variant} {trunk}: cosine {parity.cosine:.7f}, overlap {parity.overlap:.4f}")
    parity.check()


@pytest.fixture(scope="module")
def seven_scales(config_of: Callable[..., NetworkConfig], network_of: Any, traced: Any) -> tuple[Any, Any]:
    """Return ctx with both parts at the default scales, and its graph."""
    extraction = Extraction()
    assert extraction.scales == (2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25)
    network = network_of(config_of("ctx-both"), extraction)
    return network, traced("seven-scales", network)


@pytest.mark.slow
def test_seven_scales_equal_pytorch(
    seven_scales: tuple[Any, Any], session_of: Any, samples: Mapping[str, Image]
) -> None:
    network, graph = seven_scales
    photos = {name: samples[name] for name in ("coffee", "rocket")}
    photos["odd"] = samples["astronaut"][:101, :203]
    photos["one pixel"] = samples["astronaut"][:1, :1]
    assert spread(network, photos) < 0.5
    parity = compare(photos, network, session_of(graph))
    print(f"\nseven scales: cosine {parity.cosine:.7f}, overlap {parity.overlap:.4f}")
    parity.check()
    counts = {photo.photo: photo.descriptors for photo in parity.photos}
    assert counts["one pixel"] == 7


@pytest.mark.slow
def test_openvino_bf16_keeps_every_scale(
    seven_scales: tuple[Any, Any], samples: Mapping[str, Image], tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16 arithmetic")
    network, graph = seven_scales
    save_graph(to_mixed(graph, Precision.BF16), tmp_path / "model.bf16.onnx")
    model = core.read_model(inlined(tmp_path / "model.bf16.onnx"))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})

    def run(images: Image) -> Any:
        found = compiled({INPUT_NAME: images})
        return tuple(np.array(found[name]) for name in OUTPUT_NAMES)

    photos = {name: samples[name] for name in ("coffee", "astronaut")}
    parity = ParityRun(ParityPhotos(parity=photos, retrieval={}), torch_runner(network)).photo_parities(run, "bf16")
    scales = Parity(photos=tuple(parity), tolerance=TOLERANCES[Precision.BF16]).metadata()["by_scale"]
    print("\n" + ", ".join(f"{entry['scale']}: {entry['cosine_min']:.4f}" for entry in scales))
    assert [entry["scale"] for entry in scales] == list(network.extraction.scales)
    assert min(entry["cosine_min"] for entry in scales) >= 0.99


@pytest.mark.slow
def test_a_scale_that_leaves_few_cells_stays_dynamic(
    config_of: Callable[..., NetworkConfig], network_of: Any, session_of: Any, samples: Mapping[str, Image]
) -> None:
    """The tracer takes a size of 1 for a constant; at scale 0.1 an example of 212 pixels has one cell a side."""
    network = network_of(config_of("how"), Extraction(scales=(0.5, 0.1)))
    coffee = samples["coffee"]
    photos = {"large": np.tile(coffee, (4, 4, 1))[:700, :900], "small": coffee[:64, :64], "long": coffee[:40]}
    compare(photos, network, session_of(build_graph(network))).check()
