"""The control flow around an engine, with a stand-in for TensorRT and CUDA: no engine has run here."""

import gc
import inspect
import json
import mmap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.engines import EngineKey
from ctxdeploy.core.errors import BackendError, ConfigError, MissingExtraError
from ctxdeploy.runtime.backends import BackendConfig, open_backend
from ctxdeploy.runtime.backends.tensorrt import LANES, SLOTS

# That of the engine of ``with_engine``.
ENGINE_KEY = EngineKey(target="tensorrt", version="11.4.0.1", gpu="NVIDIA H200", capabilities=("9.0",))
CONFIG = BackendConfig(name="tensorrt")
TOP_K, DIM = 40, 8


@pytest.fixture
def fake(fake_tensorrt: ModuleType) -> ModuleType:
    return fake_tensorrt


def images(batch: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def held(fake: ModuleType) -> tuple[int, ...]:
    """Return how many pieces of memory here and on the GPU, streams, events and graphs there are."""
    machine = fake.MACHINE
    stores = (machine.device, machine.host, machine.streams, machine.events, machine.graphs, machine.launchable)
    return tuple(len(store) for store in stores)


def test_what_goes_in_and_out_is_the_photos_and_the_answers(
    with_engine: Callable[..., Bundle], fake: ModuleType
) -> None:
    backend = open_backend(with_engine(), CONFIG)
    assert (backend.name, backend.precision, backend.threads) == ("tensorrt", "fp32", None)
    assert (backend.device, backend.version) == ("GPU: NVIDIA H200 (9.0)", "11.4.0.1")
    for shape in ((1, 48, 64), (3, 37, 53), (1, 1, 1), (2, 48, 64)):
        photos = images(*shape)
        outputs, wanted = backend.run(photos), fake.answers(photos, TOP_K, DIM)
        for name, value in wanted.items():
            np.testing.assert_array_equal(getattr(outputs, name), value)


def test_photos_that_do_not_lie_in_one_piece_are_copied_right(
    with_engine: Callable[..., Bundle], fake: ModuleType
) -> None:
    backend = open_backend(with_engine(), CONFIG)
    photos = images(2, 20, 30).transpose(0, 2, 1, 3)[:, ::-1]
    np.testing.assert_array_equal(
        backend.run(photos).descriptors, fake.answers(np.ascontiguousarray(photos), TOP_K, DIM)["descriptors"]
    )


def run_together(backend: Any, height: int, width: int, batch: int = 1) -> list[Any]:
    """Run as many batches at once as may be, so that all slots and lanes are used."""
    runs = [backend.start(images(batch, height, width, seed)) for seed in range(SLOTS)]
    return [run.result() for run in runs]


def test_buffers_stay_grow_and_are_given_back(with_engine: Callable[..., Bundle], fake: ModuleType) -> None:
    backend = open_backend(with_engine(), CONFIG)
    first, *_ = run_together(backend, 48, 64)
    kept = first.descriptors.copy()
    addresses = set(fake.MACHINE.device)
    # Input and outputs of each slot, the scratch memory of each lane.
    assert len(addresses) == 5 * SLOTS + LANES and len(fake.MACHINE.host) == 5 * SLOTS
    assert held(fake)[2:4] == (SLOTS + LANES, 2 * SLOTS + LANES)
    for _ in range(5):
        run_together(backend, 32, 64)
    assert set(fake.MACHINE.device) == addresses, "a smaller input takes the same memory"
    np.testing.assert_array_equal(first.descriptors, kept)
    run_together(backend, 64, 64, 4)
    run_together(backend, 64, 64, 4)
    assert held(fake)[:2] == (5 * SLOTS + LANES, 5 * SLOTS)
    assert max(len(memory) for memory in fake.MACHINE.device.values()) == 4 * 64 * 64 * 3
    del backend
    gc.collect()
    assert not any(held(fake))


def test_who_asks_for_one_batch_at_a_time_takes_one_slot_and_one_lane(
    with_engine: Callable[..., Bundle], fake: ModuleType
) -> None:
    backend = open_backend(with_engine(), CONFIG)
    for seed in range(5):
        backend.run(images(1, 48, 64, seed))
    assert held(fake)[:2] == (5 + 1, 5) and len(fake.MACHINE.launchable) == 1


def test_a_shape_outside_the_engine_is_refused_with_its_range(with_engine: Callable[..., Bundle]) -> None:
    backend = open_backend(with_engine(), CONFIG)
    with pytest.raises(ConfigError) as caught:
        backend.run(images(5, 48, 64))
    assert str(caught.value) == (
        "the input's 5×48×64 (photos × rows × columns) is outside the engine's 1..4 × 1..64 × 1..64: give a smaller "
        "--batch-size, or build the engine anew with a larger --max-batch"
    )
    assert len(backend.run(images(4, 48, 64)).descriptors) == 4, "the backend works on"
    with pytest.raises(ConfigError, match=r"this bundle takes 1\.\.1024"):
        backend.run(np.zeros((1, 2000, 8, 3), np.uint8))


def test_an_engine_of_another_gpu_is_refused_before_anything_is_loaded(
    with_engine: Callable[..., Bundle], fake: ModuleType
) -> None:
    bundle = with_engine(key=replace(ENGINE_KEY, gpu="NVIDIA A100", capabilities=("8.0",)))
    fake.Runtime.made = 0
    with pytest.raises(BackendError) as caught:
        open_backend(bundle, CONFIG)
    assert str(caught.value) == (
        "engine was built for NVIDIA A100 (8.0) with TensorRT 11.4.0.1, here is NVIDIA H200 (9.0) with TensorRT "
        f"11.4.0.1 (another GPU): run  ctxdeploy build {bundle.path} --target tensorrt --precision fp32"
    )
    assert fake.Runtime.made == 0


def test_without_a_driver_nothing_of_tensorrt_is_made(
    with_engine: Callable[..., Bundle], fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_engine()
    fake.install(monkeypatch, fake, status=999)
    fake.Runtime.made = 0
    with pytest.raises(BackendError, match="driver is not usable"):
        open_backend(bundle, CONFIG)
    assert fake.Runtime.made == 0


def test_a_bundle_without_the_engine_names_the_command(with_engine: Callable[..., Bundle]) -> None:
    bundle = with_engine()
    with pytest.raises(BackendError) as caught:
        open_backend(bundle, BackendConfig(name="tensorrt", precision="fp16"))
    assert str(caught.value) == (
        f"{bundle.path} has no TensorRT engine of fp16: run  ctxdeploy build {bundle.path} --target tensorrt "
        "--precision fp16"
    )


def test_a_missing_package_names_its_extra(
    make_bundle: Callable[..., Bundle], with_engine: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    bundle = with_engine()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "cuda", None)
    rtx = replace(ENGINE_KEY, target="tensorrt-rtx", gpu=None, capabilities=("9.0",))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", sys.modules["tensorrt"])
    for made, config, extra in (
        (bundle, CONFIG, "tensorrt"),
        (with_engine(key=rtx), BackendConfig(name=rtx.target), "rtx"),
    ):
        with pytest.raises(MissingExtraError, match=rf"cuda is not installed: run .*\[{extra}\]'"):
            open_backend(made, config)


def test_a_damaged_plan_is_refused_in_one_line(with_engine: Callable[..., Bundle]) -> None:
    with pytest.raises(BackendError, match=r"engine\.plan cannot be loaded: Serialization assertion magicTag failed$"):
        open_backend(with_engine(plan=b"no plan"), CONFIG)


def test_an_empty_plan_is_refused_in_one_line(with_engine: Callable[..., Bundle]) -> None:
    with pytest.raises(BackendError, match=r"engine\.plan cannot be loaded: the file is empty$"):
        open_backend(with_engine(plan=b""), CONFIG)


def test_a_plan_is_read_where_it_lies(with_engine: Callable[..., Bundle], fake: ModuleType, monkeypatch: Any) -> None:
    """TensorRT reads the file's pages: no copy of a plan of hundreds of MB is made."""
    given: list[Any] = []
    real = fake.Runtime.deserialize_cuda_engine

    def noted(self: Any, serialized_engine: Any) -> Any:
        given.append(serialized_engine)
        return real(self, bytes(serialized_engine))

    monkeypatch.setattr(fake.Runtime, "deserialize_cuda_engine", noted)
    open_backend(with_engine(), CONFIG)
    assert isinstance(given[0], mmap.mmap) and bytes(given[0]).startswith(b'{"engine"')
    with pytest.raises(TypeError):
        given[0][0] = 0  # for reading alone


def test_an_engine_of_another_network_is_refused(with_engine: Callable[..., Bundle], fake: ModuleType) -> None:
    bundle = with_engine()
    fake.ICudaEngine.names = ("image", "logits")
    with pytest.raises(BackendError, match="inputs and outputs are image, logits: build it anew"):
        open_backend(bundle, CONFIG)


def test_an_engine_with_another_k_is_refused(with_engine: Callable[..., Bundle], fake: ModuleType) -> None:
    backend = open_backend(with_engine(plan=fake.plan((1, 1, 1, 3), (4, 64, 64, 3), TOP_K + 1, DIM)), CONFIG)
    with pytest.raises(BackendError, match=r"output descriptors is float32 \(1, 41, 8\), not float32 \(1, 40, 8\)"):
        backend.run(images(1, 8, 8))


def test_outputs_without_a_fixed_shape_are_refused(with_engine: Callable[..., Bundle], fake: ModuleType) -> None:
    backend = open_backend(with_engine(plan=fake.plan((1, 1, 1, 3), (4, 64, 64, 3), -1, DIM)), CONFIG)
    with pytest.raises(BackendError, match="no shape for descriptors, attention, positions, scales: build"):
        backend.run(images(1, 8, 8))


def test_too_little_memory_is_said(with_engine: Callable[..., Bundle], fake: ModuleType) -> None:
    backend = open_backend(with_engine(), CONFIG)
    fake.MACHINE.limit = 10_000
    with pytest.raises(BackendError, match="cudaMalloc: cudaErrorMemoryAllocation"):
        backend.run(images(4, 64, 64))
    fake.MACHINE.limit = 1 << 40
    assert len(backend.run(images(4, 64, 64)).descriptors) == 4, "the backend works on"
    fake.ICudaEngine.context_fails = True
    with pytest.raises(BackendError, match=r"no memory for the engine: CUDA out of memory \(.*--max-batch\)"):
        open_backend(with_engine(), CONFIG)


def test_a_failing_run_says_why(with_engine: Callable[..., Bundle], fake: ModuleType) -> None:
    backend = open_backend(with_engine(), CONFIG)
    fake.IExecutionContext.fails = "illegal memory access\n  in conv1"
    with pytest.raises(BackendError, match=r"failed on an input of \(1, 8, 8, 3\): illegal memory access in conv1"):
        backend.run(images(1, 8, 8))


@pytest.mark.parametrize("compatible", [False, True])
def test_code_in_a_plan_is_allowed_only_where_the_key_says_so(
    with_engine: Callable[..., Bundle], fake: ModuleType, compatible: bool
) -> None:
    backend: Any = open_backend(with_engine(key=replace(ENGINE_KEY, version_compatible=compatible)), CONFIG)
    assert backend._engine._runtime.engine_host_code_allowed is compatible


def test_an_engine_that_needs_plug_ins_is_refused(with_engine: Callable[..., Bundle]) -> None:
    """Engines of the first versions could list libraries of kernels."""
    with pytest.raises(BackendError, match=r"needs plug-in libraries \(libctx\.so\), which are not loaded any more"):
        open_backend(with_engine(plugins={"libctx.so": "0" * 64}), CONFIG)


def test_the_stand_ins_answers_depend_on_every_pixel(fake: ModuleType) -> None:
    photo = np.zeros((1, 5, 6, 3), np.uint8)
    changed = photo.copy()
    changed[0, 4, 5, 2] = 1
    first, second = (fake.answers(x, 3, 2)["descriptors"] for x in (photo, changed))
    assert not np.array_equal(first, second)


def test_the_stand_in_has_the_names_and_signatures_of_the_real_one(fake: ModuleType) -> None:
    api = json.loads((Path(fake.__file__ or "").parent / "api-11.4.json").read_text(encoding="utf-8"))["names"]
    own = {"fails", "hook", "names", "context_fails", "made", "refuses", "errors", "machine", "model", "strategy"}
    compared = 0
    for name, cls in vars(fake).items():
        if not isinstance(cls, type) or cls.__module__ != fake.__name__ or name == "Driver":
            continue
        entry = api[name]
        for member, value in vars(cls).items():
            if member.startswith("_") or member in own:
                continue
            compared += 1
            if entry["kind"] == "enum":
                assert member in entry["values"], f"{name}.{member}"
                continue
            assert member in entry["members"], f"{name}.{member}"
            signatures = entry["members"][member].get("signatures")
            if signatures and callable(value):
                code = value.__code__
                names = list(code.co_varnames[1 : code.co_argcount])
                # What the stand-in leaves out at the end must have a default.
                fits = [
                    names == [p[0] for p in s["params"]][: len(names)]
                    and all(len(p) == 3 for p in s["params"][len(names) :])
                    for s in signatures
                ]
                assert any(fits), f"{name}.{member}({', '.join(names)})"
    assert compared > 40


def test_the_stand_in_for_cuda_takes_what_the_real_one_takes(load_reference: Any) -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    reference = load_reference("fake_cuda")
    for name, function in reference.Machine()._functions().items():
        line = (getattr(real, name).__doc__ or "").splitlines()[0]
        given = line[line.index("(") + 1 : line.rindex(")")].split(",")
        wanted = [part.partition(":")[0].split()[-1] for part in given]
        assert list(inspect.signature(getattr(function, "stands_for", function)).parameters) == wanted, name
    for kind in (reference.cudaError_t, reference.cudaMemcpyKind, reference.cudaStreamCaptureMode):
        for member in kind:
            assert int(getattr(getattr(real, kind.__name__), member.name)) == member.value, member
