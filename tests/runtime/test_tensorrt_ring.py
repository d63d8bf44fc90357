"""Batches under way on a GPU that stands for one: streams run late and in any order, and a race is a wrong number."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import BackendError, CtxdeployError, OutOfMemoryError
from ctxdeploy.runtime.backends import Backend, BackendConfig, open_backend
from ctxdeploy.runtime.backends.base import Run, RunLimits, RunTimeoutError
from ctxdeploy.runtime.backends.cuda import Cuda
from ctxdeploy.runtime.backends.lane import Lane
from ctxdeploy.runtime.backends.ring import Slot, most_rows
from ctxdeploy.runtime.backends.tensorrt import SLOTS

TOP_K, DIM = 40, 8
WHOLE = ((1, 1, 1, 3), (4, 64, 64, 3))
# Low, typical and high of profiles for 4:3 and 3:4.
BUCKETS = (((1, 33, 64, 3), (4, 48, 64, 3), (4, 48, 64, 3)), ((1, 64, 33, 3), (4, 64, 48, 3), (4, 64, 48, 3)))
SEEDS = range(12)
Photos = NDArray[np.uint8]
Open = Callable[..., Backend]


@pytest.fixture
def opened(with_engine: Callable[..., Bundle], fake_tensorrt: ModuleType) -> Open:
    """Return a function that opens a backend of the stand-in, with its streams in an order of their own."""

    def open_one(seed: int = 0, *, rows: int | None = None, more: Any = (), **settings: Any) -> Backend:
        fake_tensorrt.MACHINE.random.seed(seed)
        plan = fake_tensorrt.plan(*WHOLE, TOP_K, DIM, more=more, rows=rows)
        return open_backend(with_engine(plan), BackendConfig(name="tensorrt", **settings))

    return open_one


def batches(seed: int, count: int) -> Iterator[list[Photos]]:
    """Yield batches of a few shapes that come again and again and grow, and now and then of any other."""
    rng = np.random.default_rng(seed)
    shapes = [(8, 8), (9, 9), (10, 12), (14, 16), (20, 24), (30, 32), (40, 48), (48, 64), (64, 48), (64, 64)]
    for number in range(count):
        few = shapes[max(0, number // 8 - 3) : number // 8 + 1]
        height, width = few[rng.integers(len(few))] if rng.random() < 0.95 else rng.integers(1, 65, 2)
        yield list(rng.integers(0, 256, (rng.integers(1, 3), height, width, 3), dtype=np.uint8))


def check(fake: ModuleType, run: Run, photos: Photos, rows: int | None = None) -> None:
    """Compare what came back with what the "engine" computes; its padding, which is NaN there, with zeros."""
    outputs, wanted = run.result(), fake.answers(photos, TOP_K, DIM, rows)
    there = wanted["attention"] != 0
    np.testing.assert_array_equal(outputs.attention, np.float32(wanted["attention"]))
    for name in ("descriptors", "positions", "scales"):
        found = getattr(outputs, name)
        np.testing.assert_array_equal(found[there], np.float32(wanted[name])[there], err_msg=name)
        most = most_rows(outputs.attention)
        assert not found[:, most:].any(), "what did not come back is zeros"


def stream(fake: ModuleType, backend: Backend, seed: int, count: int = 80, rows: int | None = None) -> None:
    """Run batches with as many under way as may be; the photos are spoiled as soon as they were taken."""
    under_way: deque[tuple[Run, Photos]] = deque()
    try:
        for photos in batches(seed, count):
            kept = np.stack(photos)
            if len(under_way) == backend.in_flight:
                check(fake, *under_way.popleft(), rows)
            under_way.append((backend.start(photos), kept))
            for photo in photos:
                photo[:] = 0
        while under_way:
            check(fake, *under_way.popleft(), rows)
    finally:
        for run, _ in under_way:
            with suppress(KeyboardInterrupt):  # a second one
                run.close()


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("seed", SEEDS)
def test_batches_under_way_at_once_do_not_disturb_each_other(
    opened: Open, fake_tensorrt: ModuleType, seed: int, graphs: bool
) -> None:
    backend = opened(seed, more=BUCKETS, cuda_graphs=graphs)
    assert backend.in_flight == SLOTS == 3
    stream(fake_tensorrt, backend, seed)
    assert (fake_tensorrt.MACHINE.launches > 0) is graphs


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_that_do_not_exist_do_not_come_back(opened: Open, fake_tensorrt: ModuleType, seed: int) -> None:
    stream(fake_tensorrt, opened(seed, rows=17), seed, rows=17)


def test_no_more_is_copied_than_the_photo_with_the_most_rows_has(
    opened: Open, fake_tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[tuple[int, int]] = []
    real = Cuda.download_rows

    def noted(self: Cuda, buffer: Any, pitch: int, width: int, height: int, stream: int) -> None:
        copied.append((width, height))
        real(self, buffer, pitch, width, height, stream)

    monkeypatch.setattr(Cuda, "download_rows", noted)
    backend = opened(rows=30)
    photos = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (5, 12, 0)])
    outputs = backend.run(photos)
    assert (outputs.attention != 0).sum(axis=1).tolist() == [5, 12, 0]
    assert sorted(copied) == [(12 * 4, 3), (12 * 2 * 4, 3), (12 * DIM * 4, 3)]
    copied.clear()
    assert backend.run(np.zeros((2, 8, 8, 3), np.uint8)).descriptors.shape == (2, TOP_K, DIM)
    assert copied == []


# ---- what must not be left out


def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stream waits for another."""
    monkeypatch.setattr(Cuda, "wait", lambda self, stream, event: None)


def computing_before_the_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Lane.launch
    never: list[int] = []

    def launch(self: Lane, work: Any, uploaded: int) -> None:
        never[:] = never or [self._cuda.event()]
        real(self, work, never[0])

    monkeypatch.setattr(Lane, "launch", launch)


def fetching_before_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Slot.fetch
    monkeypatch.setattr(Slot, "fetch", lambda self, computed, outputs: real(self, self._cuda.event(), outputs))


def reading_before_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cuda, "finish", lambda self, event, check: None)


def touching_a_context_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Cuda.finish

    def finish(self: Cuda, event: int, check: Callable[[], None]) -> None:
        if event not in lanes:
            real(self, event, check)

    lanes: set[int] = set()
    made = Lane.__init__

    def make(self: Lane, *arguments: Any) -> None:
        made(self, *arguments)
        lanes.add(self.done)

    monkeypatch.setattr(Lane, "__init__", make)
    monkeypatch.setattr(Cuda, "finish", finish)


def lanes_that_share_scratch_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Lane.__init__
    shared: list[Any] = []

    def make(self: Lane, *arguments: Any) -> None:
        made(self, *arguments)
        self._scratch = shared[0] if shared else self._scratch
        shared.append(self._scratch)

    monkeypatch.setattr(Lane, "__init__", make)


def one_slot_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Slot.__init__
    shared: list[Any] = []

    def make(self: Slot, *arguments: Any) -> None:
        made(self, *arguments)
        shared.append(self._buffers)
        self._buffers = shared[0]

    monkeypatch.setattr(Slot, "__init__", make)


def graphs_of_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lane, "captured", lambda self, shape, slot, addresses: self._captured.get((shape, slot)))


def graphs_of_contexts_that_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is captured is not left alone: the context of the profile is captured, and set anew afterwards."""
    real = Lane.prepare

    def prepare(self: Lane, shape: Any, slot: int) -> Any:
        work = real(self, shape, slot)
        profile = self._engine.profile_for(shape)
        if work.key is not None and profile in self._contexts:
            shared = self._contexts[profile]
            self._set_shape(shared, shape)
            work.context = shared.context
        return work

    monkeypatch.setattr(Lane, "prepare", prepare)


def contexts_that_go_while_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is captured, and those that were made for it are not waited for."""
    monkeypatch.setattr(Cuda, "captured", lambda self, stream, put: None)
    monkeypatch.setattr(Cuda, "synchronise", lambda self, stream: None)


@pytest.mark.parametrize(
    "mistake",
    [
        contexts_that_go_while_they_run,
        no_wait,
        computing_before_the_upload,
        fetching_before_it_is_computed,
        reading_before_it_has_come,
        touching_a_context_that_runs,
        lanes_that_share_scratch_memory,
        one_slot_for_all,
        graphs_of_other_addresses,
        graphs_of_contexts_that_go_on,
    ],
    ids=lambda mistake: mistake.__name__,
)
def test_a_mistake_is_seen(
    opened: Open, fake_tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., None]
) -> None:
    """Each wait, and each memory of one's own, is needed: without it the numbers are wrong for one of a few orders."""
    mistake(monkeypatch)
    for seed in SEEDS:
        backend = opened(seed, more=BUCKETS)
        try:
            stream(fake_tensorrt, backend, seed)
        except (AssertionError, CtxdeployError):
            return
    pytest.fail("nothing was seen of it")


# ---- profiles


def test_the_smallest_profile_that_holds_a_batch_runs_it(opened: Open, fake_tensorrt: ModuleType) -> None:
    backend = opened(more=BUCKETS)
    for shape, profile in (
        ((2, 48, 64, 3), 1),
        ((1, 33, 64, 3), 1),
        ((4, 64, 48, 3), 2),
        ((2, 32, 64, 3), 0),
        ((2, 49, 64, 3), 0),
        ((1, 48, 63, 3), 0),
        ((2, 48, 64, 3), 1),
    ):
        fake_tensorrt.RAN.clear()
        backend.run(np.zeros(shape, np.uint8))
        assert {(ran[0], ran[1]) for ran in fake_tensorrt.RAN} == {(profile, shape)}


# ---- graphs


def launched(fake: ModuleType, backend: Backend, shapes: list[tuple[int, int]], times: int) -> int:
    before = fake.MACHINE.launches
    for seed in range(times):
        for height, width in shapes:
            photos = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
            check(fake, backend.start(photos), photos)
    return int(fake.MACHINE.launches - before)


def test_a_shape_is_captured_when_it_comes_again_and_launched_from_then_on(
    opened: Open, fake_tensorrt: ModuleType
) -> None:
    backend = opened()
    assert launched(fake_tensorrt, backend, [(48, 64)], 2) == 0
    assert len(fake_tensorrt.MACHINE.launchable) == 1
    assert launched(fake_tensorrt, backend, [(48, 64)], 10) == 10
    contexts = len(fake_tensorrt.CONTEXTS)
    assert launched(fake_tensorrt, backend, [(48, 64)], 10) == 10
    assert len(fake_tensorrt.CONTEXTS) == contexts


def test_a_graph_is_captured_again_when_memory_moves(opened: Open, fake_tensorrt: ModuleType) -> None:
    backend = opened()
    launched(fake_tensorrt, backend, [(8, 8)], 2)
    assert launched(fake_tensorrt, backend, [(8, 8)], 4) == 4
    launched(fake_tensorrt, backend, [(64, 64)], 1)  # buffers and scratch memory grow
    assert launched(fake_tensorrt, backend, [(8, 8)], 1) == 0
    assert launched(fake_tensorrt, backend, [(8, 8)], 4) == 4


@pytest.fixture
def two_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a lane keep two graphs."""
    made = Lane.__init__
    monkeypatch.setattr(Lane, "__init__", lambda self, cuda, engine: made(self, cuda, engine, 2))


@pytest.mark.usefixtures("two_graphs")
def test_few_graphs_are_kept_those_used_last(
    opened: Open, fake_tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctxdeploy.runtime.backends.lane._STALE", 3)
    backend = opened()
    launched(fake_tensorrt, backend, [(64, 64)], 1)
    launched(fake_tensorrt, backend, [(9, 9), (8, 8)], 2)
    assert launched(fake_tensorrt, backend, [(9, 9)], 1) == 1
    launched(fake_tensorrt, backend, [(10, 10)], 4)
    assert (len(fake_tensorrt.MACHINE.launchable), len(fake_tensorrt.MACHINE.graphs)) == (2, 0)
    assert launched(fake_tensorrt, backend, [(9, 9)], 1) == 1, "it was used after (8, 8)"
    assert launched(fake_tensorrt, backend, [(8, 8)], 1) == 0


@pytest.mark.usefixtures("two_graphs")
def test_more_shapes_than_graphs_do_not_chase_each_other_out(opened: Open, fake_tensorrt: ModuleType) -> None:
    backend = opened()
    shapes = [(12, 12), (11, 11), (10, 10), (9, 9)]
    assert launched(fake_tensorrt, backend, shapes, 2) == 0
    contexts = len(fake_tensorrt.CONTEXTS)
    assert launched(fake_tensorrt, backend, shapes, 20) == 2 * 20
    assert len(fake_tensorrt.CONTEXTS) == contexts


def test_an_engine_that_cannot_be_captured_goes_on_without(opened: Open, fake_tensorrt: ModuleType) -> None:
    backend = opened(3)
    fake_tensorrt.MACHINE.refuse_capture = True
    stream(fake_tensorrt, backend, 3)
    assert fake_tensorrt.MACHINE.launches == 0 and not fake_tensorrt.MACHINE.launchable


def test_tensorrt_rtx_captures_by_itself_and_compiles_once(
    opened: Open, with_engine: Callable[..., Bundle], fake_tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import enum
    import sys

    from ctxdeploy.core.engines import EngineKey

    class CudaGraphStrategy(enum.Enum):
        DISABLED = 0
        WHOLE_GRAPH_CAPTURE = 1

    class RtxConfig(fake_tensorrt.IRuntimeConfig):  # type: ignore[name-defined, misc]
        cuda_graph_strategy = CudaGraphStrategy.DISABLED

        def create_runtime_cache(self) -> object:
            return object()

        def set_runtime_cache(self, cache: object) -> bool:
            self.cache = cache
            return True

    monkeypatch.setattr(fake_tensorrt, "CudaGraphStrategy", CudaGraphStrategy, raising=False)
    monkeypatch.setattr(fake_tensorrt.ICudaEngine, "create_runtime_config", lambda self: RtxConfig())
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt)
    key = EngineKey(target="tensorrt-rtx", version="11.4.0.1", gpu=None, capabilities=("9.0",))
    for graphs, strategy in ((True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")):
        plan = fake_tensorrt.plan(*WHOLE, TOP_K, DIM, more=BUCKETS)
        backend: Any = open_backend(with_engine(plan, key), BackendConfig(name="tensorrt-rtx", cuda_graphs=graphs))
        stream(fake_tensorrt, backend, 5)
        configs = backend._engine._engine.configs
        assert len(configs) > 3 and len(set(map(id, configs))) == 1, "all contexts have one cache of kernels"
        assert configs[0].cuda_graph_strategy.name == strategy and configs[0].cache is not None
    assert fake_tensorrt.MACHINE.launches == 0


# ---- devices and threads


def test_the_gpu_that_was_asked_for_is_used_from_every_thread(
    opened: Open, fake_tensorrt: ModuleType, monkeypatch: Any
) -> None:
    fake_tensorrt.install(monkeypatch, fake_tensorrt, count=2)
    backend = opened(device="cuda:1")
    places = fake_tensorrt.MACHINE.places
    failures: list[BaseException] = []

    def work() -> None:
        try:
            stream(fake_tensorrt, backend, 1)
        except BaseException as error:
            failures.append(error)

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert failures == []
    assert {places[address] for address in fake_tensorrt.MACHINE.device} == {1}


def test_a_gpu_that_is_not_there_is_refused(opened: Open) -> None:
    with pytest.raises(BackendError, match="there is no GPU cuda:3, the NVIDIA driver shows only cuda:0"):
        opened(device="cuda:3")


# ---- what goes wrong while batches are under way


class Interrupting:
    """Stands for ``time.sleep`` of a wait, and is interrupted the n-th time."""

    def __init__(self, *when: int) -> None:
        self.when: tuple[int, ...] = when
        self.count = 0

    def __call__(self, seconds: float) -> None:
        self.count += 1
        if self.count in self.when:
            raise KeyboardInterrupt


@pytest.mark.parametrize("when", [(1,), (2,), (5,), (1, 2), (2, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_ctrl_c_leaves_a_sound_backend(
    opened: Open, fake_tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch, seed: int, when: tuple[int, ...]
) -> None:
    backend = opened(seed, more=BUCKETS)
    interrupting = Interrupting(*when)
    monkeypatch.setattr("ctxdeploy.runtime.backends.cuda.time.sleep", interrupting)
    with pytest.raises(KeyboardInterrupt):
        stream(fake_tensorrt, backend, seed)
    interrupting.when = ()
    stream(fake_tensorrt, backend, seed + 1)


def test_more_runs_than_slots_are_refused(opened: Open, fake_tensorrt: ModuleType) -> None:
    backend = opened()
    photos = np.zeros((1, 8, 8, 3), np.uint8)
    runs = [backend.start(photos) for _ in range(SLOTS)]
    with pytest.raises(BackendError, match="3 runs are under way, and no more can be"):
        backend.start(photos)
    runs[1].close()
    check(fake_tensorrt, backend.start(photos), photos)
    check(fake_tensorrt, runs[0], photos)
    check(fake_tensorrt, runs[2], photos)


def test_a_batch_that_fails_leaves_the_others_alone(opened: Open, fake_tensorrt: ModuleType) -> None:
    for seed in SEEDS:
        backend = opened(seed)
        first, second = (np.random.default_rng(i).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8) for i in range(2))
        run = backend.start(first)
        fake_tensorrt.IExecutionContext.fails = "illegal memory access\n  in conv1"
        with pytest.raises(BackendError, match=r"failed on an input of .*: illegal memory access in conv1"):
            backend.start(second)
        fake_tensorrt.IExecutionContext.fails = None
        check(fake_tensorrt, run, first)
        check(fake_tensorrt, backend.start(second), second)


def test_a_gpu_that_fails_later_is_said_when_the_result_is_taken(opened: Open, fake_tensorrt: ModuleType) -> None:
    backend = opened()
    photos = np.zeros((1, 8, 8, 3), np.uint8)

    def fail() -> None:
        fake_tensorrt.MACHINE.failure = RuntimeError("Xid 13")

    fake_tensorrt.IExecutionContext.hook = staticmethod(fail)
    run = backend.start(photos)
    with pytest.raises(BackendError, match=r"failed on an input of \(1, 8, 8, 3\): \w+: cudaErrorLaunchFailure"):
        run.result()
    with pytest.raises(BackendError, match="cudaErrorLaunchFailure"):
        backend.start(photos)
    fake_tensorrt.IExecutionContext.hook = None


@pytest.mark.parametrize("seed", SEEDS)
def test_memory_that_runs_out_is_said_and_smaller_batches_go_on(
    opened: Open, fake_tensorrt: ModuleType, seed: int
) -> None:
    backend = opened(seed)
    small = np.random.default_rng(seed).integers(0, 256, (1, 20, 20, 3), dtype=np.uint8)
    run = backend.start(small)
    fake_tensorrt.MACHINE.limit = 6_000
    with pytest.raises(OutOfMemoryError, match="cudaErrorMemoryAllocation"):
        backend.start(np.zeros((4, 64, 64, 3), np.uint8))
    check(fake_tensorrt, run, small)
    for _ in range(8):
        check(fake_tensorrt, backend.start(small), small)


def test_a_run_that_takes_too_long_is_ended(
    opened: Open, fake_tensorrt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened()
    backend.limits = RunLimits(seconds=0.0)
    # Every look finds it not done, until the time is over.
    busy = iter([False] * 2000)
    real = Cuda.is_done
    monkeypatch.setattr(Cuda, "is_done", lambda self, event: next(busy, True) and real(self, event))
    monkeypatch.setattr("ctxdeploy.runtime.backends.cuda.time.sleep", lambda seconds: None)
    with pytest.raises(RunTimeoutError, match="--photo-timeout"):
        backend.run(np.zeros((1, 8, 8, 3), np.uint8))
    backend.limits = RunLimits()
    photos = np.ones((1, 8, 8, 3), np.uint8)
    check(fake_tensorrt, backend.start(photos), photos)


def test_rows_are_counted_up_to_the_last_of_any_photo() -> None:
    attention = np.zeros((3, 5), np.float32)
    assert most_rows(attention) == 0
    attention[1, 2] = 0.5
    attention[0, 0] = 1
    assert most_rows(attention) == 3
    attention[2, 4] = np.nan  # not padding: it must be seen that the network failed
    assert most_rows(attention) == 5
