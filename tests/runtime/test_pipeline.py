"""Photos on their way: in order, bounded in number, and none that hangs holds up the others for long."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import BackendError, PhotoError
from ctxdeploy.runtime import (
    Extractor,
    ExtractorConfig,
    FileState,
    PhotoDescriptors,
    PhotoFailure,
    PhotoSource,
    pipeline,
)
from ctxdeploy.runtime.photo import WorkItem
from ctxdeploy.runtime.pools import ReorderBuffer
from ctxdeploy.runtime.reading import READER_PREFIX

MakeBundle = Callable[..., Bundle]
# Seconds for what takes milliseconds: no test fails because the machine is busy.
PATIENCE = 300
FOREIGN: set[int | threading.Thread] = set()
MODES = pytest.mark.parametrize("isolated", [True, False])
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the children of a process in /proc")


def jpeg(width: int = 60, height: int = 40, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(autouse=True)
def others() -> None:
    """Processes and threads that other tests have left are not counted."""
    FOREIGN.clear()
    FOREIGN.update(mine(), threading.enumerate())


def children(parent: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(ppid) == parent and state != "Z":
            found.add(int(stat.parent.name))
    return found - FOREIGN


def alive(pid: int) -> bool:
    """Say whether a process runs; an orphan that has ended stays in /proc until the system's first process sees it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def mine() -> set[int]:
    return children(os.getpid())


def names(threads: list[threading.Thread]) -> list[str]:
    return [t.name for t in threads if t.name.startswith("ctxdeploy-") and t not in FOREIGN]


def gone(seconds: float = PATIENCE) -> bool:
    end = time.monotonic() + seconds
    while (names(threading.enumerate()) or mine()) and time.monotonic() < end:
        time.sleep(0.01)
    return not names(threading.enumerate()) and not mine()


class Reader:
    """Reads what it was given, when it is allowed to."""

    def __init__(
        self, data: bytes | Exception, seconds: float = 0, gate: threading.Event | threading.Barrier | None = None
    ) -> None:
        self._data, self._seconds, self._gate = data, seconds, gate

    def read(self) -> bytes:
        if self._gate is not None:
            self._gate.wait(PATIENCE)
        time.sleep(self._seconds)
        if isinstance(self._data, Exception):
            raise self._data
        return self._data

    def state(self) -> FileState:
        return FileState(size=7, mtime_ns=9)


def memory(count: int) -> list[PhotoSource]:
    return [PhotoSource(name=str(number), data=jpeg(seed=number)) for number in range(count)]


@MODES
def test_results_come_in_the_order_of_the_photos(make_bundle: MakeBundle, isolated: bool) -> None:
    extractor = Extractor(make_bundle(), config=ExtractorConfig(workers=3, isolated=isolated))
    photos = memory(20)
    photos[3] = PhotoSource(name="3", data=b"none")
    photos[7] = PhotoSource(name="7", reader=Reader(jpeg(), seconds=0.3))
    assert [result.name for result in extractor.extract(photos)] == [str(number) for number in range(20)]
    found = extractor.statistics
    assert (found.photos, found.failed, found.replaced_workers, found.halved_batches) == (20, 1, 0, 0)
    assert found.seconds.read >= 0.3 and found.seconds.decode > 0 < found.seconds.network
    assert gone()


def test_processes_and_threads_give_the_same_bits(make_bundle: MakeBundle) -> None:
    photos = [*memory(5), PhotoSource(name="none", data=b"none"), PhotoSource(name="r", reader=Reader(jpeg(seed=9)))]
    bundle = make_bundle()
    first, second = (
        list(Extractor(bundle, config=ExtractorConfig(isolated=isolated)).extract(photos)) for isolated in (True, False)
    )
    for one, other in zip(first, second, strict=True):
        assert (one.name, one.file) == (other.name, other.file)
        if isinstance(one, PhotoDescriptors) and isinstance(other, PhotoDescriptors):
            for key, array in vars(one.descriptors).items():
                np.testing.assert_array_equal(array, getattr(other.descriptors, key))
    assert [type(one) for one in first] == [type(other) for other in second]


def test_no_more_workers_than_photos_and_none_for_none(make_bundle: MakeBundle) -> None:
    extractor = Extractor(make_bundle(), config=ExtractorConfig(workers=4))
    assert list(extractor.extract([])) == []
    assert extractor.statistics.photos == 0 and not mine()
    extractor.extract_one(jpeg())
    assert not mine()
    most = 0
    for _ in extractor.extract(memory(2)):
        most = max(most, len(mine()))
    assert 1 <= most <= 2
    assert gone()


@MODES
def test_lookahead_is_bounded(make_bundle: MakeBundle, isolated: bool) -> None:
    served = []

    def photos() -> Iterator[PhotoSource]:
        for photo in memory(40):
            served.append(photo)
            yield photo

    config = ExtractorConfig(lookahead=4, workers=2, isolated=isolated)
    stream = Extractor(make_bundle(), config=config).extract(photos())
    for taken in range(1, 20):
        next(stream)
        time.sleep(0.02)
        assert len(served) <= taken + 4
    stream.close()
    assert gone()


@MODES
def test_who_keeps_the_others_waiting_is_overtaken(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, isolated: bool
) -> None:
    monkeypatch.setattr(pipeline, "OVERTAKEN_AFTER", 1.0)
    gate = threading.Event()
    photos = memory(20)
    photos[1] = PhotoSource(name="late", reader=Reader(jpeg(), gate=gate))
    extractor = Extractor(make_bundle(), config=ExtractorConfig(isolated=isolated))
    found = []
    for result in extractor.extract(photos):
        found.append(result.name)
        if len(found) == 19:
            assert "late" not in found
            gate.set()
    # On a machine that stands still for a second, others are overtaken too; their order is that of test_the_order.
    assert sorted(found[:-1], key=int) == ["0", *map(str, range(2, 20))] and found[-1] == "late"
    assert extractor.statistics.waiting > 0.9
    assert gone()


def test_a_worker_that_hangs_holds_up_nobody(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "STARVED_AFTER", 3600)
    extractor = Extractor(make_bundle(), config=ExtractorConfig(workers=1, photo_timeout=3600))
    stream = extractor.extract(memory(30))
    results = [next(stream)]
    (child,) = mine()
    os.kill(child, signal.SIGSTOP)
    monkeypatch.setattr(pipeline, "STARVED_AFTER", 0.2)
    while len(results) < 29:  # the others go on
        results.append(next(stream))
    os.kill(child, signal.SIGKILL)
    results += stream
    assert sorted(int(result.name) for result in results) == list(range(30))
    assert all(isinstance(result, PhotoDescriptors) for result in results), "it had a second try"
    assert extractor.statistics.replaced_workers == 1
    assert gone()


def test_a_worker_that_dies_costs_nothing(make_bundle: MakeBundle) -> None:
    extractor = Extractor(make_bundle(), config=ExtractorConfig(workers=1))
    results, killed = [], 0
    for result in extractor.extract(memory(40)):
        results.append(result)
        if len(results) in (5, 20):
            workers = mine()  # a second one joins when no photo comes for a while
            killed += len(workers)
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
    assert [result.name for result in results] == [str(number) for number in range(40)]
    assert all(isinstance(result, PhotoDescriptors) for result in results)
    assert 2 <= extractor.statistics.replaced_workers <= killed


def test_slow_servers_are_asked_at_the_same_time(make_bundle: MakeBundle) -> None:
    together = threading.Barrier(8, timeout=PATIENCE)  # none returns until eight are asked
    photos = [PhotoSource(name=str(n), reader=Reader(jpeg(seed=n), 0.05, together)) for n in range(16)]
    extractor = Extractor(make_bundle(), config=ExtractorConfig(workers=1, read_threads=8))
    results = list(extractor.extract(photos))
    assert [result.name for result in results] == [photo.name for photo in photos]
    for result in results:
        assert isinstance(result, PhotoDescriptors)
        assert result.seconds.read >= 0.05
        assert result.file == FileState(size=7, mtime_ns=9)
    assert extractor.statistics.seconds.read >= 16 * 0.05
    assert gone()


def test_what_readers_raise_is_the_photos_failure(make_bundle: MakeBundle) -> None:
    wrong: list[bytes | Exception] = [PhotoError("404 Not Found"), OSError("disk\non fire"), KeyError(), "text"]  # type: ignore[list-item]
    photos = [PhotoSource(name=str(n), reader=Reader(data)) for n, data in enumerate([*wrong, jpeg()])]
    extractor = Extractor(make_bundle())
    *failures, good = extractor.extract(photos)
    assert isinstance(good, PhotoDescriptors)
    reasons = []
    for failure in failures:
        assert isinstance(failure, PhotoFailure)
        assert (failure.stage, failure.file) == ("read", FileState(size=7, mtime_ns=9))
        reasons.append(failure.reason)
    assert reasons == [
        "404 Not Found",
        "it cannot be read (disk on fire)",
        "it cannot be read (KeyError)",
        "it cannot be read (its reader returned str)",
    ]
    with pytest.raises(PhotoError, match="0: 404 Not Found"):
        extractor.extract_one(photos[0])


def test_a_reader_that_hangs_is_given_up(make_bundle: MakeBundle) -> None:
    gate = threading.Event()
    photos = memory(6)
    photos[:4] = [PhotoSource(name=f"hangs {n}", reader=Reader(jpeg(), gate=gate)) for n in range(4)]
    config = ExtractorConfig(read_threads=2, photo_timeout=0.5, isolated=False)  # threads decode without a limit
    results = list(Extractor(make_bundle(), config=config).extract(photos))
    failures = {result.name: result for result in results if isinstance(result, PhotoFailure)}
    assert sorted(failures) == [f"hangs {n}" for n in range(4)]
    assert {(f.stage, f.reason) for f in failures.values()} == {("read", "no data within 0.5 s")}
    assert all(failure.seconds == 0.5 for failure in failures.values())
    gate.set()
    assert gone()


@pytest.mark.parametrize("where", ["worker", "reader"])
def test_closing_does_not_wait_for_what_hangs(make_bundle: MakeBundle, where: str) -> None:
    gate = threading.Event()
    photos = memory(20)
    if where == "reader":
        photos[3] = PhotoSource(name="hangs", reader=Reader(jpeg(), gate=gate))
    stream = Extractor(make_bundle(), config=ExtractorConfig(workers=2)).extract(photos)
    next(stream)
    if where == "worker":
        for child in mine():
            os.kill(child, signal.SIGSTOP)
    stream.close()
    assert not mine()
    assert (READER_PREFIX in names(threading.enumerate())) == (where == "reader"), "it was not waited for"
    gate.set()
    assert gone()


def test_an_error_of_ours_ends_the_run(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = Extractor(make_bundle())
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(BackendError, match="no decoding process can be started with /nowhere/python"):
        list(extractor.extract(memory(5)))
    assert gone()


def test_an_exception_of_the_consumer_leaves_nothing(make_bundle: MakeBundle) -> None:
    extractor = Extractor(make_bundle())
    with pytest.raises(LookupError):
        for _ in extractor.extract(memory(20)):
            raise LookupError
    assert gone()


SCRIPT = """
import itertools, sys, time
from pathlib import Path
from ctxdeploy.core import bundle
from ctxdeploy.runtime import Extractor, ExtractorConfig, PhotoSource
extractor = Extractor(bundle.open(sys.argv[1]), config=ExtractorConfig(workers=2))
data = Path(sys.argv[2]).read_bytes()
stream = extractor.extract(PhotoSource(name=str(n), data=data) for n in itertools.count())
for number in range(4):
    next(stream)
print("running", flush=True)
if sys.argv[3] == "go on":
    list(stream)
"""


def script(bundle: Bundle, folder: Path, what: str) -> subprocess.Popen[str]:
    (folder / "p.jpg").write_bytes(jpeg())
    command = [sys.executable, "-c", SCRIPT, str(bundle.path), str(folder / "p.jpg"), what]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def test_a_process_ends_though_its_stream_is_not_closed(make_bundle: MakeBundle, tmp_path: Path) -> None:
    with script(make_bundle(), tmp_path, "end") as child:
        _, errors = child.communicate(timeout=PATIENCE)
    assert (child.returncode, errors) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_a_process_ends_its_workers(make_bundle: MakeBundle, tmp_path: Path, number: int) -> None:
    with script(make_bundle(), tmp_path, "go on") as child:
        assert child.stdout is not None and child.stdout.readline() == "running\n"
        workers = children(child.pid)
        assert workers  # two; and one more where no photo came for a while
        if number == signal.SIGINT:
            os.killpg(child.pid, number)  # as Ctrl-C does
        else:
            os.kill(child.pid, number)
        _, errors = child.communicate(timeout=PATIENCE)
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)
    assert errors.count("Traceback") <= 1
    end = time.monotonic() + PATIENCE
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(alive, workers))


def test_the_order() -> None:
    line = ReorderBuffer(1.0)
    a, b, c, d = (WorkItem(source=PhotoSource(name=name, data=b"")) for name in "abcd")
    for item in (a, b, c, d):
        line.add(item)
    assert not line.wait(5) and line.leave() is None, "nobody is kept waiting"
    line.mark_done(b)
    assert line.leave() is None and not line.ready()
    assert not line.wait(0.6)
    assert line.wait(0.6), "a is overtaken"
    assert line.ready() and line.leave() is b
    line.mark_done(d)
    assert not line.wait(0.6), "c has its own second"
    line.mark_done(a)
    assert line.ready() and line.leave() is a and len(line) == 2
    line.mark_done(c)
    assert line.leave() is c and line.leave() is d and line.leave() is None and not len(line)
