"""Networks and their graphs, kept by the fixture ``artefacts``: one trace costs 5 to 25 seconds."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from ctxdeploy.core.bundle import INPUT_NAME, OUTPUT_NAMES, Extraction
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.export.networks import Architecture, Lit, NetworkConfig, Refinement, Smoothing

Image = NDArray[np.uint8]
Outputs = tuple[NDArray[np.float32], ...]

GAUSSIAN = Smoothing(kind="gaussian", kernel_size=3)
VARIANTS = {
    "how": ("how", Smoothing(), None),
    "ctx-gaussian": ("ctx", GAUSSIAN, None),
    "ctx-graph": ("ctx", Smoothing(), Refinement()),
    "ctx-both": ("ctx", GAUSSIAN, Refinement()),
    "fire": ("fire", Smoothing(kind="none"), None),
}
# The half-width trunk has a quarter of the weights; the published ones are for tests of their layout.
TRUNKS = {
    "half": (Architecture.RESNET18_HALF, 0),
    "r18": (Architecture.RESNET18, 0),
    "r50-": (Architecture.RESNET50, 1),
}


def scaled(photo: Image, size: int) -> Image:
    """Return a photo with the longest side scaled down to ``size``."""
    picture = Pillow.fromarray(photo)
    picture.thumbnail((size, size), Pillow.Resampling.LANCZOS)
    return np.asarray(picture)


@pytest.fixture(scope="session")
def samples() -> dict[str, Image]:
    """Return photos of scikit-image, at most 240 pixels."""
    names = ("coffee", "rocket", "astronaut", "stereo_motorcycle", "hubble_deep_field", "chelsea", "retina", "page")
    return {name: scaled(sample_photo(name), 240) for name in names}


@pytest.fixture(scope="session")
def config_of() -> Callable[..., NetworkConfig]:
    """Return a function from a variant and a trunk to a configuration."""

    def make(variant: str, trunk: str = "half", **options: Any) -> NetworkConfig:
        family, smoothing, refinement = VARIANTS[variant]
        architecture, skip_layer = TRUNKS[trunk]
        settings = {"smoothing": smoothing, "refinement": refinement, **options}
        if family == "fire":
            settings.setdefault("lit", Lit(steps=3, templates=32, dim=128))
        return NetworkConfig(family=family, architecture=architecture, skip_layer=skip_layer, **settings)

    return make


@pytest.fixture(scope="session")
def network_of(samples: Mapping[str, Image]) -> Callable[[NetworkConfig, Extraction], Any]:
    """Return a function that makes a network fitted to photos, once per configuration."""
    from ctxdeploy.export import untrained_network

    made: dict[Any, Any] = {}

    def make(config: NetworkConfig, extraction: Extraction) -> Any:
        if (config, extraction) not in made:
            made[config, extraction] = untrained_network(config, extraction, list(samples.values()))
        return made[config, extraction]

    return make


@pytest.fixture(scope="session")
def traced(artefacts: Callable[..., Path]) -> Callable[[str, Any], Any]:
    """Return a function that returns the graph of a network, which is traced once; the name is that of the artefact.

    The network gets the weights that the graph has: what fits them to photos is exact to the last bit in one process
    alone.
    """
    import onnx
    import torch

    from ctxdeploy.export.graph import build_graph

    def get(name: str, network: Any) -> Any:
        def make(folder: Path) -> None:
            torch.save(network.state_dict(), folder / "weights.pt")
            onnx.save(build_graph(network), folder / "model.onnx")

        kept = artefacts(f"traced-{name}", make, ("ctxdeploy/core", "export"))
        network.load_state_dict(torch.load(kept / "weights.pt"))
        return onnx.load(kept / "model.onnx")

    return get


@pytest.fixture(scope="session")
def small(
    config_of: Callable[..., NetworkConfig], network_of: Callable[..., Any], traced: Callable[[str, Any], Any]
) -> tuple[Any, Any]:
    """Return ``small_network`` and ``small_graph``."""
    network = network_of(config_of("ctx-both", dim=64), Extraction(scales=(1.414, 0.5), top_k=60, dim=64))
    return network, traced("small", network)


@pytest.fixture(scope="session")
def small_network(small: tuple[Any, Any]) -> Any:
    """Return ctx with both parts on the half-width ResNet-18, two scales, K = 60."""
    return small[0]


@pytest.fixture(scope="session")
def small_graph(small: tuple[Any, Any]) -> Any:
    """Return the graph of ``small_network``; tests must not change it."""
    return small[1]


@pytest.fixture(scope="session")
def session_of() -> Callable[[Any], Callable[[Image], Outputs]]:
    """Return a function from a ``ModelProto`` to a function that runs it in ONNX Runtime."""
    import onnxruntime

    def make(proto: Any) -> Callable[[Image], Outputs]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

        def run(images: Image) -> Outputs:
            return tuple(session.run(list(OUTPUT_NAMES), {INPUT_NAME: images}))

        return run

    return make


@pytest.fixture(scope="session")
def function_session() -> Callable[..., Callable[..., NDArray[np.float32]]]:
    """Return a function that runs one of our operators, through its local function, in ONNX Runtime."""
    import onnx
    import onnx_ir as ir
    import onnxruntime
    from onnx import helper

    from ctxdeploy.export.graph.functions import functions_of

    def make(config: NetworkConfig, inputs: Mapping[str, int], attributes: Mapping[str, Any], *blocks: int) -> Any:
        (function,) = (ir.to_proto(f) for f in functions_of(config, *([blocks] if blocks else [])))
        values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * n) for name, n in inputs.items()]
        output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * inputs["x"])
        # What a function returns beside its first output is not asked for.
        names = ["y", *(f"more{i}" for i in range(1, len(function.output)))]
        node = helper.make_node(function.name, list(inputs), names, domain=function.domain, **attributes)
        opsets = [*function.opset_import, helper.make_opsetid(function.domain, 1)]
        graph = helper.make_graph([node], "one operator", values, [output])
        model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

        def run(*arrays: NDArray[np.float32]) -> NDArray[np.float32]:
            result: NDArray[np.float32] = session.run(
                None, {name: np.asarray(a) for name, a in zip(inputs, arrays, strict=True)}
            )[0]
            return result

        return run

    return make


@pytest.fixture(scope="session")
def proto_session() -> Callable[..., Callable[..., list[NDArray[np.float32]]]]:
    """Return a function that runs an ``onnx_ir.Function`` of ours in ONNX Runtime, given the ranks of its values."""
    import onnx
    import onnx_ir as ir
    import onnxruntime
    from onnx import helper

    def make(function: Any, inputs: Mapping[str, int], outputs: list[int]) -> Any:
        proto = ir.to_proto(function)
        kind = onnx.TensorProto.FLOAT
        given = [helper.make_tensor_value_info(name, kind, [None] * rank) for name, rank in inputs.items()]
        names = [f"y{i}" for i in range(len(outputs))]
        made = [helper.make_tensor_value_info(n, kind, [None] * rank) for n, rank in zip(names, outputs, strict=True)]
        node = helper.make_node(proto.name, list(inputs), names, domain=proto.domain)
        opsets = [*proto.opset_import, helper.make_opsetid(proto.domain, 1)]
        graph = helper.make_graph([node], "one operator", given, made)
        model = helper.make_model(graph, functions=[proto], opset_imports=opsets, ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda *arrays: session.run(None, dict(zip(inputs, arrays, strict=True)))

    return make
