"""ONNX Runtime on CUDA, with stand-ins whose streams run late and in any order: no GPU has computed here."""

import _thread
import gc
import inspect
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy.core.bundle import Bundle, ShapeRange
from ctxdeploy.core.device import Gpu
from ctxdeploy.core.errors import BackendError, BundleError, MissingExtraError, OutOfMemoryError
from ctxdeploy.core.origin import install_line
from ctxdeploy.runtime import BackendConfig, Extractor, ExtractorConfig, find_photos
from ctxdeploy.runtime.backends import open_backend
from ctxdeploy.runtime.backends.base import GraphOutputs, RunLimits, RunTimeoutError
from ctxdeploy.runtime.backends.cuda import Cuda
from ctxdeploy.runtime.backends.cuda_session import provider_options
from ctxdeploy.runtime.backends.onnxruntime_cuda import CudaBackend, fitting_batch
from ctxdeploy.runtime.network import ExtractionStatistics

MakeBundle = Callable[..., Bundle]
CONFIG = BackendConfig(name="cuda")
NAMES = ("descriptors", "attention", "positions", "scales")
SHAPES = ((1, 8, 8), (3, 5, 7), (2, 48, 64), (1, 1, 1), (4, 12, 9))


class Stage:
    """The stand-ins, in place of the real packages.

    Attributes:
        machine: the GPU.
        runtime: ONNX Runtime.
        bundle: of the tiny network.
        plain: the same bundle in ONNX Runtime on the CPU.
    """

    def __init__(self, load_reference: Callable[[str], ModuleType], patch: pytest.MonkeyPatch, bundle: Bundle) -> None:
        self._load, self._patch = load_reference, patch
        self.bundle = bundle
        self.plain = open_backend(bundle, BackendConfig(name="onnxruntime", threads=1))
        self._fakes = load_reference("fake_cuda"), load_reference("fake_onnxruntime")
        self.begin(0)

    def begin(self, seed: int, devices: int = 1) -> None:
        """Take another GPU, whose order of things comes from a seed."""
        cuda, ort = self._fakes
        self.machine = cuda.Machine(seed, devices)
        self.runtime = ort.install(self._patch, self.machine)

    def open(self, config: BackendConfig = CONFIG, bundle: Bundle | None = None) -> Any:
        return open_backend(bundle or self.bundle, config)


@pytest.fixture
def stage(
    load_reference: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, make_bundle: MakeBundle
) -> Iterator[Stage]:
    yield Stage(load_reference, monkeypatch, make_bundle())
    gc.collect()


def images(shape: tuple[int, int, int], seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def same(found: GraphOutputs, wanted: GraphOutputs) -> bool:
    """Say whether all rows that are no padding agree bit by bit, and all padding is zero."""
    there = wanted.attention != 0
    if found.attention.tobytes() != wanted.attention.tobytes():
        return False
    for name in NAMES:
        one, other = getattr(found, name), getattr(wanted, name)
        if one.shape != other.shape or one[there].tobytes() != other[there].tobytes():
            return False
    return True


def play(stage: Stage, seed: int, actions: list[tuple[str, int]], is_early: bool = False) -> bool:
    """Start batches, take their results and close them; say whether every result was right."""
    stage.begin(seed)
    stage.runtime.is_early = is_early
    backend, runs, right = stage.open(), [], []
    for number, (action, shape) in enumerate(actions):
        if action == "start" and len(runs) < backend.in_flight:
            photos = images(SHAPES[shape], number)
            runs.append((backend.start(list(photos.copy())), photos))
        elif action == "result" and runs:
            run, photos = runs.pop(0)
            right.append(same(run.result(), stage.plain.run(photos)))
        elif action == "close" and runs:
            runs.pop(0)[0].close()
    for run, photos in runs:
        right.append(same(run.result(), stage.plain.run(photos)))
    return all(right)


def test_results_are_those_of_the_cpu_whatever_the_order_of_streams(stage: Stage) -> None:
    action = st.tuples(st.sampled_from(["start", "start", "result", "close"]), st.integers(0, len(SHAPES) - 1))

    @given(st.integers(0, 1 << 30), st.lists(action, max_size=20), st.booleans())
    @settings(suppress_health_check=[HealthCheck.too_slow])
    def check(seed: int, actions: list[tuple[str, int]], is_early: bool) -> None:
        assert play(stage, seed, actions, is_early)

    check()


OVERLAPPING = [
    *[("start", 0), ("start", 1), ("start", 4), ("result", 0), ("start", 2), ("close", 0), ("start", 3)],
    *[("close", 0)] * 3,
    *[("start", 3)] * 3,
    *[("close", 0)] * 3,
    *[("start", 2)] * 3,  # needs more memory
]


def no_wait_for_uploads(patch: pytest.MonkeyPatch) -> None:
    wait = Cuda.wait
    patch.setattr(Cuda, "wait", lambda self, stream, event: None if stream in opened else wait(self, stream, event))
    opened: list[int] = []
    make = CudaBackend.__init__

    def noting(self: CudaBackend, bundle: Bundle, config: BackendConfig) -> None:
        make(self, bundle, config)
        opened.append(self._stream)

    patch.setattr(CudaBackend, "__init__", noting)


def no_wait_for_the_network(patch: pytest.MonkeyPatch) -> None:
    wait = Cuda.wait
    opened: list[int] = []
    make = CudaBackend.__init__

    def noting(self: CudaBackend, bundle: Bundle, config: BackendConfig) -> None:
        make(self, bundle, config)
        opened.append(self._stream)

    patch.setattr(CudaBackend, "__init__", noting)
    patch.setattr(Cuda, "wait", lambda self, stream, event: wait(self, stream, event) if stream in opened else None)


def no_wait_for_downloads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Cuda, "finish", lambda self, event, check: None)


def no_wait_for_rows(patch: pytest.MonkeyPatch) -> None:
    finish, calls = Cuda.finish, [0]

    def every_other(self: Cuda, event: int, check: Callable[[], None]) -> None:
        calls[0] += 1
        if calls[0] % 2:
            finish(self, event, check)

    patch.setattr(Cuda, "finish", every_other)


def no_wait_before_a_slot_is_used_again(patch: pytest.MonkeyPatch) -> None:
    def at_once(self: CudaBackend, slot: Any, computed: Any) -> None:
        self._free.append(slot)

    patch.setattr(CudaBackend, "give_back", at_once)


@pytest.mark.parametrize(
    "spoil",
    [
        no_wait_for_uploads,
        no_wait_for_the_network,
        no_wait_for_downloads,
        no_wait_for_rows,
        no_wait_before_a_slot_is_used_again,
    ],
)
def test_without_any_one_of_the_waits_results_are_wrong(
    stage: Stage, spoil: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """What the test above is worth."""

    def is_right(seed: int) -> bool:
        try:
            return play(stage, seed, OVERLAPPING, is_early=True)
        except (AssertionError, BackendError):  # memory that was given back is used
            return False

    assert all(play(stage, seed, OVERLAPPING, is_early=True) for seed in range(4))
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch)
        assert not all(is_right(seed) for seed in range(40))


def test_photos_may_be_changed_once_their_batch_has_begun(stage: Stage) -> None:
    backend = stage.open()
    photos = images((3, 5, 7), 0)
    wanted = stage.plain.run(photos)
    run = backend.start(photos)
    photos[:] = 0
    assert same(run.result(), wanted)
    kept = wanted.descriptors.copy()
    found = backend.run(images((3, 5, 7), 0))
    backend.run(images((3, 5, 7), 1))
    np.testing.assert_array_equal(found.descriptors, kept, err_msg="results outlive the next runs")


def test_what_is_asked_of_the_runtime(stage: Stage) -> None:
    stage.begin(0, devices=3)
    backend = stage.open(BackendConfig(name="cuda", device="cuda:2", threads=1))
    (options,) = stage.runtime.options
    assert options == provider_options(2, backend._stream, None)
    assert (options["device_id"], options["use_tf32"], options["cudnn_conv_algo_search"]) == ("2", "0", "HEURISTIC")
    assert (backend.name, backend.precision, backend.device) == ("cuda", "fp32", "GPU: NVIDIA H200 (9.0)")
    photos = images((2, 9, 9), 3)
    found: list[GraphOutputs] = []
    # The stand-in fails a thread that uses a stream of another GPU than its own.
    thread = threading.Thread(target=lambda: found.append(backend.run(photos)))
    thread.start()
    thread.join(300)
    assert same(found[0], stage.plain.run(photos))


def test_batches_are_of_what_fits_the_gpu_unless_told(stage: Stage) -> None:
    config = ExtractorConfig(isolated=False)
    extractor = Extractor(stage.bundle, backend=CONFIG, config=config)
    assert extractor.config.batch_size == extractor.description()["batch_size"] == 32
    told = Extractor(stage.bundle, backend=CONFIG, config=replace(config, batch_size=5))
    assert told.description()["batch_size"] == 5
    on_cpu = Extractor(stage.bundle, backend=BackendConfig(name="onnxruntime", threads=1), config=config)
    assert on_cpu.description()["batch_size"] == 1


def test_a_limit_of_memory_bounds_the_arena(stage: Stage) -> None:
    config = ExtractorConfig(isolated=False, memory_limit=1 << 40)
    extractor = Extractor(stage.bundle, backend=CONFIG, config=config)
    assert [options.get("gpu_mem_limit") for options in stage.runtime.options] == [None, str(1 << 40)]
    gc.collect()
    assert len(stage.runtime.sessions) == 1
    assert same(extractor._backend.run(images((1, 8, 8), 0)), stage.plain.run(images((1, 8, 8), 0)))


def test_a_fourth_run_is_refused(stage: Stage) -> None:
    backend = stage.open()
    runs = [backend.start(images((1, 8, 8), seed)) for seed in range(3)]
    with pytest.raises(BackendError, match="3 runs are open: take the result of one, or close it"):
        backend.start(images((1, 8, 8), 4))
    runs[1].close()
    runs[1] = backend.start(images((1, 8, 8), 1))
    for seed, run in enumerate(runs):
        assert same(run.result(), stage.plain.run(images((1, 8, 8), seed)))


def test_everything_is_given_back(stage: Stage) -> None:
    backend = stage.open()
    before = len(stage.machine.streams)
    for seed in range(8):
        backend.run(images((2, 48, 64), seed))
    assert len(stage.machine.streams) == before == 4
    assert len(stage.machine.device) == len(stage.machine.host) == 5, "one slot was enough"
    unread = backend.start(images((1, 8, 8), 0))
    del unread, backend
    machine, until = stage.machine, time.monotonic() + 300
    while machine.streams and time.monotonic() < until:  # the thread may still compute what nobody reads
        time.sleep(0.01)
        gc.collect()
    assert not machine.device and not machine.host and not machine.streams and not machine.events
    assert not stage.runtime.sessions


OUT_OF_MEMORY = "Status Message: BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9"


def photo_batches(stage: Stage, batch_size: int) -> tuple[list[Any], list[Any], ExtractionStatistics]:
    """Return what an extractor finds in photos of several sizes on a GPU and on the CPU, and its statistics."""
    folder = stage.bundle.path.parent / "photos"
    folder.mkdir(exist_ok=True)
    for number in range(14):
        height, width = ((20, 40), (40, 20), (12, 12))[number % 3]
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    config = ExtractorConfig(isolated=False, batch_size=batch_size)
    found, extractors = [], []
    for name in ("cuda", "onnxruntime"):
        extractors.append(Extractor(stage.bundle, backend=BackendConfig(name=name, threads=1), config=config))
        found.append(sorted(extractors[-1].extract(find_photos(folder)), key=lambda one: one.name))
    return found[0], found[1], extractors[0].statistics


def agree(found: list[Any], wanted: list[Any]) -> bool:
    return [one.name for one in found] == [one.name for one in wanted] and all(
        getattr(one.descriptors, name).tobytes() == getattr(other.descriptors, name).tobytes()
        for one, other in zip(found, wanted, strict=True)
        for name in ("vectors", "attention", "positions", "scales")
    )


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_extraction_finds_what_it_finds_on_the_cpu(stage: Stage, batch_size: int) -> None:
    found, wanted, statistics = photo_batches(stage, batch_size)
    assert len(found) == 14 and agree(found, wanted)
    assert statistics.halved_batches == 0 and statistics.seconds.network > 0


@pytest.mark.parametrize("number", range(3))
def test_memory_that_runs_out_in_any_run_halves_its_batch(stage: Stage, number: int) -> None:
    stage.runtime.failures[number] = OUT_OF_MEMORY
    found, wanted, statistics = photo_batches(stage, 4)
    assert agree(found, wanted)
    assert statistics.halved_batches == 1
    assert len(stage.runtime.options) == 2, "the session was made anew, which gives the arena back"
    gc.collect()
    assert not stage.runtime.sessions


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaHostAlloc"])
@pytest.mark.parametrize("number", range(0, 16, 3))
def test_memory_that_is_not_there_for_a_slot_halves_its_batch(stage: Stage, call: str, number: int) -> None:
    module = sys.modules["cuda.bindings.runtime"]
    allocate, calls = getattr(module, call), [0]

    def fail_once(*arguments: Any) -> Any:
        calls[0] += 1
        status = module.cudaError_t.cudaErrorMemoryAllocation  # type: ignore[attr-defined]
        return (status, None) if calls[0] == number + 1 else allocate(*arguments)

    setattr(module, call, fail_once)
    found, wanted, statistics = photo_batches(stage, 4)
    assert agree(found, wanted)
    assert statistics.halved_batches == (calls[0] > number)


def test_a_photo_that_does_not_fit_alone_fails_alone(stage: Stage) -> None:
    stage.machine.limit = 2000  # bytes at once: 20×40 pixels have 2,400, 12×12 have 432; K×D numbers have 1,280
    found, wanted, _ = photo_batches(stage, 1)
    failed = [one for one in found if not hasattr(one, "descriptors")]
    assert [one.name for one in failed] == [one.name for one in wanted if one.size != (12, 12)]
    assert "the network has not enough memory for its" in failed[0].reason
    rest = [(one, other) for one, other in zip(found, wanted, strict=True) if one not in failed]
    assert agree([one for one, _ in rest], [other for _, other in rest])


def test_another_failure_of_a_run_leaves_the_others_right(stage: Stage) -> None:
    backend = stage.open()
    stage.runtime.failures[1] = "Non-zero status code returned while running Conv node. CUDNN_STATUS_EXECUTION_FAILED"
    runs = [backend.start(images((2, 9, 9), seed)) for seed in range(3)]
    assert same(runs[0].result(), stage.plain.run(images((2, 9, 9), 0)))
    with pytest.raises(BackendError, match=r"cuda failed on an input of .*EXECUTION_FAILED"):
        runs[1].result()
    assert same(runs[2].result(), stage.plain.run(images((2, 9, 9), 2)))
    assert len(stage.runtime.options) == 1


@contextmanager
def interrupted(stage: Stage) -> Iterator[None]:
    """Let a run stick, and press Ctrl-C."""

    def press() -> None:
        assert stage.runtime.stuck.wait(300)
        _thread.interrupt_main()

    stage.runtime.is_stuck = True
    stage.runtime.stuck.clear()
    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    thread.join()
    stage.runtime.is_stuck = False


def test_ctrl_c_ends_a_run_and_leaves_the_backend_of_use(stage: Stage) -> None:
    backend = stage.open()
    with interrupted(stage):
        backend.run(images((1, 8, 8), 0))
    for seed in range(4):
        assert same(backend.run(images((1, 8, 8), seed)), stage.plain.run(images((1, 8, 8), seed)))


def test_ctrl_c_ends_an_extraction_and_leaves_the_extractor_of_use(stage: Stage) -> None:
    file = io.BytesIO()
    Image.fromarray(images((1, 20, 30), 0)[0]).save(file, "PNG")
    config = ExtractorConfig(isolated=False)
    wanted = Extractor(stage.bundle, backend=BackendConfig(name="onnxruntime"), config=config)
    extractor = Extractor(stage.bundle, backend=CONFIG, config=config)
    for _ in range(4):
        with interrupted(stage):
            extractor.extract_one(file.getvalue())
    found = extractor.extract_one(file.getvalue())
    assert found.vectors.tobytes() == wanted.extract_one(file.getvalue()).vectors.tobytes()


def test_a_run_that_takes_too_long_is_ended(stage: Stage) -> None:
    backend = stage.open()
    backend.limits = RunLimits(seconds=0.05)
    stage.runtime.is_stuck = True
    with pytest.raises(RunTimeoutError, match="longer than"):
        backend.run(images((1, 8, 8), 0))
    run = backend.start(images((1, 8, 8), 0))
    run.wait()
    with pytest.raises(RunTimeoutError, match="longer than"):
        run.result()
    stage.runtime.is_stuck = False
    backend.limits = RunLimits()
    assert same(backend.run(images((1, 8, 8), 1)), stage.plain.run(images((1, 8, 8), 1)))


def test_a_run_that_is_closed_before_its_turn_is_not_computed(stage: Stage) -> None:
    backend = stage.open()
    stage.runtime.is_stuck = True
    first, second = backend.start(images((1, 8, 8), 0)), backend.start(images((1, 8, 8), 1))
    second.close()
    stage.runtime.is_stuck = False
    assert same(first.result(), stage.plain.run(images((1, 8, 8), 0)))
    assert stage.runtime.runs == 1


def test_what_runs_on_the_cpu_is_refused(stage: Stage) -> None:
    stage.runtime.in_force, stage.runtime.said = "CPUExecutionProvider", "Failed to load libcudnn.so.9: no such file"
    with pytest.raises(BackendError) as caught:
        stage.open()
    assert str(caught.value) == (
        "onnxruntime runs on CPUExecutionProvider instead of CUDAExecutionProvider (Failed to load libcudnn.so.9: no "
        f"such file): the driver, or a library of CUDA or cuDNN, is too old or missing: run  {install_line('cuda')}"
    )
    stage.runtime.in_force = "CUDAExecutionProvider"
    stage.runtime.on_cpu = ("Shape", "TopK", "Mul", "Conv")
    with pytest.raises(BackendError, match="onnxruntime would run Conv, TopK on the CPU"):
        stage.open()
    stage.runtime.on_cpu = ("Shape", "Concat", "Mul")
    assert stage.open().run(images((1, 8, 8), 0)).attention[0, 0] == 1
    stage.runtime.providers = ["CPUExecutionProvider"]
    with pytest.raises(MissingExtraError, match=r"onnxruntime-gpu is not installed: run  .*\[cuda\]"):
        stage.open()
    assert not stage.machine.device and not stage.machine.host


def test_a_session_that_cannot_be_made(stage: Stage) -> None:
    stage.runtime.refusal = "CUDA failure 2: out of memory ; GPU=0"
    with pytest.raises(OutOfMemoryError, match=r"onnxruntime on CUDA cannot load .*model.onnx: CUDA failure 2"):
        stage.open()
    stage.runtime.refusal = "Invalid protobuf"
    with pytest.raises(BackendError, match=r"onnxruntime on CUDA cannot load .*model.onnx: Invalid protobuf"):
        stage.open()
    gc.collect()
    assert not stage.machine.streams and not stage.machine.events


def test_the_graph_of_onnx_runtime_is_run_in_its_precision(stage: Stage) -> None:
    (first,) = stage.bundle.artefacts
    both = replace(stage.bundle, artefacts=(first, replace(first, precision="fp16")))
    assert stage.open(BackendConfig(name="cuda", precision="fp16"), both).precision == "fp16"
    with pytest.raises(BundleError, match=r"has no .*fp16 artefact"):
        stage.open(BackendConfig(name="cuda", precision="fp16"))


def test_a_batch_that_fits_the_gpu(make_bundle: MakeBundle) -> None:
    def of(memory: int, image_size: int, most: int = 64) -> int:
        bundle = make_bundle(image_size=image_size, shapes=ShapeRange(batch=(1, most)))
        return fitting_batch(Gpu(name="a", capability=(9, 0), memory=memory << 30), bundle)

    assert (of(141, 1024), of(24, 1024), of(8, 1024), of(1, 1024), of(0, 1024)) == (32, 12, 4, 1, 1)
    assert (of(24, 2048), of(24, 512), of(141, 1024, most=8)) == (3, 32, 8)


def test_the_stand_in_has_the_names_and_parameters_of_the_real_package(stage: Stage) -> None:
    import onnxruntime

    fake = stage._fakes[1]
    real = fake.real
    assert real.__version__.split(".")[0] == "1" and real is not onnxruntime
    made = stage.runtime.module()

    def parameters(function: Any) -> list[str]:
        return [name for name in inspect.signature(function).parameters if name != "self"]

    assert parameters(made.InferenceSession) == parameters(real.InferenceSession.__init__)
    assert parameters(made.preload_dlls) == parameters(real.preload_dlls)
    for name in ("get_providers", "get_provider_graph_assignment_info", "io_binding", "run_with_iobinding"):
        assert parameters(getattr(fake.Session, name)) == parameters(getattr(real.InferenceSession, name))
    for name in ("bind_input", "bind_output"):
        assert parameters(getattr(fake.IOBinding, name)) == parameters(getattr(real.IOBinding, name))
    options = real.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    model = stage.bundle.file(stage.bundle.artefact())
    session = real.InferenceSession(str(model), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    parts = session.get_provider_graph_assignment_info()
    assert {part.ep_name for part in parts} == {"CPUExecutionProvider"}
    operators = {node.op_type for part in parts for node in part.get_nodes()}
    assert {"Conv", "TopK", "AveragePool"} <= operators, "local functions are looked into"
    for text in provider_options(0, 1, 2).values():
        assert isinstance(text, str)
