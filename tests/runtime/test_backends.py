"""The engines run the tiny network alike, and refuse what they cannot do."""

import _thread
import importlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Bundle, ShapeRange
from ctxdeploy.core.errors import BackendError, ConfigError, MissingExtraError
from ctxdeploy.core.targets import choose_for
from ctxdeploy.runtime.backends import BackendConfig, open_backend
from ctxdeploy.runtime.backends.onnxruntime import check_providers
from ctxdeploy.runtime.backends.openvino import check_hint, check_openvino_precision, hint_of, inlined

MakeBundle = Callable[..., Bundle]
# The others need a GPU: test_tensorrt.py.
NAMES = ("onnxruntime", "openvino")


def images(batch: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def by_loops(image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return descriptors (h·w)×D and attention h·w of the tiny network, in float64."""
    stride, dim = 4, 8
    weights = np.random.default_rng(7).normal(size=(dim, 3, stride, stride)).astype(np.float32) / np.float32(255)
    height, width = -(-image.shape[0] // stride), -(-image.shape[1] // stride)
    padded = np.zeros((height * stride, width * stride, 3))
    padded[: image.shape[0], : image.shape[1]] = image
    features = np.zeros((height, width, dim))
    for y in range(height):
        for x in range(width):
            patch = padded[y * stride : (y + 1) * stride, x * stride : (x + 1) * stride].transpose(2, 0, 1)
            features[y, x] = (weights.astype(np.float64) * patch).sum(axis=(1, 2, 3))
    soft = np.zeros_like(features)
    for y in range(height):
        for x in range(width):
            window = features[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            soft[y, x] = features[y, x] + window.mean(axis=(0, 1))
    norms = np.sqrt((features**2).sum(axis=2)).ravel()
    return soft.reshape(-1, dim), norms / norms.max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(48, 64), (37, 53), (5, 6), (1, 1)])
def test_outputs_are_those_of_plain_loops(make_bundle: MakeBundle, name: str, height: int, width: int) -> None:
    backend = open_backend(make_bundle(), BackendConfig(name=name, threads=1))
    image = images(1, height, width)
    outputs = backend.run(image)
    vectors, attention = by_loops(image[0])
    order = np.argsort(-attention, kind="stable")[:40]
    found = outputs.attention[0][outputs.attention[0] > 0]
    assert len(found) == len(order)
    np.testing.assert_allclose(found, attention[order], atol=1e-5)
    np.testing.assert_allclose(outputs.descriptors[0][: len(order)], vectors[order], atol=1e-4)
    cells = np.stack([order % -(-width // 4), order // -(-width // 4)], axis=1)
    np.testing.assert_allclose(outputs.positions[0][: len(order)], (cells + 0.5) * 4)


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_single(make_bundle: MakeBundle, name: str) -> None:
    backend = open_backend(make_bundle(), BackendConfig(name=name))
    batch = images(3, 40, 52)
    together = backend.run(batch)
    for row in range(3):
        alone = backend.run(batch[row : row + 1])
        np.testing.assert_allclose(together.descriptors[row], alone.descriptors[0], atol=1e-5)
        np.testing.assert_allclose(together.attention[row], alone.attention[0], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_results_outlive_the_next_run(make_bundle: MakeBundle, name: str) -> None:
    backend = open_backend(make_bundle(), BackendConfig(name=name))
    first = backend.run(images(1, 32, 32, seed=1))
    copy = first.descriptors.copy()
    backend.run(images(1, 32, 32, seed=2))
    np.testing.assert_array_equal(first.descriptors, copy)


def test_local_functions_are_inlined(make_bundle: MakeBundle) -> None:
    import onnx

    bundle = make_bundle()
    path = bundle.file(bundle.artefact())
    assert [function.name for function in onnx.load(path).functions] == ["Soften"]
    model = onnx.load_model_from_string(inlined(path))
    assert not model.functions
    assert all(node.domain == "" for node in model.graph.node)


def test_the_backend_says_what_runs(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    for name in NAMES:
        backend = open_backend(bundle, BackendConfig(name=name, threads=1))
        assert (backend.name, backend.precision, backend.threads) == (name, "fp32", 1)
        assert backend.device.startswith("CPU: ")
        assert backend.version[0].isdigit()


def test_openvino_runs_bf16_where_the_cpu_has_it(make_bundle: MakeBundle) -> None:
    from openvino import Core

    if "BF16" not in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16")
    bundle = make_bundle()
    image = images(1, 64, 64)
    exact = open_backend(bundle, BackendConfig()).run(image)
    backend = open_backend(bundle, BackendConfig(precision="bf16"))
    assert (backend.name, backend.precision) == ("openvino", "bf16")
    rough = backend.run(image)
    difference = np.abs(rough.attention - exact.attention).max()
    assert 1e-6 < difference < 0.02, "bf16 has 8 bits: neither equal nor far"


def test_auto_chooses_by_precision() -> None:
    assert BackendConfig().engine == "onnxruntime"
    assert BackendConfig(precision="bf16").engine == "openvino"
    assert BackendConfig(name="openvino").engine == "openvino"


def test_auto_prefers_an_engine_that_was_verified(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    (first,) = bundle.artefacts

    def chosen(precision: str, *pairs: tuple[str, str]) -> str:
        made = tuple(replace(first, target=target, precision=found) for target, found in pairs)
        return choose_for(replace(bundle, artefacts=(first, *made)), precision)

    assert chosen("fp32", ("openvino", "fp32")) == "onnxruntime"
    assert chosen("int8", ("openvino", "int8")) == "openvino", "ONNX Runtime's may have been rejected"
    assert chosen("int8", ("openvino", "int8"), ("onnxruntime", "int8")) == "openvino", "twice as fast"
    assert chosen("int8", ("onnxruntime", "int8")) == "onnxruntime"
    assert chosen("fp16", ("tensorrt", "fp16")) == "onnxruntime"
    assert chosen("bf16") == "openvino"
    only = replace(bundle, artefacts=(replace(first, target="openvino"),))
    assert open_backend(only, BackendConfig()).name == "openvino"


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        (
            *("onnxruntime", "bf16"),
            "--backend onnxruntime has no --precision bf16: use --precision fp32 or fp16 or int8, or --backend",
        ),
        ("tensorflow", "fp32", "backend 'tensorflow' is unknown: give --backend auto, onnxruntime or openvino"),
        ("auto", "fp4", "precision 'fp4' is unknown: give --precision fp32 or fp16 or bf16 or int8 or fp8"),
    ],
)
def test_impossible_combinations_are_refused_before_anything_is_loaded(name: str, precision: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BackendConfig(name=name, precision=precision)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("name", "precision"), [("onnxruntime", "int8"), ("openvino", "fp32")])
def test_a_missing_onnx_is_named_with_its_extra(
    name: str, precision: str, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()
    find = importlib.import_module

    def missing(module: str) -> ModuleType:
        if module == "onnx":
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return find(module)

    monkeypatch.setattr(importlib, "import_module", missing)
    made = replace(bundle, artefacts=tuple(replace(a, precision=precision) for a in bundle.artefacts))
    with pytest.raises(MissingExtraError, match=r"onnx is not installed: run  pip install .*\[cpu\]"):
        open_backend(made, BackendConfig(name=name, precision=precision))


@pytest.mark.parametrize("threads", [0, -1, 2000])
def test_threads_are_checked(threads: int) -> None:
    with pytest.raises(ConfigError, match="give another --threads"):
        BackendConfig(threads=threads)


def test_a_silent_fallback_is_refused() -> None:
    check_providers(["CPUExecutionProvider"], ("CPUExecutionProvider",))
    with pytest.raises(BackendError, match="runs on CPUExecutionProvider instead of CUDAExecutionProvider"):
        check_providers(["CPUExecutionProvider"], ("CUDAExecutionProvider", "CPUExecutionProvider"))


def test_what_openvino_computes_in() -> None:
    assert [hint_of(p, ["FP32", "BF16", "INT8"]) for p in ("fp32", "bf16", "int8")] == ["f32", "bf16", "bf16"]
    assert hint_of("int8", ["FP32", "INT8"]) == "f32"
    check_hint("f32", "f32", "int8")
    with pytest.raises(BackendError, match=r"openvino runs in f32 instead of bf16 \(--precision bf16\)"):
        check_hint("f32", "bf16", "bf16")


def test_bf16_without_hardware_is_refused() -> None:
    check_openvino_precision(["FP32", "BF16"], "bf16")
    check_openvino_precision(["FP32"], "fp32")
    with pytest.raises(BackendError, match="no bf16 arithmetic"):
        check_openvino_precision(["FP32", "INT8"], "bf16")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_none_is_refused_in_one_line(make_bundle: MakeBundle, name: str) -> None:
    with pytest.raises(BackendError, match=f"{name} cannot load") as caught:
        open_backend(make_bundle(model=b"\x12\x03not"), BackendConfig(name=name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_outside_the_range_are_refused(make_bundle: MakeBundle, name: str) -> None:
    backend = open_backend(make_bundle(shapes=ShapeRange(batch=(1, 2), height=(8, 64))), BackendConfig(name=name))
    for shape, what in (((1, 7, 8), "height is 7"), ((1, 65, 8), "height is 65"), ((3, 8, 8), "batch is 3")):
        with pytest.raises(ConfigError, match=what):
            backend.run(images(*shape))
    with pytest.raises(ConfigError, match="uint8"):
        backend.run(images(1, 8, 8).astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_that_returns_other_shapes_is_refused(make_bundle: MakeBundle, name: str) -> None:
    model = make_bundle(top_k=40)
    data = model.file(model.artefact()).read_bytes()
    backend = open_backend(make_bundle(model=data, top_k=41), BackendConfig(name=name))
    with pytest.raises(BackendError, match=r"output descriptors is float32 \(1, 40, 8\)"):
        backend.run(images(1, 16, 16))


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_ends_a_run_that_is_under_way(make_bundle: MakeBundle, name: str) -> None:
    backend = open_backend(make_bundle(blurs=40), BackendConfig(name=name))
    timer = threading.Timer(0.3, _thread.interrupt_main)
    start = time.process_time()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        backend.run(images(1, 1024, 1024))  # its 725 billion operations take more than 15 s of a processor
    assert time.process_time() - start < 8
    small = images(1, 5, 6)
    assert backend.run(small).attention[0, 0] == 1, "the backend is still of use"


def test_importing_the_runtime_is_light() -> None:
    code = (
        "import sys, ctxdeploy.runtime as r, ctxdeploy.runtime.extractor\n"
        "assert r.Extractor and r.BackendConfig\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'PIL', 'faiss', 'numba'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_public_names_exist() -> None:
    import ctxdeploy.runtime as runtime

    for name in runtime.__all__:
        assert getattr(runtime, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        runtime.nothing  # noqa: B018
