"""An extractor that many threads ask: each has its own result, whatever becomes of the others."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.deadline import Deadline, Promise
from ctxdeploy.core.errors import BackendError, CtxdeployError, DeadlineError, PhotoError
from ctxdeploy.runtime import (
    Box,
    Extractor,
    ExtractorConfig,
    PhotoDescriptors,
    PhotoFailure,
    PhotoSource,
    QueuedExtractor,
)
from ctxdeploy.runtime import worker_process as processes
from ctxdeploy.runtime.network_queue import NETWORK_THREAD
from ctxdeploy.runtime.pools import DECODER_PREFIX
from ctxdeploy.runtime.turns import Turns

MakeBundle = Callable[..., Bundle]
SIZES = ((60, 40), (40, 60), (64, 64))
LONG = 300.0
THREADS = ExtractorConfig(isolated=False)
KILLER = b"kills its decoder"


def png(width: int, height: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PHOTOS = [png(*SIZES[seed % 3], seed=seed) for seed in range(9)]


def assert_equal(first: list[PhotoDescriptors], second: list[PhotoDescriptors]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.size == other.size
        for name in ("vectors", "attention", "positions", "scales"):
            found, wanted = getattr(one.descriptors, name), getattr(other.descriptors, name)
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)


def ours() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith((DECODER_PREFIX, NETWORK_THREAD))]


def soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + LONG
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


class Notes:
    """Observes, and may be told to fail."""

    def __init__(self) -> None:
        self.decodes, self.batches = list[float](), list[tuple[int, float]]()
        self.error: Exception | None = None

    def decoded(self, seconds: float) -> None:
        self.decodes.append(seconds)
        if self.error is not None:
            raise self.error

    def ran(self, photos: int, seconds: float) -> None:
        self.batches.append((photos, seconds))
        if self.error is not None:
            raise self.error


class Held:
    """Holds the network up: each run waits until ``let``, and its shape is noted when it begins."""

    def __init__(self, extractor: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
        self._run, self.shapes = extractor._backend.start, list[tuple[int, ...]]()
        self._allowed = threading.Semaphore(0)
        self.error: Callable[[Any], BaseException | None] = lambda images: None
        monkeypatch.setattr(extractor._backend, "start", self.start)

    def start(self, images: Any) -> Any:
        self.shapes.append((len(images), *images[0].shape))
        assert self._allowed.acquire(timeout=LONG)
        error = self.error(images)
        if error is not None:
            raise error
        return self._run(images)

    def let(self, runs: int = 1) -> None:
        self._allowed.release(runs)


@contextmanager
def asked(extractor: QueuedExtractor, threads: int = 16) -> Iterator[Callable[..., Future[list[PhotoDescriptors]]]]:
    with ThreadPoolExecutor(threads) as pool:
        yield lambda photo, **settings: pool.submit(extractor.extract_turned, photo, **settings)


@pytest.mark.parametrize("isolated", [True, False])
def test_any_number_of_threads_get_what_an_extractor_gives_alone(make_bundle: MakeBundle, isolated: bool) -> None:
    bundle, notes = make_bundle(), Notes()
    alone = Extractor(bundle, config=THREADS)
    turns, box = (0, 90, 180, 270), Box.parse("3,4,33,31")
    whole = [alone.extract_turned(photo) for photo in PHOTOS]
    parts = [alone.extract_turned(photo, box, turns=turns) for photo in PHOTOS]
    config = ExtractorConfig(isolated=isolated, workers=3)
    with QueuedExtractor(bundle, config=config, observer=notes) as extractor, asked(extractor, 12) as ask:
        first = [ask(photo) for photo in PHOTOS * 3]
        second = [ask(photo, box=box, turns=turns) for photo in PHOTOS]
        for number, found in enumerate(first):
            assert_equal(found.result(LONG), whole[number % len(PHOTOS)])
        for found, part in zip(second, parts, strict=True):
            assert_equal(found.result(LONG), part)
        assert extractor.waiting == 0
        assert extractor.description() == {**alone.description(), "workers": 3, "isolated": isolated}
        np.testing.assert_array_equal(extractor.extract_one(PHOTOS[0]).vectors, whole[0][0].descriptors.vectors)
    assert len(notes.decodes) == 4 * len(PHOTOS) + 1 and min(notes.decodes) > 0
    assert {photos for photos, _ in notes.batches} == {1} and len(notes.batches) == 7 * len(PHOTOS) + 1
    assert soon(lambda: not ours())


def test_what_waits_while_the_network_runs_goes_together_by_exact_shape_and_age(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, notes = make_bundle(), Notes()
    alone = Extractor(bundle, config=THREADS)
    config = ExtractorConfig(isolated=False, workers=1, batch_size=3)
    with QueuedExtractor(bundle, config=config, observer=notes) as extractor, asked(extractor) as ask:
        held = Held(extractor, monkeypatch)
        found = [ask(PHOTOS[0])]
        assert soon(lambda: held.shapes == [(1, 40, 60, 3)]), "idle, it waits for nobody"
        for number in (1, 0, 3, 4, 6, 2, 0, 7):  # upright, wide, wide, upright, wide, square, wide, upright
            found.append(ask(PHOTOS[number]))
            assert soon(lambda: len(extractor._queue) == len(found) - 1)
        held.let(5)
        assert soon(lambda: len(notes.batches) == 5)
        assert held.shapes[1:] == [(3, 60, 40, 3), (3, 40, 60, 3), (1, 64, 64, 3), (1, 40, 60, 3)]
        assert [photos for photos, _ in notes.batches] == [1, 3, 3, 1, 1]
        for number, one in zip((0, 1, 0, 3, 4, 6, 2, 0, 7), found, strict=True):
            for mine, other in zip(one.result(LONG), alone.extract_turned(PHOTOS[number]), strict=True):
                # The engine may sum a batch in another order than a single photo.
                np.testing.assert_allclose(mine.descriptors.vectors, other.descriptors.vectors, atol=1e-5)
                np.testing.assert_array_equal(mine.descriptors.positions, other.descriptors.positions)


def test_a_photo_that_cannot_be_decoded_is_its_own_failure(make_bundle: MakeBundle) -> None:
    alone = Extractor(bundle := make_bundle(), config=THREADS)
    bad = [b"no photo", PHOTOS[0][:200], PhotoSource(name="gone", path=Path("/no/such.jpg"))]
    with QueuedExtractor(bundle) as extractor, asked(extractor) as ask:
        found = [(photo, ask(photo)) for photo in (bad + PHOTOS) * 2]
        for photo, one in found:
            if photo in bad:
                with pytest.raises(PhotoError) as wanted:
                    alone.extract_turned(photo)
                with pytest.raises(PhotoError) as error:
                    one.result(LONG)
                assert str(error.value) == str(wanted.value)
            else:
                assert_equal(one.result(LONG), alone.extract_turned(photo))
        with pytest.raises(PhotoError, match="box"):
            extractor.extract_turned(PHOTOS[0], Box.parse("10,20,90,40"))


@pytest.mark.skipif(sys.platform != "linux", reason="kills a process as Linux does")
def test_a_photo_that_kills_its_decoder_harms_nobody_else(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_child = processes._Child.ask

    def ask_or_die(self: Any, item: Any, settings: Any) -> Any:
        if item.source.data == KILLER:
            os.kill(self._process.pid, signal.SIGSEGV)
        return ask_child(self, item, settings)

    monkeypatch.setattr(processes._Child, "ask", ask_or_die)
    alone = Extractor(bundle := make_bundle(), config=THREADS)
    with QueuedExtractor(bundle, config=ExtractorConfig(workers=2)) as extractor, asked(extractor, 6) as ask:
        found = [(photo, ask(photo)) for photo in [KILLER, *PHOTOS[:3], KILLER, *PHOTOS[3:6]]]
        for photo, one in found:
            if photo == KILLER:
                with pytest.raises(PhotoError, match=r"died of signal 11 \(SIGSEGV\) twice"):
                    one.result(LONG)
            else:
                assert_equal(one.result(LONG), alone.extract_turned(photo))


def test_a_batch_that_fails_is_run_photo_by_photo(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ExtractorConfig(isolated=False, workers=1, batch_size=4)
    spoilt = np.asarray(Image.open(io.BytesIO(PHOTOS[3])))
    with QueuedExtractor(make_bundle(), config=config) as extractor, asked(extractor) as ask:
        held = Held(extractor, monkeypatch)
        held.error = lambda images: (
            BackendError("no") if any(np.array_equal(image, spoilt) for image in images) else None
        )
        first = ask(PHOTOS[0])
        assert soon(lambda: len(held.shapes) == 1)
        found = []
        for number in (0, 3, 6):
            found.append(ask(PHOTOS[number]))
            assert soon(lambda: len(extractor._queue) == len(found))
        held.let(5)
        assert len(first.result(LONG)) == len(found[0].result(LONG)) == len(found[2].result(LONG)) == 1
        with pytest.raises(BackendError, match="no"):
            found[1].result(LONG)
        assert [shape[0] for shape in held.shapes] == [1, 3, 1, 1, 1]


def test_what_nobody_waits_for_is_not_begun(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    config = ExtractorConfig(isolated=False, workers=1)
    with QueuedExtractor(make_bundle(), config=config, observer=notes) as extractor, asked(extractor) as ask:
        held = Held(extractor, monkeypatch)
        running, waiting, late = Deadline(), Deadline(), Deadline(0.05)
        first, second, third = ask(PHOTOS[0], deadline=running), None, None
        assert soon(lambda: len(held.shapes) == 1)
        second = ask(PHOTOS[1], deadline=waiting)
        assert soon(lambda: len(extractor._queue) == 1)
        third = ask(PHOTOS[2], deadline=late)
        with pytest.raises(DeadlineError, match=r"within 0.05 s"):
            third.result(LONG)
        for given_up, one in ((waiting, second), (running, first)):
            given_up.give_up()
            with pytest.raises(DeadlineError, match="not wanted any more"):
                one.result(LONG)  # at once, also of what runs
        decodes = len(notes.decodes)
        with pytest.raises(DeadlineError):
            extractor.extract_turned(PHOTOS[3], deadline=waiting)
        assert len(notes.decodes) == decodes
        last = ask(PHOTOS[4])
        held.let(2)
        assert len(last.result(LONG)) == 1
        assert held.shapes == [(1, 40, 60, 3), (1, 60, 40, 3)], "neither the second nor the third"
        with pytest.raises(DeadlineError):
            Extractor(extractor.bundle, config=THREADS).extract_one(PHOTOS[0], deadline=waiting)


def test_photos_that_wait_to_be_decoded_are_given_up_as_well(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, go = list[bytes](), threading.Event()
    import ctxdeploy.runtime.pools as pools

    decode = pools.decode_item

    def slowly(item: Any, settings: Any) -> None:
        seen.append(item.source.data)
        assert go.wait(LONG)
        decode(item, settings)

    monkeypatch.setattr(pools, "decode_item", slowly)
    config = ExtractorConfig(isolated=False, workers=1)
    with QueuedExtractor(make_bundle(), config=config) as extractor, asked(extractor) as ask:
        first, deadline = ask(PHOTOS[0]), Deadline()
        assert soon(lambda: len(seen) == 1)
        second = ask(PHOTOS[1], deadline=deadline)
        assert soon(lambda: extractor.waiting == 2)
        deadline.give_up()
        with pytest.raises(DeadlineError):
            second.result(LONG)
        third = ask(PHOTOS[2])
        go.set()
        assert len(first.result(LONG)) == len(third.result(LONG)) == 1
        assert seen == [PHOTOS[0], PHOTOS[2]]


@pytest.mark.parametrize("isolated", [True, False])
def test_closing_while_busy_ends_everything_and_everybody_is_told(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, isolated: bool
) -> None:
    extractor = QueuedExtractor(make_bundle(), config=ExtractorConfig(isolated=isolated, workers=2))
    with asked(extractor) as ask:
        held = Held(extractor, monkeypatch)
        found = [ask(photo) for photo in PHOTOS]
        assert soon(lambda: len(held.shapes) == 1 and len(extractor._queue) >= 2)
        closing = threading.Thread(target=extractor.close)
        closing.start()
        for one in found:
            with pytest.raises(BackendError, match="the extractor is closed: make another one"):
                one.result(LONG)
        held.let(len(PHOTOS))
        closing.join(LONG)
    assert soon(lambda: not ours())
    extractor.close()
    for call in (extractor.extract_one, extractor.extract_turned, lambda photo: extractor.extract([])):
        with pytest.raises(BackendError, match="closed"):
            call(PHOTOS[0])


def test_a_race_of_callers_failures_deadlines_and_the_end(make_bundle: MakeBundle) -> None:
    """Every call ends: with its own photo's result, or with an error that says why."""
    alone = Extractor(bundle := make_bundle(), config=THREADS)
    wanted = [alone.extract_turned(photo) for photo in PHOTOS]
    extractor = QueuedExtractor(bundle, config=ExtractorConfig(isolated=False, workers=3, batch_size=4))
    kinds, wrong = list[str](), list[int]()

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        while True:
            which = int(random.integers(len(PHOTOS) + 1))
            deadline = Deadline(float(random.uniform(0, 0.02)) if random.random() < 0.3 else None)
            if random.random() < 0.2:
                threading.Timer(float(random.uniform(0, 0.01)), deadline.give_up).start()
            try:
                (found,) = extractor.extract_turned([*PHOTOS, b"bad"][which], deadline=deadline)
            except CtxdeployError as error:
                kinds.append(type(error).__name__)
                if isinstance(error, BackendError):
                    return
                continue
            kinds.append("result")
            if not np.allclose(found.descriptors.vectors, wanted[which][0].descriptors.vectors, atol=1e-5):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    assert soon(lambda: kinds.count("result") > 150 and kinds.count("PhotoError") > 5)
    extractor.close()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert not wrong and kinds.count("BackendError") == 12 and "DeadlineError" in kinds
    assert extractor.waiting == 0 and soon(lambda: not ours())


def test_a_stream_goes_on_beside_the_queue(make_bundle: MakeBundle) -> None:
    with QueuedExtractor(make_bundle(), config=THREADS) as extractor, asked(extractor) as ask:
        sources = [PhotoSource(name=str(number), data=photo) for number, photo in enumerate(PHOTOS * 3)]
        found = [ask(photo) for photo in PHOTOS]
        results = list(extractor.extract([*sources, PhotoSource(name="bad", data=b"bad")]))
        assert [result.name for result in results if isinstance(result, PhotoFailure)] == ["bad"]
        assert extractor.statistics.photos == len(sources) + 1
        assert all(len(one.result(LONG)) == 1 for one in found)


def test_the_network_is_had_in_the_order_of_asking() -> None:
    turns, order = Turns(), list[int]()

    def work(number: int) -> None:
        with turns:
            order.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    with turns:
        for number, thread in enumerate(threads):
            thread.start()
            assert soon(lambda: len(turns._waiting) == number + 1)  # noqa: B023 (called here)
        assert order == []
    with turns:  # behind all of them
        assert order == list(range(6))
    assert not turns._is_taken


def test_who_is_interrupted_while_he_waits_gives_up_his_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()

    def interrupted(self: threading.Event, timeout: float | None = None) -> bool:
        if leaves:
            turns.__exit__(None, None, None)  # his turn has come a moment before
        raise KeyboardInterrupt

    for leaves in (False, True):
        turns.__enter__()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(threading.Event, "wait", interrupted)
            turns.__enter__()
        if not leaves:
            turns.__exit__(None, None, None)
        assert not turns._is_taken and not turns._waiting


def test_an_observer_that_fails_is_printed_and_ends_nothing(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, printed = Notes(), list[BaseException]()
    notes.error = ValueError("full")
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: printed.append(error))
    with QueuedExtractor(make_bundle(), config=THREADS, observer=notes) as extractor:
        for photo in PHOTOS[:2]:
            assert len(extractor.extract_turned(photo)) == 1
    assert [str(error) for error in printed] == ["full"] * 4


def test_a_limit_of_memory_is_for_both_pools_of_processes(make_bundle: MakeBundle) -> None:
    config = ExtractorConfig(workers=2, memory_limit=8 << 30)
    alone = Extractor(bundle := make_bundle(), config=config)
    with QueuedExtractor(bundle, config=config) as extractor:
        ours, theirs = extractor._decoding.memory, alone._decoding.memory
        assert ours is not None and theirs is not None and abs(2 * ours - theirs) < theirs / 20


def test_a_promise_is_kept_or_over() -> None:
    promise: Promise[int] = Promise(Deadline(0))
    assert not promise.is_wanted
    with pytest.raises(DeadlineError):
        promise.wait()
    promise.give(1)
    assert promise.wait() == 1, "what is there is there"
    promise.fail(ValueError())
    assert promise.wait() == 1
    broken: Promise[int] = Promise(Deadline())
    broken.fail(KeyError("x"))
    with pytest.raises(KeyError):
        broken.wait()
    assert Deadline().left is None and Deadline(0).left == 0 and 9 < (Deadline(10).left or 0) <= 10
