"""On a machine with a GPU and TensorRT: engines are built, run, and compared with ONNX Runtime. Elsewhere they skip."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.device import find_gpu
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.files import file_sha256
from ctxdeploy.core.targets import TARGETS, TENSORRT, TENSORRT_RTX
from ctxdeploy.core.types import Precision, Preprocessing
from ctxdeploy.export.graph import save_graph
from ctxdeploy.export.parity.parity import compare_photo
from ctxdeploy.export.tensorrt import EngineConfig, build_engine
from ctxdeploy.runtime.backends import Backend, BackendConfig, open_backend

Image = NDArray[np.uint8]
# Least and mean cosine of descriptors. bf16 keeps 8 bits of a number; int8 has 255 steps for a whole tensor.
COSINES = {
    Precision.FP32: (0.9999, 0.9999),
    Precision.FP16: (0.99, 0.999),
    Precision.BF16: (0.95, 0.99),
    Precision.INT8: (0.8, 0.95),
    Precision.FP8: (0.8, 0.95),
}


def converted(proto: Any, precision: Precision, photos: Mapping[str, Image]) -> Any:
    from ctxdeploy.export.graph.mixed import to_mixed
    from ctxdeploy.export.int8.calibration import calibrate
    from ctxdeploy.export.int8.qdq import FP8, INT8, quantise

    if precision is Precision.FP32:
        return proto
    kinds = {Precision.INT8: INT8, Precision.FP8: FP8}
    if precision in kinds:
        return quantise(proto, calibrate(proto, photos), kind=kinds[precision])
    return to_mixed(proto, precision)


def write_bundle(folder: Path, proto: Any, precision: Precision, photos: Mapping[str, Image]) -> Bundle:
    """Write a bundle of the fp32 graph and that of another precision."""
    folder.mkdir()
    artefacts = []
    for kind in dict.fromkeys((Precision.FP32, precision)):
        path = folder / kind.file
        save_graph(converted(proto, kind, photos), path)
        facts = {"file": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size, "precision": kind.label}
        artefacts.append(Artefact(**facts, format="onnx", target="onnxruntime"))  # type: ignore[arg-type]
    Bundle(
        path=folder,
        network={"family": "ctx"},
        source={"file": "none", "sha256": "0", "weights_sha256": "0", "format": "none"},
        preprocessing=Preprocessing(image_size=256),
        extraction=Extraction(scales=(1.414, 0.5), top_k=60, dim=64),
        shapes=ShapeRange(batch=(1, 4), height=(1, 256), width=(1, 256)),
        artefacts=tuple(artefacts),
    ).write_manifest()
    return ctxdeploy.core.bundle.open(folder)


def outputs(backend: Backend, images: Image) -> tuple[Any, ...]:
    found = backend.run(images)
    return found.descriptors, found.attention, found.positions, found.scales


def skip_unless_it_runs(target: str) -> None:
    """Skip where a target's engines cannot run, before any graph is written."""
    if target == "onnxruntime":
        return
    pytest.importorskip(TARGETS[target].package, reason=f"{target} is not installed")
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    try:
        gpu = find_gpu()
    except BackendError as error:
        pytest.skip(str(error))
    if target == TENSORRT_RTX and gpu.capability not in ((8, 0), (8, 6), (8, 9)) and gpu.capability < (12, 0):
        pytest.skip(f"TensorRT-RTX does not run on {gpu.label}")


# ONNX Runtime against itself shows, on any machine, that what follows can pass.
@pytest.mark.parametrize("target", ["onnxruntime", TENSORRT, TENSORRT_RTX])
@pytest.mark.parametrize("precision", list(Precision), ids=lambda precision: precision.label)
def test_engines_compute_what_onnxruntime_does(
    small_graph: Any, samples: dict[str, Image], tmp_path: Path, target: str, precision: Precision
) -> None:
    if precision.label not in TARGETS[target].precisions:
        pytest.skip(f"{target} has no {precision.label}: {TARGETS[target].lacks}")
    skip_unless_it_runs(target)
    photos = {name: samples[name] for name in ("coffee", "rocket", "astronaut")}
    bundle = write_bundle(tmp_path / "bundle", small_graph, precision, photos)
    if target != "onnxruntime":
        bundle = build_engine(bundle, EngineConfig(max_batch=4), target=target, precision=precision)
    reference = open_backend(bundle, BackendConfig(name="onnxruntime"))
    backend = open_backend(bundle, BackendConfig(name=target, precision=precision.label))
    photos |= {"odd": samples["astronaut"][:101, :203], "small": samples["rocket"][:40, :33]}
    least, mean = COSINES[precision]
    for name, photo in photos.items():
        parity = compare_photo(name, photo, outputs(reference, photo[None]), outputs(backend, photo[None]))
        print(
            f"\n{target} {precision.label} {name}: cosine {parity.cosine_min:.6f}, mean {parity.cosine_mean:.6f}, "
            f"overlap {parity.overlap:.3f}"
        )
        assert parity.cosine_min >= least and parity.cosine_mean >= mean, name
        assert parity.overlap >= (0.95 if precision is Precision.FP32 else 0.7), name
    pair = np.stack([photos["coffee"], photos["coffee"][:, ::-1]])
    together = outputs(backend, pair)
    for row in range(2):
        alone = outputs(backend, pair[row : row + 1])
        parity = compare_photo("pair", pair[row], alone, tuple(array[row : row + 1] for array in together))
        assert parity.cosine_min >= least


def test_memory_goes_to_the_gpu_and_back() -> None:
    """The calls of CUDA are those of the real cuda-bindings; where there is no driver, it says so to each of them."""
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    from ctxdeploy.runtime.backends.cuda import Buffer, Cuda, DeviceMemory

    cuda = Cuda("rtx")
    buffer = Buffer(cuda)
    try:
        find_gpu()
    except BackendError:
        buffer.host = np.zeros(16, np.uint8)
        for attempt in (
            cuda.stream,
            lambda: Buffer(cuda).reserve(16),
            lambda: cuda.upload(buffer, 16, 5),
            lambda: cuda.download(buffer, 16, 5),
            lambda: cuda.synchronise(5),
            lambda: cuda.call("cudaHostAlloc", 16, 0),
            cuda.use,
            cuda.event,
            lambda: cuda.record(5, 5),
            lambda: cuda.wait(5, 5),
            lambda: cuda.is_done(5),
            lambda: cuda.finish(5, lambda: None),
            lambda: cuda.download_rows(buffer, 8, 4, 2, 5),
            lambda: cuda.launch(5, 5),
            lambda: cuda.captured(5, lambda: True),
            lambda: DeviceMemory(cuda).reserve(16),
        ):
            with pytest.raises(RuntimeError, match=r"^cuda\w+: cudaError\w+$"):
                attempt()
        releasers = ("cudaFree", "cudaFreeHost", "cudaStreamDestroy", "cudaEventDestroy", "cudaGraphExecDestroy")
        for function in (*releasers, "cudaGraphDestroy"):
            cuda.releaser(function, 4096)()
        return
    cuda.use()
    stream = cuda.stream()
    buffer.reserve(1000)
    buffer.host[:] = np.arange(1000) % 256
    cuda.upload(buffer, 1000, stream)
    cuda.synchronise(stream)
    buffer.host[:] = 0
    cuda.download(buffer, 1000, stream)
    cuda.synchronise(stream)
    np.testing.assert_array_equal(buffer.host, np.arange(1000) % 256)
    event = cuda.event()
    buffer.host[:] = 0
    cuda.download_rows(buffer, 100, 10, 10, stream)
    cuda.record(event, stream)
    cuda.finish(event, lambda: None)
    np.testing.assert_array_equal(
        buffer.host.reshape(10, 100)[:, :10], (np.arange(1000) % 256).reshape(10, 100)[:, :10]
    )
    assert not buffer.host.reshape(10, 100)[:, 10:].any()

    def copy() -> bool:
        cuda.upload(buffer, 1000, stream)
        return True

    graph = cuda.captured(stream, copy)
    assert graph is not None and cuda.captured(stream, lambda: False) is None
    buffer.host[:] = 7
    cuda.launch(graph, stream)
    cuda.synchronise(stream)
    buffer.host[:] = 0
    cuda.download(buffer, 1000, stream)
    cuda.synchronise(stream)
    assert (buffer.host == 7).all(), "the captured copy ran again"
    cuda.releaser("cudaGraphExecDestroy", graph)()
    cuda.releaser("cudaEventDestroy", event)()
    cuda.releaser("cudaStreamDestroy", stream)()


def test_without_a_driver_a_real_engine_is_refused_in_one_line(
    load_reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX's own runtime, which without a driver must neither end the process nor go unheard."""
    pytest.importorskip("tensorrt_rtx", reason="the extra rtx is not installed")
    try:
        find_gpu()
        pytest.skip("there is a driver")
    except BackendError:
        pass
    load_reference("trt/tiny_bundle").write(tmp_path / "tiny")
    bundle = ctxdeploy.core.bundle.open(tmp_path / "tiny")
    bundle = build_engine(bundle, EngineConfig(), target=TENSORRT_RTX, precision=Precision.FP32)
    fake = load_reference("trt/fake_tensorrt")
    fake.install(monkeypatch, fake, name="NVIDIA GeForce RTX 4090", capability=(8, 9))
    with pytest.raises(
        BackendError, match=r"engine .*\.plan cannot be loaded: .*driver version is insufficient"
    ) as caught:
        open_backend(bundle, BackendConfig(name=TENSORRT_RTX))
    assert "\n" not in str(caught.value)
