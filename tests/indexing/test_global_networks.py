"""Networks that give a global descriptor, alone or beside local ones, from photos to archives and answers."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import ctxdeploy.core.bundle
from ctxdeploy.cli.main import run
from ctxdeploy.core.bundle import Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.index import Index
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.query import QueryConfig

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


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos: three scenes of four views, named as in INRIA Holidays."""
    random = np.random.default_rng(2)
    folder = tmp_path_factory.mktemp("photos") / "set"
    folder.mkdir()
    for scene in range(3):
        rough = random.integers(0, 256, (7, 8, 3))
        for view in range(4):
            noisy = np.clip(rough + random.normal(0, 12, rough.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).resize((64, 56), Image.Resampling.NEAREST).save(
                folder / f"{1000 + scene}0{view}.png"
            )
    return folder


def _vector(path: Path) -> NDArray[np.float64]:
    """Return what the network sees in a photo, in plain loops."""
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float64).transpose(2, 0, 1)
    weights = _weights().astype(np.float64)
    cells = []
    for y in range(0, pixels.shape[1], CELL):
        for x in range(0, pixels.shape[2], CELL):
            patch = pixels[:, y : y + CELL, x : x + CELL]
            cells.append([max(float((one * patch).sum()), 0.0) for one in weights])
    mean = np.array(cells).mean(axis=0)
    return mean / np.sqrt((mean**2).sum())


def _wanted(photos: Path, query: str) -> list[str]:
    scores = {path.name: float(_vector(path) @ _vector(photos / query)) for path in photos.iterdir()}
    return sorted(scores, key=lambda name: (-scores[name], name))


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``ctxdeploy`` in this process; returns exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def test_an_archive_of_a_network_without_local_descriptors(
    call: Callable[..., tuple[int, str, str]], alone: Bundle, photos: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "a.ctxindex"
    code, _, err = call("index", photos, "-o", archive, "--model", alone.path, "--words", 4)
    assert code == 2 and "--words is about local descriptors" in err and not archive.exists()
    code, out, err = call("index", photos, "-o", archive, "--model", alone.path)
    assert code == 0 and "12 photos added" in out and "descriptors each" not in out, err
    assert not (archive / "codebook.safetensors").exists() and not (archive / "judgement.json").exists()
    with Index.open(archive) as index:
        assert (index.config.global_vectors, index.config.global_dim, index.keeps_local) == ("fp16", GLOBAL_DIM, False)
        for path in photos.iterdir():
            (kept,) = index.global_vectors([path.name])
            np.testing.assert_allclose(kept, _vector(path), atol=1e-3)
    with PhotoIndex.open(archive) as opened:
        hits = opened.search(photos / "100100.png", top=12)
        assert {hit.name for hit in hits[:4]} == set(_wanted(photos, "100100.png")[:4])
        assert opened.search(photos / "100100.png", config=QueryConfig(rank="global", top=12)) == hits
    code, out, err = call("query", "--indexed", "100100.png", "--index", archive, "--top", 2)
    assert code == 0 and "from its stored global vector" in out and "100100.png" in out.splitlines()[2]
    code, _, err = call("query", photos / "100100.png", "--index", archive, "--rank", "local")
    assert code == 2 and "keeps global vectors alone" in err
    again = call("index", photos, "-o", archive)
    assert again[0] == 0 and "12 unchanged" in again[1]
    assert call("index", photos, "-o", archive, "--geometry")[0] == 2
    assert call("info", archive)[0] == 0 and call("verify", archive)[0] == 0
    code, out, err = call("index", photos, "-o", tmp_path / "new.ctxindex", "--model", alone.path, "--dry-run")
    assert code == 0 and "12 to add" in out


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--words", 8)])
def test_the_networks_own_vector_stands_before_the_sum(
    call: Callable[..., tuple[int, str, str]], both: Bundle, photos: Path, tmp_path: Path, words: tuple[object, ...]
) -> None:
    """Also of the photos that train the codebook, whose descriptors are kept on disk meanwhile."""
    archive = tmp_path / "b.ctxindex"
    code, _, err = call("index", photos, "-o", archive, "--model", both.path, "--global", "fp32", *words, "-q")
    assert code == 0, err
    with Index.open(archive) as index:
        assert index.config.global_dim == GLOBAL_DIM and index.keeps_local
        for path in photos.iterdir():
            (kept,) = index.global_vectors([path.name])
            np.testing.assert_allclose(kept, _vector(path), atol=1e-5)
    with PhotoIndex.open(archive) as opened:
        hits = opened.search(photos / "100200.png", rank="global", top=12)
        assert [hit.name for hit in hits] == _wanted(photos, "100200.png")
        anew = opened.search(photos / "100200.png", rank="global-then-local", rerank=4)
        assert {hit.name for hit in anew[:4]} == {hit.name for hit in hits[:4]}
    plain = tmp_path / "plain.ctxindex"
    assert call("index", photos, "-o", plain, "--model", both.path, *words, "-q")[0] == 0
    with Index.open(plain) as index:
        assert not index.config.keeps_global


def test_evaluation_of_a_network_without_local_descriptors(
    call: Callable[..., tuple[int, str, str]], alone: Bundle, photos: Path, tmp_path: Path
) -> None:
    options = ("eval", photos, "--set", "holidays", "--model", alone.path, "-o", tmp_path / "a.ctxindex", "-q")
    code, _, err = call(*options)
    assert code == 2 and "say --rank global" in err
    code, out, err = call(*options, "--framework", "all")
    assert code == 0 and out.splitlines()[2].startswith("global vectors (none)"), err
    code, out, err = call(*options, "--rank", "global")
    assert code == 0 and "codebook" not in out, err
