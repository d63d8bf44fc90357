"""Decoding in another process: whatever happens to it, happens to one photo."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import Box, PhotoFailure, PhotoSource, Pixels
from ctxdeploy.runtime import worker_process as processes
from ctxdeploy.runtime.decode import DecodeLimits
from ctxdeploy.runtime.photo import WorkItem
from ctxdeploy.runtime.pools import Decoder, ThreadDecoder
from ctxdeploy.runtime.worker import DecodeSettings, receive, receive_into, send
from ctxdeploy.runtime.worker_process import ProcessDecoder

MakeBundle = Callable[..., Bundle]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the children of a process in /proc")
PREPROCESSING = Preprocessing(image_size=64)
FOREIGN: set[int] = set()


def photo(width: int = 60, height: int = 40, seed: int = 0, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def huge() -> bytes:
    """Return a photo of 0.4 MB that takes half a second to decode, and 0.5 GB."""
    file = io.BytesIO()
    Image.new("L", (11000, 11000), 99).save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.fixture(autouse=True)
def others() -> None:
    """Processes that other tests have left are not counted."""
    FOREIGN.clear()
    FOREIGN.update(children())


def children(parent: int | None = None) -> list[int]:
    """Return the processes that a process has started and that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if int(ppid) == (parent or os.getpid()) and state != "Z":
            found.append(int(stat.parent.name))
    return [process for process in found if process not in FOREIGN]


def alive(pid: int) -> bool:
    """Say whether a process runs; an orphan that has ended stays in /proc until the system's first process sees it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon(condition: Callable[[], bool], seconds: float = 300) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture
def decoder() -> Iterator[Callable[..., ProcessDecoder]]:
    made: list[ProcessDecoder] = []
    before = set(children())

    def make(timeout: float = 300, memory: int | None = None, limits: DecodeLimits | None = None) -> ProcessDecoder:
        settings = DecodeSettings(
            preprocessing=PREPROCESSING, timeout=timeout, memory=memory, limits=limits or DecodeLimits()
        )
        made.append(ProcessDecoder(settings))
        return made[-1]

    yield make
    for one in made:
        one.release()
    assert soon(lambda: set(children()) <= before)


def hasten(decoder: ProcessDecoder, seconds: float) -> None:
    """Give photos so little time from now on. Those that tests wait for have more: the machine may be busy."""
    decoder._settings = replace(decoder._settings, timeout=seconds)


def source(data: bytes, box: Box | None = None) -> PhotoSource:
    return PhotoSource(name="p", data=data, box=box)


def decoded(decoder: Decoder, photo: PhotoSource) -> WorkItem:
    item = WorkItem(source=photo)
    decoder.decode(item)
    return item


def result(decoder: Decoder, photo: PhotoSource) -> Any:
    return decoded(decoder, photo).result


def own_child() -> int:
    (found,) = children()
    return found


def test_pixels_and_reasons_are_those_of_this_process(decoder: Callable[..., ProcessDecoder], tmp_path: Path) -> None:
    apart, here = decoder(), ThreadDecoder(DecodeSettings(preprocessing=PREPROCESSING))
    data = photo()
    rotated = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(data)).save(rotated, "JPEG", exif=exif)
    (tmp_path / "photo.jpg").write_bytes(data)
    strange = tmp_path / os.fsdecode(b"\xff\xfe\n \xc3.jpg")
    strange.write_bytes(photo(seed=1))
    (tmp_path / "folder.jpg").mkdir()
    names = ["photo.jpg", strange.name, "folder.jpg", "missing.jpg"]
    sources = [PhotoSource(name=name, path=tmp_path / name) for name in names]
    sources += [source(data), source(b""), source(b"no photo"), source(data[:300]), source(rotated.getvalue())]
    sources += [source(data, Box.parse("10.5,3,40,33")), source(data, Box.parse("10,3,400,33"))]
    sources += [source(photo(300, 7, kind=kind, mode=mode)) for kind, mode in (("PNG", "P"), ("TIFF", "CMYK"))]
    kinds = set()
    for one in sources:
        items = decoded(apart, one), decoded(here, one)
        assert items[0].file == items[1].file == one.state()
        first, second = items[0].result, items[1].result
        kinds.add(type(first))
        if isinstance(first, Pixels):
            assert isinstance(second, Pixels)
            np.testing.assert_array_equal(first.pixels, second.pixels)
            assert first.pixels.flags.c_contiguous
            assert (first.original_size, first.region) == (second.original_size, second.region)
        else:
            assert isinstance(first, PhotoFailure) and isinstance(second, PhotoFailure)
            assert (first.name, first.reason, first.stage) == (second.name, second.reason, second.stage)
    assert kinds == {Pixels, PhotoFailure}
    assert apart.replaced == 0


def test_settings_reach_the_worker(decoder: Callable[..., ProcessDecoder]) -> None:
    failure = result(decoder(limits=DecodeLimits(max_pixels=2399)), source(photo()))
    assert isinstance(failure, PhotoFailure)
    assert "2,399" in failure.reason


def test_a_relative_path_is_that_of_the_moment(
    decoder: Callable[..., ProcessDecoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = decoder()
    result(apart, source(photo()))
    (tmp_path / "p.jpg").write_bytes(photo(50, 50))
    monkeypatch.chdir(tmp_path)
    found = result(apart, PhotoSource(name="p", path=Path("p.jpg")))
    assert isinstance(found, Pixels) and found.original_size == (50, 50)


def test_a_photo_that_takes_too_long_fails_and_the_next_one_does_not(
    decoder: Callable[..., ProcessDecoder], huge: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(huge)
    slow = PhotoSource(name="slow", path=path)
    apart = decoder()
    result(apart, source(photo()))
    hasten(apart, 0.2)
    failure = result(apart, slow)
    assert isinstance(failure, PhotoFailure)
    assert (failure.stage, failure.reason) == ("decode", "no result within 0.2 s")
    assert failure.seconds >= 0.2
    assert failure.file == slow.state(), "its state was known before it hung"
    assert apart.replaced == 1
    assert soon(lambda: not children())


def test_a_worker_that_is_stopped_is_replaced(decoder: Callable[..., ProcessDecoder]) -> None:
    apart, data = decoder(), photo()
    assert isinstance(result(apart, source(data)), Pixels)
    stopped = own_child()
    os.kill(stopped, signal.SIGSTOP)
    hasten(apart, 0.5)
    failure = result(apart, source(data))
    assert isinstance(failure, PhotoFailure) and failure.reason == "no result within 0.5 s"
    hasten(apart, 300)
    assert isinstance(result(apart, source(data)), Pixels)
    assert own_child() != stopped


def test_a_photo_whose_worker_was_killed_has_a_second_try(decoder: Callable[..., ProcessDecoder]) -> None:
    apart, data = decoder(), photo()
    result(apart, source(data))
    os.kill(own_child(), signal.SIGKILL)
    assert isinstance(result(apart, source(data)), Pixels)
    assert apart.replaced == 1


def test_a_photo_that_kills_two_workers_fails(decoder: Callable[..., ProcessDecoder], huge: bytes) -> None:
    apart = decoder()
    result(apart, source(photo()))
    stop = threading.Event()
    killed: set[int] = set()

    def assassin() -> None:
        while not stop.wait(0.1):  # an age after its start, and long before the end of this photo
            for child in set(children()) - killed:
                os.kill(child, signal.SIGSEGV)
                killed.add(child)

    thread = threading.Thread(target=assassin)
    thread.start()
    failure = result(apart, source(huge))
    stop.set()
    thread.join()
    assert isinstance(failure, PhotoFailure)
    assert failure.reason == "the decoder died of signal 11 (SIGSEGV) twice"
    assert apart.replaced == len(killed) == 2
    assert isinstance(result(apart, source(photo())), Pixels)


def test_a_photo_that_needs_too_much_memory_fails_with_the_way_out(
    decoder: Callable[..., ProcessDecoder], huge: bytes
) -> None:
    apart = decoder(memory=200 << 20)
    failure = result(apart, source(huge))
    assert isinstance(failure, PhotoFailure)
    assert failure.reason == "it needs more than 210 MB to decode: raise --memory-limit"
    assert failure.stage == "memory", "so that the next run tries it again"
    assert isinstance(result(apart, source(photo())), Pixels)
    large = bytes(300 << 20)
    failure = result(apart, source(large))
    assert isinstance(failure, PhotoFailure)
    assert failure.reason == "it needs more than 210 MB to decode: raise --memory-limit"
    webp = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(webp, "WEBP", method=0)
    failure = result(apart, source(webp.getvalue()))
    assert isinstance(failure, PhotoFailure)
    assert failure.reason.endswith("needs more than 210 MB to decode: raise --memory-limit")
    assert isinstance(result(apart, source(photo())), Pixels)
    assert apart.replaced == 0


def test_bytes_that_do_not_fit_into_a_worker_are_a_lack_of_memory(decoder: Callable[..., ProcessDecoder]) -> None:
    apart, data = decoder(memory=96 << 20), bytes(120 << 20)
    failure = result(apart, source(data))
    assert isinstance(failure, PhotoFailure)
    assert (failure.stage, failure.reason) == ("memory", "it needs more than 101 MB to decode: raise --memory-limit")


def test_a_limit_beyond_that_of_the_system_is_none_of_ours(decoder: Callable[..., ProcessDecoder]) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    assert isinstance(result(decoder(memory=1 << 70), source(photo())), Pixels)
    code = "\n".join(
        (
            "import resource, sys",
            "from ctxdeploy.runtime.worker import _limit_memory",
            "resource.setrlimit(resource.RLIMIT_DATA, (1 << 31, 1 << 31))",
            "_limit_memory(1 << 33)",
            "print(resource.getrlimit(resource.RLIMIT_DATA)[0] == 1 << 31)",
        )
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits


@pytest.mark.parametrize(("number", "stage"), [(signal.SIGKILL, "memory"), (signal.SIGSEGV, "decode")])
def test_what_killed_the_workers_decides_whether_the_photo_is_to_blame(
    decoder: Callable[..., ProcessDecoder], monkeypatch: pytest.MonkeyPatch, number: signal.Signals, stage: str
) -> None:
    """A system that is out of memory sends SIGKILL, and the photo is tried by the next run."""
    apart, ask = decoder(), processes._Child.ask

    def kill_and_ask(*arguments: Any) -> Any:
        os.kill(own_child(), number)
        return ask(*arguments)

    monkeypatch.setattr(processes._Child, "ask", kill_and_ask)
    failure = result(apart, source(photo()))
    assert isinstance(failure, PhotoFailure)
    assert (failure.stage, failure.reason) == (stage, f"the decoder died of signal {number} ({number.name}) twice")


def test_a_file_that_cannot_be_read_in_time_is_not_taken_for_one_that_cannot_be_decoded(
    decoder: Callable[..., ProcessDecoder], tmp_path: Path
) -> None:
    """A disk that does not answer: here the worker is stopped before it can read."""
    (tmp_path / "p.jpg").write_bytes(photo())
    apart, one = decoder(), PhotoSource(name="p", path=tmp_path / "p.jpg")
    assert isinstance(result(apart, one), Pixels)
    os.kill(own_child(), signal.SIGSTOP)
    hasten(apart, 0.5)
    failure = result(apart, one)
    assert isinstance(failure, PhotoFailure)
    assert (failure.stage, failure.reason) == ("read", "no result within 0.5 s")


def test_too_many_open_files_are_no_fault_of_a_photo(decoder: Callable[..., ProcessDecoder]) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    apart = decoder()
    next_file = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free; other tests' files may lie above
    os.close(next_file)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_file, limits[1]))
    try:
        with pytest.raises(BackendError, match="Too many open files"):
            result(apart, source(photo()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert isinstance(result(apart, source(photo())), Pixels)


def test_an_interrupt_is_for_the_parent(decoder: Callable[..., ProcessDecoder]) -> None:
    apart = decoder()
    result(apart, source(photo()))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(own_child(), number)
    assert isinstance(result(apart, source(photo())), Pixels)
    assert apart.replaced == 0


def test_a_worker_that_cannot_start_is_our_error(
    decoder: Callable[..., ProcessDecoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BackendError, match=r"no decoding process can be started with .*python \(.*No such file"):
        result(decoder(), source(photo()))
    (tmp_path / "python").write_text("#!/bin/sh\necho 'one line' >&2\necho 'numpy is broken' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(BackendError, match=r"python \(numpy is broken\)"):
        result(decoder(), source(photo()))
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(BackendError, match="no interpreter"):
        result(decoder(), source(photo()))


def test_a_closed_decoder_starts_nothing(decoder: Callable[..., ProcessDecoder]) -> None:
    apart = decoder()
    apart.close()
    assert isinstance(result(apart, source(photo())), PhotoFailure)
    assert not children()


def test_closing_ends_what_hangs(decoder: Callable[..., ProcessDecoder]) -> None:
    apart, data = decoder(), photo()
    result(apart, source(data))
    os.kill(own_child(), signal.SIGSTOP)
    threading.Timer(0.2, apart.close).start()
    assert isinstance(result(apart, source(data)), PhotoFailure)


def test_a_worker_imports_little() -> None:
    code = (
        "import sys, ctxdeploy.runtime.worker\n"
        "heavy = {'rich', 'click', 'onnx', 'onnxruntime', 'openvino', 'numba', 'torch',\n"
        "    'ctxdeploy.core.bundle', 'ctxdeploy.core.progress'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


PARENT = """
import os, sys, time
from pathlib import Path
from typing import Any
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import PhotoSource
from ctxdeploy.runtime.photo import WorkItem
from ctxdeploy.runtime.worker import DecodeSettings
from ctxdeploy.runtime.worker_process import ProcessDecoder
data = Path(sys.argv[1]).read_bytes()
for _ in range(2):
    decoder = ProcessDecoder(DecodeSettings(preprocessing=Preprocessing(image_size=64)))
    decoder.decode(WorkItem(source=PhotoSource(name="p", data=data)))
    globals().setdefault("kept", []).append(decoder)
print("ready", flush=True)
time.sleep(600)
"""


def test_no_worker_outlives_its_parent(tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(photo())
    command = [sys.executable, "-c", PARENT, str(tmp_path / "p.jpg")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        first, second = children(parent.pid)
        os.kill(first, signal.SIGSTOP)  # hangs, and would not see that its connection ends
        parent.kill()
    assert soon(lambda: not alive(first) and not alive(second))


def test_time_in_which_all_stood_still_does_not_count() -> None:
    limit = processes._TimeLimit(60, lambda: None)
    for _ in range(20):
        limit.spend(3600)
    assert limit._left == 60 - 20 * 2 * limit.SLICE


def test_messages_arrive_whole_and_others_are_refused() -> None:
    first, second = Pipe()
    pixels = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8)
    with ThreadPoolExecutor(1) as executor:
        sent = executor.submit(send, first, {"a": ["ü", None]}, memoryview(pixels))
        assert receive(second) == {"a": ["ü", None], "bytes": 3_000_000}
        received = np.empty_like(pixels)
        receive_into(second, memoryview(received))
        sent.result()
    np.testing.assert_array_equal(received, pixels)
    for message in (b"", b"[]", b"{}", b'{"bytes": "x"}', b'{"bytes": true}', b"\xff\xff", b"null"):
        first.send_bytes(message)
        with pytest.raises(ValueError):
            receive(second)
    send(first, {}, bytes(10))
    assert receive(second)["bytes"] == 10
    with pytest.raises(ValueError, match="more bytes than the message says"):
        receive_into(second, memoryview(bytearray(9)))
    first.send_bytes(bytes(1 << 17))
    with pytest.raises(OSError, match="bad message length"):
        receive(second)
    first.close()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has memory whose size is sealed")
def test_pixels_are_the_same_where_they_go_through_the_pipe(
    decoder: Callable[..., ProcessDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [photo(60, 40), photo(33, 64, seed=1), photo(5, 7, seed=2)]
    shared = [result(decoder(), source(data)).pixels for data in photos]
    sent: list[int] = []

    def noted(connection: Any, view: memoryview) -> None:
        sent.append(len(view))
        receive_into(connection, view)

    monkeypatch.setattr(processes, "receive_into", noted)
    again = decoder()
    assert all(
        np.array_equal(result(again, source(data)).pixels, one) for data, one in zip(photos, shared, strict=True)
    )
    assert sent == []
    monkeypatch.setattr(processes.SharedPixels, "make", lambda size: None)
    piped = decoder()
    assert all(
        np.array_equal(result(piped, source(data)).pixels, one) for data, one in zip(photos, shared, strict=True)
    )
    assert sent == [one.size for one in shared]


@pytest.mark.parametrize(
    "reply",
    [
        b'{"shape": [65, 1, 3], "original_size": [1, 1], "region": [0, 0, 1, 1], "bytes": 195}',
        b'{"shape": [1, 1, 3], "original_size": [1, 1], "region": [0, 0, 1, 1], "bytes": 4}',
        b'{"shape": [-1, -1, 3], "original_size": [1, 1], "region": [0, 0, 1, 1], "bytes": 3}',
        b'{"shape": [1, 1, 3], "original_size": [1, true], "region": [0, 0, 1, 1], "bytes": 3}',
        b'{"shape": [1, 1, 3], "original_size": [1, 1], "region": [0, 0, 1], "bytes": 3}',
        b'{"shape": [65, 1, 3], "is_shared": true, "original_size": [1, 1], "region": [0, 0, 1, 1], "bytes": 0}',
        b'{"shape": [2, 2, 3], "is_shared": true, "original_size": [1, 1], "region": [0, 0, 1, 1], "bytes": 12}',
        b'{"shape": [2, 2, 3], "is_shared": 1, "original_size": [1, 1], "region": [0, 0, 1, 1], "bytes": 0}',
        b'{"reason": 3, "bytes": 0}',
    ],
)
def test_a_worker_that_answers_nonsense_is_replaced(
    reply: bytes, decoder: Callable[..., ProcessDecoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\n"
        "import sys, time\n"
        "from multiprocessing.connection import Connection\n"
        "connection = Connection(int(sys.argv[-1]))\n"
        f'for message in (b\'{{"bytes": 0}}\', b\'{{"file": null, "bytes": 0}}\', {reply!r}, bytes(1000)):\n'
        "    connection.send_bytes(message)\n"
        "time.sleep(600)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    apart = decoder()
    failure = result(apart, source(photo()))
    assert isinstance(failure, PhotoFailure)
    assert failure.reason == "the decoder answered nonsense twice"
    assert apart.replaced == 2
