"""fp8: its numbers, its graph against the same roundings in float64, and who refuses it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import INPUT_NAME
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.core.targets import TENSORRT, TENSORRT_RTX, choose
from ctxdeploy.core.types import Precision
from ctxdeploy.export.int8 import fp8
from ctxdeploy.export.int8.calibration import Ranges, calibrate
from ctxdeploy.export.int8.layers import find_trunk, subgraph
from ctxdeploy.export.int8.qdq import FP8, INT8, quantise
from ctxdeploy.export.int8.search import search
from ctxdeploy.export.parity.parity import compare_photo
from ctxdeploy.export.preflight import plan
from ctxdeploy.export.tensorrt import EngineConfig, build_engine
from ctxdeploy.export.tensorrt.build import build_plan
from ctxdeploy.export.tensorrt.limits import graph_problems

Image = NDArray[np.uint8]
FIRST = "backbone.conv1"


# ---- numbers


def every_number() -> NDArray[np.float64]:
    """Return all 254 numbers of E4M3 by code, written out; NaN for the two that are none."""
    found = []
    for code in range(256):
        sign, exponent, mantissa = code >> 7, code >> 3 & 15, code & 7
        size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        found.append(np.nan if code & 127 == 127 else -size if sign else size)
    return np.array(found)


def nearest(value: float) -> float:
    """Return the nearest number, by looking at all of them; of two the one whose code is even."""
    numbers = every_number()
    codes = [code for code in range(256) if not np.isnan(numbers[code]) and code >> 7 == (value < 0)]
    return float(numbers[min(codes, key=lambda code: (abs(numbers[code] - value), code & 1))])


def test_all_numbers_stand_for_themselves() -> None:
    numbers = every_number()
    codes = np.flatnonzero(~np.isnan(numbers)).astype(np.uint8)
    np.testing.assert_array_equal(fp8.encode(numbers[codes]), codes)
    np.testing.assert_array_equal(fp8.decode(codes), numbers[codes])
    assert numbers[codes].max() == fp8.LARGEST == 448


def test_what_lies_between_goes_to_the_nearest_and_ties_to_even() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=500) * 10 ** rng.uniform(-5, 3.5, 500)
    numbers = np.sort(every_number()[~np.isnan(every_number())])
    middles = (numbers[1:] + numbers[:-1]) / 2
    for value in np.concatenate([values, middles, [0, 460, -460, 1e9, -1e9, 2.0**-11]]):
        (found,) = fp8.decode(fp8.encode(np.array([value])))
        assert found == np.copysign(nearest(value), value), value


# ---- the graph


@pytest.fixture(scope="module")
def few(samples: Mapping[str, Image]) -> dict[str, Image]:
    return {name: samples[name] for name in ("coffee", "rocket")}


@pytest.fixture(scope="module")
def ranges(small_graph: Any, few: Mapping[str, Image]) -> Ranges:
    return calibrate(small_graph, few)


@pytest.fixture(scope="module")
def fp8_graph(small_graph: Any, ranges: Ranges) -> Any:
    return quantise(small_graph, ranges, keep=[FIRST], kind=FP8)


def tensor(proto: Any, name: str) -> Any:
    (found,) = [tensor for tensor in proto.graph.initializer if tensor.name == name]
    return found


def floats(proto: Any, name: str) -> NDArray[np.float32]:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor(proto, name)), np.float32)


def test_symmetric_fp8_only_and_per_channel(fp8_graph: Any, small_graph: Any, ranges: Ranges) -> None:
    import onnx

    onnx.checker.check_model(fp8_graph, full_check=True)
    assert max(entry.version for entry in fp8_graph.opset_import if entry.domain == "") >= 19
    pairs = [node for node in fp8_graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) > 20
    for node in pairs:
        zero = tensor(fp8_graph, node.input[2])
        assert zero.data_type == onnx.TensorProto.FLOAT8E4M3FN and not any(zero.raw_data)
        scale, is_weight = floats(fp8_graph, node.input[1]), node.input[0].endswith(".weight.fp8")
        assert scale.shape == ((len(scale),) if is_weight else ()) and (scale > 0).all()
    name = "backbone.layer1.0.conv1"
    weight, scale = floats(small_graph, f"{name}.weight"), floats(fp8_graph, f"{name}.weight.scale")
    np.testing.assert_allclose(scale, np.abs(weight).reshape(32, -1).max(axis=1) / 448, rtol=1e-6)
    codes = np.frombuffer(tensor(fp8_graph, f"{name}.weight.fp8").raw_data, np.uint8).reshape(weight.shape)
    wanted = np.vectorize(nearest)((weight / scale[:, None, None, None])[:2])
    np.testing.assert_array_equal(fp8.decode(codes)[:2], wanted)
    assert floats(fp8_graph, f"{FIRST}/relu/pool.scale") == pytest.approx(ranges.largest[f"{FIRST}/relu/pool"] / 448)


def test_onnxruntime_makes_the_roundings_that_are_emulated(fp8_graph: Any, few: Mapping[str, Image]) -> None:
    """The figures of ``verify`` are those of fp8: the CPU has no arithmetic of it, but it makes its roundings."""
    import onnx
    import onnxruntime

    quantisers = [node for node in fp8_graph.graph.node if node.op_type == "QuantizeLinear"]
    emulated = fp8.emulated(fp8_graph)
    onnx.checker.check_model(emulated, full_check=True)
    assert not [node for node in emulated.graph.node if node.op_type.endswith("izeLinear")]
    for node in (quantisers[0], quantisers[len(quantisers) // 2], quantisers[-1]):
        source, scale = node.input[0], floats(fp8_graph, node.input[1])
        part = subgraph(emulated, [source, f"{source}.dq"])
        session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
        given, found = session.run(None, {INPUT_NAME: few["coffee"][None]})
        wanted = fp8.decode(fp8.encode(given / scale)).astype(np.float32) * scale
        np.testing.assert_array_equal(found, wanted)
        assert 3 < len(np.unique(found)) < 256 and not np.array_equal(found, given)
    name = "backbone.layer1.0.conv1.weight"
    codes = np.frombuffer(tensor(fp8_graph, f"{name}.fp8").raw_data, np.uint8).reshape(floats(emulated, name).shape)
    scales = floats(fp8_graph, f"{name}.scale")[:, None, None, None]
    np.testing.assert_array_equal(floats(emulated, name), (fp8.decode(codes) * scales).astype(np.float32))


@pytest.mark.slow
def test_its_descriptors_are_near_those_of_fp32_and_clipping_would_not_help(
    small_graph: Any, ranges: Ranges, few: Mapping[str, Image], session_of: Callable[..., Any]
) -> None:
    """int8's limits cut off the largest numbers to make steps finer: fp8's steps grow with the numbers."""
    exact = session_of(small_graph)
    wanted = {name: exact(photo[None]) for name, photo in few.items()}
    cosines = []
    for kind in (FP8, replace(FP8, limits=lambda found: found.limits)):
        given = session_of(fp8.emulated(quantise(small_graph, ranges, keep=[FIRST], kind=kind)))
        found = [compare_photo(n, few[n], wanted[n], given(few[n][None])).cosine_mean for n in few]
        cosines.append(float(np.mean(found)))
    assert 0.93 < cosines[0] < 0.99999 and cosines[0] > cosines[1], cosines


@pytest.mark.slow
def test_the_search_measures_in_fp8_and_keeps_what_it_must(small_graph: Any, few: Mapping[str, Image]) -> None:
    """A graph is taken once the convolution that adds most noise is fp32; which that is, is measured."""
    told: list[str] = []
    tried: list[list[str]] = []

    def check(proto: Any) -> str:
        tried.append([t.name for t in proto.graph.initializer if t.name.endswith(".weight.fp8")])
        return "" if len(tried) > 1 else "too far"

    graph, details = search(small_graph, few, check, kind=FP8, report=told.append)
    assert details["scheme"] == "QDQ, symmetric fp8, weights per channel" and "fp8 with 0 of" in told[1]
    assert details["calibration"]["method"] == "largest"
    (kept,) = details["kept_fp32"]
    assert f"{kept}.weight.fp8" in tried[0] and f"{kept}.weight.fp8" not in tried[1]
    assert kept == max(details["noise"], key=lambda name: details["noise"][name])
    # Three bits of mantissa: half a step is 1/16 of a number, far more than fp32's own noise, far less than a mistake.
    assert all(1e-6 < noise < 0.3 for noise in details["noise"].values()), details["noise"]
    assert any(t.name.endswith(".weight.fp8") for t in graph.graph.initializer)


@pytest.mark.slow
def test_an_export_of_it_is_measured_and_says_how(
    config_of: Callable[..., Any],
    network_of: Callable[..., Any],
    samples: Mapping[str, Image],
    tmp_path: Path,
) -> None:
    from ctxdeploy.core.bundle import Extraction
    from ctxdeploy.export import ExportConfig, export_bundle, save_checkpoint
    from ctxdeploy.export.parity import ParityPhotos

    settings = Extraction(scales=(1.0,), top_k=40, dim=64)
    save_checkpoint(network_of(config_of("how", dim=64), settings), tmp_path / "how.pth", image_size=160)
    photos = {"coffee": samples["coffee"][:100, :140]}
    exported = export_bundle(
        tmp_path / "how.pth",
        tmp_path / "bundle",
        ExportConfig(targets=(TENSORRT,), precisions=(Precision.FP8,)),
        retrieval=None,
        photos=ParityPhotos(parity=photos, retrieval={}),
        calibration=photos,
    )
    (artefact,) = [a for a in (*exported.bundle.artefacts, *exported.rejected) if a.precision == "fp8"]
    assert (artefact.target, artefact.file, artefact.format) == (TENSORRT, "model.fp8.onnx", "onnx")
    assert "fp32, emulating fp8, CPU" in artefact.parity["measured_with"]
    assert 0.9 < artefact.parity["cosine_mean"] < 0.99999
    assert (artefact.parity["verdict"] == "passed") is not bool(exported.rejected)
    assert artefact.details["scheme"].startswith("QDQ, symmetric fp8") or "fp8 misses" in artefact.details["search"]


def test_int8_is_what_it_was(small_graph: Any, ranges: Ranges) -> None:
    graph = quantise(small_graph, ranges)
    assert graph == quantise(small_graph, ranges, kind=INT8)
    names = {tensor.name for tensor in graph.graph.initializer}
    assert "int8.zero" in names and not any("fp8" in name for name in names)
    assert set(find_trunk(graph).layers) == set(find_trunk(small_graph).layers)


@pytest.mark.slow
def test_tensorrts_parser_takes_it(fp8_graph: Any) -> None:
    """By TensorRT-RTX, which is of the same family; for it no fp8 is offered."""
    pytest.importorskip("tensorrt_rtx", reason="the extra rtx is not installed")
    assert graph_problems(fp8_graph, TENSORRT) == []
    config = EngineConfig(optimisation_level=0, aspects=())
    shapes = ctxdeploy.core.bundle.ShapeRange(batch=(1, 2), height=(1, 240), width=(1, 240))
    built = build_plan(fp8_graph, config.profiles(shapes, 240), config, target=TENSORRT_RTX, precision=Precision.FP8)
    assert built.data


# ---- who refuses it


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "cuda", TENSORRT_RTX])
def test_other_runtimes_refuse_it(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"--backend {name} has no --precision fp8: .*--backend tensorrt$"):
        choose(name, "fp8")
    if name != "cuda":
        with pytest.raises(ConfigError, match=rf"{name} has no fp8: .*; give --target tensorrt, or another"):
            plan([name], [Precision.FP8])


def test_a_cpu_is_refused_and_auto_means_tensorrt() -> None:
    assert choose("auto", "fp8") == choose("auto", "fp8", "cuda:1") == choose("tensorrt", "fp8") == TENSORRT
    with pytest.raises(ConfigError, match="--device cpu has no --precision fp8: use --backend tensorrt"):
        choose("auto", "fp8", "cpu")


def test_engines_of_it_are_built_by_tensorrt_on_gpus_that_have_it(
    load_reference: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fp8_graph: Any
) -> None:
    from ctxdeploy.core.bundle import Artefact
    from ctxdeploy.core.files import file_sha256
    from ctxdeploy.export.graph import save_graph

    load_reference("trt/tiny_bundle").write(tmp_path / "tiny")
    path = tmp_path / "tiny" / Precision.FP8.file
    save_graph(fp8_graph, path)
    bundle = ctxdeploy.core.bundle.open(tmp_path / "tiny")
    graph = Artefact(
        file=path.name,
        sha256=file_sha256(path),
        bytes=path.stat().st_size,
        format="onnx",
        precision="fp8",
        target=TENSORRT,
    )
    replace(bundle, artefacts=(*bundle.artefacts, graph)).write_manifest()
    bundle = ctxdeploy.core.bundle.open(tmp_path / "tiny")
    fake = load_reference("trt/fake_tensorrt")
    fake.install(monkeypatch, fake, name="NVIDIA A100", capability=(8, 0))
    with pytest.raises(BackendError, match=r"NVIDIA A100 \(8\.0\) has no fp8 arithmetic .*8\.9 or later\): use"):
        build_engine(bundle, EngineConfig(), target=TENSORRT, precision=Precision.FP8)
    with pytest.raises(ConfigError, match="--target tensorrt-rtx has no --precision fp8"):
        build_engine(bundle, EngineConfig(), target=TENSORRT_RTX, precision=Precision.FP8)
    for name, capability in (("NVIDIA L4", (8, 9)), ("NVIDIA H200", (9, 0))):
        fake.install(monkeypatch, fake, name=name, capability=capability)
        built = build_engine(bundle, EngineConfig(), target=TENSORRT, precision=Precision.FP8)
        assert (built.artefacts[-1].precision, built.artefacts[-1].details["key"]["gpu"]) == ("fp8", name)
