"""Networks by hand that give a global descriptor, alone or beside local ones, and the command line."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctxdeploy.core.bundle
from ctxdeploy.cli.main import run
from ctxdeploy.core.bundle import Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.types import Preprocessing

# The network by hand is that of the runtime's tests, which cannot be imported under pytest's importlib mode.
_RUNTIME = Path(__file__).parents[1] / "runtime" / "conftest.py"
GLOBAL_DIM, CELL = 24, 8


def _weights() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(GLOBAL_DIM, 3, CELL, CELL)).astype(np.float32) / 255


def _global_nodes(planes: str) -> tuple[list[Any], list[Any]]:
    """Return nodes that make ``global`` of B×3×H×W, and their constants: the mean of a rectified convolution."""
    from onnx import helper, numpy_helper

    node = helper.make_node
    nodes = [
        node("Conv", [planes, "seen_weights"], ["seen"], strides=[CELL] * 2, pads=[0, 0, CELL - 1, CELL - 1]),
        node("Relu", ["seen"], ["lit"]),
        node("GlobalAveragePool", ["lit"], ["mean"]),
        node("Flatten", ["mean"], ["sum"]),
        node("LpNormalization", ["sum"], ["global"], axis=1, p=2),
    ]
    return nodes, [numpy_helper.from_array(_weights(), "seen_weights")]


def _alone() -> bytes:
    """Return a network that gives a global descriptor and nothing else."""
    from onnx import TensorProto, helper

    nodes, constants = _global_nodes("planes")
    first = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*first, *nodes],
        "alone",
        [value("image", TensorProto.UINT8, ["B", "H", "W", 3])],
        [value("global", TensorProto.FLOAT, ["B", GLOBAL_DIM])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def _both() -> tuple[bytes, int]:
    """Return the runtime's network with a global descriptor beside its local ones, and their dimension."""
    from onnx import TensorProto, helper

    spec = importlib.util.spec_from_file_location("runtime_conftest", _RUNTIME)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.tiny_model(60)
    nodes, constants = _global_nodes("planes")
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    model.graph.output.append(helper.make_tensor_value_info("global", TensorProto.FLOAT, ["B", GLOBAL_DIM]))
    return bytes(model.SerializeToString()), module.DIM


def _write(folder: Path, model: bytes, extraction: Extraction) -> Bundle:
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
        preprocessing=Preprocessing(image_size=64),
        extraction=extraction,
        shapes=ShapeRange(),
        artefacts=(artefact,),
    ).write_manifest()
    return ctxdeploy.core.bundle.open(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    extraction = Extraction(scales=(1.0,), top_k=0, dim=GLOBAL_DIM, global_dim=GLOBAL_DIM, global_scales=(1.0,))
    return _write(tmp_path_factory.mktemp("alone") / "alone.ctxbundle", _alone(), extraction)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model, dim = _both()
    extraction = Extraction(scales=(0.5,), top_k=60, dim=dim, global_dim=GLOBAL_DIM, global_scales=(1.0,))
    return _write(tmp_path_factory.mktemp("both") / "both.ctxbundle", model, extraction)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``ctxdeploy`` in this process; returns exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call
