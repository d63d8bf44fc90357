"""FIRe: pyramid, super-features and the whole network, against the formulas and in the engines."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.export.graph.tracing import trace
from ctxdeploy.export.networks import NetworkConfig
from ctxdeploy.export.networks.super_features import SuperFeatureNetwork

Image = NDArray[np.uint8]
SCALES = [scale for scale in Extraction().scales if scale != 1.0]
# Those whose sizes are no halves or doubles, and which a runtime can get wrong; a trace of each costs seconds.
HARD = (1.414, 0.707, 0.353)
LONG = (pytest.mark.slow, pytest.mark.long)
IN_ENGINES = [pytest.param(scale, marks=() if scale in HARD else LONG) for scale in SCALES]


class Resize(nn.Module):
    """The pyramid of FIRe, alone."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return SuperFeatureNetwork.resize(self, x, self.scale)  # type: ignore[arg-type]


def authors(x: Tensor, scale: float) -> Tensor:
    """Return a level of the pyramid as FIRe's own code asks PyTorch for it."""
    return functional.interpolate(
        x, scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )


@pytest.mark.parametrize("scale", SCALES)
@given(height=st.integers(4, 150), width=st.integers(4, 150))
@settings(max_examples=12, deadline=None)
def test_pixels_are_those_of_pytorchs_scale_factor(scale: float, height: int, width: int) -> None:
    x = torch.rand(1, 3, height, width)
    # One rounding: PyTorch has several kernels, and chooses by the size.
    torch.testing.assert_close(Resize(scale)(x), authors(x, scale), rtol=0, atol=5e-7)


def test_the_grid_is_not_that_of_how() -> None:
    x = torch.rand(1, 3, 101, 203)
    size = Resize(0.707)(x).shape[2:]
    other = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    assert (Resize(0.707)(x) - other).abs().max() > 0.1


@pytest.fixture(scope="module")
def resizer() -> Callable[[float], bytes]:
    """Return a function from a scale to the ONNX graph of that level of the pyramid."""
    import onnx_ir as ir

    @functools.cache
    def make(scale: float) -> bytes:
        proto = ir.to_proto(trace(Resize(scale), (torch.rand(2, 3, 64, 80),), ({0: "b", 2: "h", 3: "w"},)))
        del proto.graph.value_info[:]
        graph: bytes = proto.SerializeToString()
        return graph

    return make


def in_onnx_runtime(graph: bytes) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]  # type: ignore[no-any-return]


def in_openvino(graph: bytes, hint: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    properties = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 2}
    request = core.compile_model(core.read_model(graph), "CPU", properties).create_infer_request()
    return lambda x: np.array(request.infer([x])[0])


def hard_sizes(scale: float) -> list[int]:
    """Return the sizes to 4096 whose products with the scale lie nearest to a whole number, on either side."""
    thousandths = round(scale * 1000)
    near = [size for size in range(1, 4097) if min(size * thousandths % 1000, -size * thousandths % 1000) <= 2]
    return [*range(1, 13), *near[-40:], 2157, 1157, 1983, 4095, 4096]


@pytest.mark.parametrize("scale", IN_ENGINES)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino f32", "openvino bf16"])
def test_sizes_and_pixels_in_the_engines(engine: str, scale: float, resizer: Callable[[float], bytes]) -> None:
    graph = resizer(scale)
    run = in_onnx_runtime(graph) if engine == "onnxruntime" else in_openvino(graph, engine.split()[1])
    for size in hard_sizes(scale):
        assert run(np.zeros((1, 3, size, 5), np.float32)).shape[2] == max(1, size * round(scale * 1000) // 1000), size
    for height, width in ((4, 5), (101, 203), (333, 500)):
        x = torch.rand(1, 3, height, width)
        wanted = authors(x, scale).numpy()
        # bf16 has 8 bits. The engines multiply by 1/scale in another order than PyTorch: 5e-5 at 500 pixels.
        np.testing.assert_allclose(run(x.numpy()), wanted, rtol=0, atol=1e-2 if "bf16" in engine else 2e-4)


# The sizes that are nearest to being wrong are all in the test above: here is one scale, and the others at length.
EVERY_SIZE = [pytest.param(scale, marks=() if scale == HARD[0] else pytest.mark.long) for scale in SCALES]


@pytest.mark.slow
@pytest.mark.parametrize("scale", EVERY_SIZE)
def test_every_size_in_the_engines(scale: float, resizer: Callable[[float], bytes]) -> None:
    # OpenVINO compiles for every size that it meets; the hard ones are all in the test above.
    for run, step in ((in_onnx_runtime(resizer(scale)), 1), (in_openvino(resizer(scale), "bf16"), 11)):
        for size in range(1, 4097, step):
            found = run(np.zeros((1, 3, size, 2), np.float32)).shape[2]
            assert found == max(1, size * round(scale * 1000) // 1000), size


@pytest.fixture(scope="module")
def network(config_of: Callable[..., NetworkConfig], network_of: Callable[..., Any]) -> Any:
    """Return FIRe on a ResNet-18, 2 × 32 super-features, K = 80: more than there are."""
    return network_of(config_of("fire", dim=64), Extraction(scales=(1.414, 0.353), top_k=80, dim=64))


def test_super_features_of_a_scale_are_those_of_the_formulas(
    network: Any, samples: Mapping[str, Image], load_reference: Callable[[str], Any]
) -> None:
    photo = samples["astronaut"][40:137, 30:161]
    height, width = photo.shape[:2]
    with torch.inference_mode():
        x = network.resize(network.normalise(torch.from_numpy(np.array(photo))[None]), 1.414)
        grid = network.backbone(x)
        features, attention, positions = network.features(x, height, width)
        found = [network.dim_reduction(features)[0, :, :, 0].T, attention[0, :, 0], positions[0]]
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in network.state_dict().items()}
    wanted = load_reference("networks_fire").descriptors_of_scale(
        grid[0].numpy().astype(np.float64), (height, width), state, network.config.lit.steps
    )
    for a, b, tolerance in zip(found, wanted, (1e-4, 1e-5, 1e-5), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def test_the_pyramid_is_that_of_the_formula(samples: Mapping[str, Image], load_reference: Any) -> None:
    image = samples["coffee"][:41, :57].transpose(2, 0, 1) / 255.0
    for scale in (1.414, 0.353):
        found = Resize(scale)(torch.from_numpy(image.astype(np.float32))[None])[0].numpy()
        np.testing.assert_allclose(found, load_reference("networks_fire").resize(image, scale), rtol=0, atol=1e-5)


def test_all_super_features_are_kept_strongest_first(network: Any, samples: Mapping[str, Image]) -> None:
    photos = np.stack([samples[name][:100, :130] for name in ("coffee", "astronaut")])
    with torch.inference_mode():
        vectors, attention, positions, scales = (a.numpy() for a in network(torch.from_numpy(photos)))
        singles = [network(torch.from_numpy(photo[None])) for photo in photos]
    assert (attention[:, :64] > 0).all() and not attention[:, 64:].any()
    assert (np.diff(attention, axis=1) <= 0).all()
    assert attention[0, 0] > 1, "not divided by its maximum"
    inside = positions[:, :64]
    assert (inside > 0).all() and (inside[..., 0] < 130).all() and (inside[..., 1] < 100).all()
    assert inside.std(axis=1).min() > 5, "super-features must look at different places"
    for photo in range(2):
        assert sorted(set(scales[photo, :64].round(3).tolist())) == pytest.approx([0.353, 1.414])
        for a, b in zip((vectors, attention, positions, scales), singles[photo], strict=True):
            np.testing.assert_allclose(a[photo], b[0].numpy(), rtol=0, atol=1e-4 * max(1.0, np.abs(a[photo]).max()))


@pytest.mark.slow
def test_graph_equals_pytorch_and_is_shared_by_the_scales(
    network: Any, samples: Mapping[str, Image], session_of: Callable[[Any], Any]
) -> None:
    import onnx

    from ctxdeploy.export.graph import build_graph

    graph = build_graph(network)
    assert [(f.domain, f.name) for f in graph.functions] == [("ctx", "LocalFeatureIntegration")]
    nodes = [node for node in graph.graph.node if node.op_type == "LocalFeatureIntegration"]
    assert [{a.name: a.i for a in node.attribute} for node in nodes] == [{"steps": 3}] * 2
    plain = onnx.inliner.inline_local_functions(graph)
    shapes = ((150, 200), (33, 47), (3, 200), (1, 1))
    for run in (session_of(graph), session_of(plain)):
        for height, width in shapes:
            photos = np.stack([samples[name][:height, :width] for name in ("coffee", "retina")])
            with torch.inference_mode():
                wanted = [a.numpy() for a in network(torch.from_numpy(photos))]
            found = run(photos)
            assert [a.shape for a in found] == [a.shape for a in wanted]
            np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4)
            for a, b in zip(_by_place(found), _by_place(wanted), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * np.abs(b).max())


def _by_place(outputs: Any) -> list[NDArray[np.float32]]:
    """Return each photo's descriptors in the order of scale and place: equals may change places in the ranking."""
    rows = []
    for vectors, attention, positions, scales in zip(*outputs, strict=True):
        kept = attention > 0
        order = np.lexsort((*np.rint(positions[kept] * 4).T, scales[kept]))
        rows.append(vectors[kept][order])
    return rows
