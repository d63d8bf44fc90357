"""A small network by hand: the runtime is tested without PyTorch and without ``ctxdeploy.export``."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.engines import EngineKey
from ctxdeploy.core.types import Preprocessing

STRIDE, DIM, TOP_K = 4, 8, 40


def tiny_model(top_k: int = TOP_K, nan: bool = False, blurs: int = 0) -> Any:
    """Return a network with dynamic B, H, W: a convolution of stride 4, a local function ``ctx::Soften``, the top K.

    Args:
        top_k: K.
        nan: spoil the attention.
        blurs: convolutions of 31×31 ahead, to make it slow.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ctx", 1)]
    rng = np.random.default_rng(7)
    weights = rng.normal(size=(DIM, 3, STRIDE, STRIDE)).astype(np.float32) / 255
    constants = {
        "weights": weights,
        "ones": np.array([1], np.int64),
        "zero": np.float32(0),
        "half": np.float32(np.nan if nan else 0.5),
        "stride": np.float32(STRIDE),
        "flat": np.array([0, DIM, -1], np.int64),
        "flat_attention": np.array([0, -1], np.int64),
        "k": np.array([top_k], np.int64),
        "dim": np.array([DIM], np.int64),
        "two": np.array([2], np.int64),
        "minus_one": np.array([-1], np.int64),
        "epsilon": np.float32(1e-10),
    }
    node = helper.make_node
    body = [node("AveragePool", ["x"], ["mean"], kernel_shape=[3, 3], pads=[1] * 4), node("Add", ["x", "mean"], ["y"])]
    soften = helper.make_function("ctx", "Soften", ["x"], ["y"], body, [helper.make_opsetid("", 18)])
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "weights"], ["features"], strides=[STRIDE] * 2, pads=[0, 0, STRIDE - 1, STRIDE - 1]),
        node("Soften", ["features"], ["soft"], domain="ctx"),
        node("Reshape", ["soft", "flat"], ["columns"]),
        node("Transpose", ["columns"], ["rows"], perm=[0, 2, 1]),
        node("ReduceL2", ["features", "ones"], ["norms"], keepdims=0),
        node("Reshape", ["norms", "flat_attention"], ["strength"]),
        node("Add", ["strength", "epsilon"], ["strength_"]),
        node("ReduceMax", ["strength_", "ones"], ["strongest"], keepdims=1),
        node("Div", ["strength_", "strongest"], ["relative"]),
        # K rows of zeros behind, so that TopK always finds K.
        node("Shape", ["image"], ["batch"], start=0, end=1),
        node("Concat", ["batch", "k"], ["pad_shape"], axis=0),
        node("Expand", ["zero", "pad_shape"], ["pad"]),
        node("Concat", ["relative", "pad"], ["padded"], axis=1),
        node("TopK", ["padded", "k"], ["attention", "index"], axis=1),
        node("Concat", ["batch", "k", "dim"], ["pad_rows_shape"], axis=0),
        node("Expand", ["zero", "pad_rows_shape"], ["pad_rows"]),
        node("Concat", ["rows", "pad_rows"], ["all_rows"], axis=1),
        node("Unsqueeze", ["index", "minus_one"], ["index_column"]),
        node("Expand", ["index_column", "pad_rows_shape"], ["index_rows"]),
        node("GatherElements", ["all_rows", "index_rows"], ["descriptors"], axis=1),
        node("Shape", ["features"], ["width"], start=3, end=4),
        node("Mod", ["index", "width"], ["column"]),
        node("Div", ["index", "width"], ["row"]),
        node("Unsqueeze", ["column", "minus_one"], ["column_"]),
        node("Unsqueeze", ["row", "minus_one"], ["row_"]),
        node("Concat", ["column_", "row_"], ["cell"], axis=2),
        node("Cast", ["cell"], ["cell_float"], to=TensorProto.FLOAT),
        node("Add", ["cell_float", "half"], ["centre"]),
        node("Mul", ["centre", "stride"], ["positions"]),
        node("Mul", ["attention", "zero"], ["nothing"]),
        node("Add", ["nothing", "half"], ["scales"]),
    ]
    for number in range(blurs):
        constants["blur"] = np.full((3, 3, 31, 31), 1e-3, np.float32)
        source = nodes[number + 1].output[0]
        nodes.insert(number + 2, node("Conv", [source, "blur"], [f"blurred_{number}"], pads=[15] * 4))
        nodes[number + 3].input[0] = f"blurred_{number}"
    if nan:
        nodes[8] = node("Add", ["strength", "half"], ["strength_"])
    value = helper.make_tensor_value_info
    outputs = [
        value("descriptors", TensorProto.FLOAT, ["B", top_k, DIM]),
        value("attention", TensorProto.FLOAT, ["B", top_k]),
        value("positions", TensorProto.FLOAT, ["B", top_k, 2]),
        value("scales", TensorProto.FLOAT, ["B", top_k]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("image", TensorProto.UINT8, ["B", "H", "W", 3])],
        outputs,
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=opsets, functions=[soften], ir_version=9)
    checker.check_model(model)
    return model


def write_bundle(folder: Path, model: bytes, preprocessing: Preprocessing, shapes: ShapeRange, top_k: int) -> Bundle:
    """Write a bundle around a serialised model and open it as a user would."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    sha = hashlib.sha256(model).hexdigest()
    artefact = Artefact(
        file="model.onnx", sha256=sha, bytes=len(model), format="onnx", precision="fp32", target="onnxruntime"
    )
    Bundle(
        path=folder,
        network={"family": "tiny"},
        source={"file": "none", "sha256": sha, "weights_sha256": sha, "format": "none"},
        preprocessing=preprocessing,
        extraction=Extraction(scales=(0.5,), top_k=top_k, dim=DIM),
        shapes=shapes,
        artefacts=(artefact,),
    ).write_manifest()
    return ctxdeploy.core.bundle.open(folder)


@pytest.fixture(scope="session")
def reference(load_reference: Callable[[str], ModuleType]) -> ModuleType:
    """Return ``tests/reference/photo_loader.py``."""
    return load_reference("photo_loader")


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Return a function that writes and opens a bundle with the tiny network, or with any model given."""

    def make(
        *,
        image_size: int = 64,
        shapes: ShapeRange | None = None,
        model: bytes | None = None,
        nan: bool = False,
        top_k: int = TOP_K,
        blurs: int = 0,
    ) -> Bundle:
        data = model if model is not None else tiny_model(top_k, nan, blurs).SerializeToString()
        folder = tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}"
        return write_bundle(folder, data, Preprocessing(image_size=image_size), shapes or ShapeRange(), top_k)

    return make


ENGINE_KEY = EngineKey(target="tensorrt", version="11.4.0.1", gpu="NVIDIA H200", capabilities=("9.0",))


@pytest.fixture
def fake_tensorrt(load_reference: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a stand-in for TensorRT, CUDA and the driver, in place of the real ones."""
    module: ModuleType = load_reference("trt/fake_tensorrt")
    module.install(monkeypatch, module)
    return module


@pytest.fixture
def with_engine(make_bundle: Callable[..., Bundle], fake_tensorrt: ModuleType) -> Callable[..., Bundle]:
    """Return a function that makes a bundle with an "engine" of the stand-in."""

    def make(plan: bytes | None = None, key: EngineKey = ENGINE_KEY, plugins: dict[str, str] | None = None) -> Bundle:
        bundle = make_bundle()
        data = fake_tensorrt.plan((1, 1, 1, 3), (4, 64, 64, 3), TOP_K, DIM) if plan is None else plan
        (bundle.path / "engine.plan").write_bytes(data)
        engine = Artefact(
            file="engine.plan",
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            format="engine",
            precision="fp32",
            target=key.target,
            details={"key": {**key.metadata(), **({"plugins": plugins} if plugins else {})}},
        )
        replace(bundle, artefacts=(*bundle.artefacts, engine)).write_manifest()
        return ctxdeploy.core.bundle.open(bundle.path)

    return make
