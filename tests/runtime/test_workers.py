"""Decoding in another process: whatever happens to it, happens to one photo."""

import io
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import Box, PhotoFailure, PhotoSource
from ctxdeploy.runtime import worker_process as processes
from ctxdeploy.runtime.decode.decode import Pixels
from ctxdeploy.runtime.decode.image import DecodeLimits
from ctxdeploy.runtime.decoder import Decoded, DecodeSettings, ThreadDecoder, Undecoded
from ctxdeploy.runtime.framing import Channel, Deadline, DeadlineError
from ctxdeploy.runtime.worker_process import ProcessDecoder

MakeBundle = Callable[..., Bundle]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the children of a process in /proc")
PREPROCESSING = Preprocessing(image_size=64)


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
    return found


def alive(pid: int) -> bool:
    """Say whether a process runs; an orphan that has ended stays in /proc until the system's first process sees it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon(condition: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture
def decoder() -> Iterator[Callable[..., ProcessDecoder]]:
    made: list[ProcessDecoder] = []
    before = set(children())

    def make(timeout: float = 60, memory: int | None = None, limits: DecodeLimits | None = None) -> ProcessDecoder:
        settings = DecodeSettings(
            preprocessing=PREPROCESSING, timeout=timeout, memory=memory, limits=limits or DecodeLimits()
        )
        made.append(ProcessDecoder(settings))
        return made[-1]

    yield make
    for one in made:
        one.release()
    assert soon(lambda: set(children()) <= before)


def source(data: bytes, box: Box | None = None) -> PhotoSource:
    return PhotoSource(name="p", data=data, box=box)


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
        first, second = apart.decode(one, one.data), here.decode(one, one.data)
        assert first.file == second.file == one.state()
        kinds.add(type(first))
        if isinstance(first, Decoded):
            assert isinstance(second, Decoded)
            np.testing.assert_array_equal(first.photo.pixels, second.photo.pixels)
            assert first.photo.pixels.flags.c_contiguous
            assert first.photo.original_size == second.photo.original_size
            assert first.photo.region == second.photo.region
        else:
            assert isinstance(second, PhotoFailure)
            assert (first.name, first.reason, first.stage) == (second.name, second.reason, second.stage)
    assert kinds == {Decoded, PhotoFailure}
    assert apart.replaced == 0


def test_settings_reach_the_worker(decoder: Callable[..., ProcessDecoder]) -> None:
    failure = decoder(limits=DecodeLimits(max_pixels=2399)).decode(source(photo()), photo())
    assert isinstance(failure, PhotoFailure)
    assert "2,399" in failure.reason


def test_a_relative_path_is_that_of_the_moment(
    decoder: Callable[..., ProcessDecoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = decoder()
    apart.decode(source(photo()), photo())
    (tmp_path / "p.jpg").write_bytes(photo(50, 50))
    monkeypatch.chdir(tmp_path)
    found = apart.decode(PhotoSource(name="p", path=Path("p.jpg")), None)
    assert isinstance(found, Decoded) and found.photo.original_size == (50, 50)


def test_a_photo_that_takes_too_long_fails_and_the_next_one_does_not(
    decoder: Callable[..., ProcessDecoder], huge: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(huge)
    slow = PhotoSource(name="slow", path=path)
    apart = decoder(timeout=0.3)
    start = time.monotonic()
    failure = apart.decode(slow, None)
    assert time.monotonic() - start < 5
    assert isinstance(failure, PhotoFailure)
    assert (failure.stage, failure.reason) == ("decode", "no result within 0.3 s")
    assert 0.3 <= failure.seconds < 2
    assert failure.file == slow.state(), "its state was known before it hung"
    assert apart.replaced == 1
    assert soon(lambda: not children())


def test_a_worker_that_is_stopped_is_replaced(decoder: Callable[..., ProcessDecoder]) -> None:
    apart, data = decoder(timeout=0.5), photo()
    assert isinstance(apart.decode(source(data), data), Decoded)
    stopped = own_child()
    os.kill(stopped, signal.SIGSTOP)
    failure = apart.decode(source(data), data)
    assert isinstance(failure, PhotoFailure) and failure.reason == "no result within 0.5 s"
    assert isinstance(apart.decode(source(data), data), Decoded)
    assert own_child() != stopped


def test_a_photo_whose_worker_was_killed_has_a_second_try(decoder: Callable[..., ProcessDecoder]) -> None:
    apart, data = decoder(), photo()
    apart.decode(source(data), data)
    os.kill(own_child(), signal.SIGKILL)
    assert isinstance(apart.decode(source(data), data), Decoded)
    assert apart.replaced == 1


def test_a_photo_that_kills_two_workers_fails(decoder: Callable[..., ProcessDecoder], huge: bytes) -> None:
    apart = decoder()
    apart.decode(source(photo()), photo())
    stop = threading.Event()
    killed: set[int] = set()

    def assassin() -> None:
        while not stop.wait(0.1):  # an age after its start, and long before the end of this photo
            for child in set(children()) - killed:
                os.kill(child, signal.SIGSEGV)
                killed.add(child)

    thread = threading.Thread(target=assassin)
    thread.start()
    failure = apart.decode(source(huge), huge)
    stop.set()
    thread.join()
    assert isinstance(failure, PhotoFailure)
    assert failure.reason == "the decoder died of signal 11 (SIGSEGV) twice"
    assert apart.replaced == len(killed) == 2
    assert isinstance(apart.decode(source(photo()), photo()), Decoded)


def test_a_photo_that_needs_too_much_memory_fails_with_the_way_out(
    decoder: Callable[..., ProcessDecoder], huge: bytes
) -> None:
    apart = decoder(memory=200 << 20)
    failure = apart.decode(source(huge), huge)
    assert isinstance(failure, PhotoFailure)
    assert failure.reason == "it needs more than 210 MB to decode: raise --memory-limit"
    assert failure.stage == "memory", "so that the next run tries it again"
    assert isinstance(apart.decode(source(photo()), photo()), Decoded)
    large = bytes(300 << 20)
    failure = apart.decode(source(large), large)
    assert isinstance(failure, PhotoFailure)
    assert failure.reason == "it needs more than 210 MB to decode: raise --memory-limit"
    webp = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(webp, "WEBP", method=0)
    failure = apart.decode(source(webp.getvalue()), webp.getvalue())
    assert isinstance(failure, PhotoFailure)
    assert failure.reason.endswith("needs more than 210 MB to decode: raise --memory-limit")
    assert isinstance(apart.decode(source(photo()), photo()), Decoded)
    assert apart.replaced == 0


def test_bytes_that_do_not_fit_into_a_worker_are_a_lack_of_memory(decoder: Callable[..., ProcessDecoder]) -> None:
    apart, data = decoder(memory=96 << 20), bytes(120 << 20)
    failure = apart.decode(source(data), data)
    assert isinstance(failure, PhotoFailure)
    assert (failure.stage, failure.reason) == ("memory", "it needs more than 101 MB to decode: raise --memory-limit")


def test_a_limit_beyond_that_of_the_system_is_none_of_ours(decoder: Callable[..., ProcessDecoder]) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    assert isinstance(decoder(memory=1 << 70).decode(source(photo()), photo()), Decoded)
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

    def kill_and_ask(*arguments: Any) -> Pixels | Undecoded:
        os.kill(own_child(), number)
        return ask(*arguments)

    monkeypatch.setattr(processes._Child, "ask", kill_and_ask)
    failure = apart.decode(source(photo()), photo())
    assert isinstance(failure, PhotoFailure)
    assert (failure.stage, failure.reason) == (stage, f"the decoder died of signal {number} ({number.name}) twice")


def test_a_file_that_cannot_be_read_in_time_is_not_taken_for_one_that_cannot_be_decoded(
    decoder: Callable[..., ProcessDecoder], tmp_path: Path
) -> None:
    """A disk that does not answer: here the worker is stopped before it can read."""
    (tmp_path / "p.jpg").write_bytes(photo())
    apart, one = decoder(timeout=0.5), PhotoSource(name="p", path=tmp_path / "p.jpg")
    assert isinstance(apart.decode(one, None), Decoded)
    os.kill(own_child(), signal.SIGSTOP)
    failure = apart.decode(one, None)
    assert isinstance(failure, PhotoFailure)
    assert (failure.stage, failure.reason) == ("read", "no result within 0.5 s")


def test_too_many_open_files_are_no_fault_of_a_photo(decoder: Callable[..., ProcessDecoder]) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    apart = decoder()
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) - 1, limits[1]))
    try:
        with pytest.raises(BackendError, match="Too many open files"):
            apart.decode(source(photo()), photo())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert isinstance(apart.decode(source(photo()), photo()), Decoded)


def test_an_interrupt_is_for_the_parent(decoder: Callable[..., ProcessDecoder]) -> None:
    apart = decoder()
    apart.decode(source(photo()), photo())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(own_child(), number)
    assert isinstance(apart.decode(source(photo()), photo()), Decoded)
    assert apart.replaced == 0


def test_a_worker_that_cannot_start_is_our_error(
    decoder: Callable[..., ProcessDecoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BackendError, match=r"no decoding process can be started with .*python \(.*No such file"):
        decoder().decode(source(photo()), photo())
    (tmp_path / "python").write_text("#!/bin/sh\necho 'one line' >&2\necho 'numpy is broken' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(BackendError, match=r"python \(numpy is broken\)"):
        decoder().decode(source(photo()), photo())
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(BackendError, match="no interpreter"):
        decoder().decode(source(photo()), photo())


def test_a_closed_decoder_starts_nothing(decoder: Callable[..., ProcessDecoder]) -> None:
    apart = decoder()
    apart.close()
    assert isinstance(apart.decode(source(photo()), photo()), PhotoFailure)
    assert not children()


def test_closing_ends_what_hangs(decoder: Callable[..., ProcessDecoder]) -> None:
    apart, data = decoder(), photo()
    apart.decode(source(data), data)
    os.kill(own_child(), signal.SIGSTOP)
    threading.Timer(0.2, apart.close).start()
    start = time.monotonic()
    assert isinstance(apart.decode(source(data), data), PhotoFailure)
    assert time.monotonic() - start < 3


def test_a_worker_imports_little() -> None:
    code = (
        "import sys, ctxdeploy.runtime.worker\n"
        "heavy = {'rich', 'click', 'onnx', 'onnxruntime', 'openvino', 'numba', 'torch', 'multiprocessing',\n"
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
from ctxdeploy.runtime.decoder import DecodeSettings
from ctxdeploy.runtime.worker_process import ProcessDecoder
data = Path(sys.argv[1]).read_bytes()
for _ in range(2):
    decoder = ProcessDecoder(DecodeSettings(preprocessing=Preprocessing(image_size=64)))
    decoder.decode(PhotoSource(name="p", data=data), data)
    globals().setdefault("kept", []).append(decoder)
print("ready", flush=True)
time.sleep(60)
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
    patience = Deadline(60)
    for _ in range(20):
        patience.spend(3600)
    with pytest.raises(DeadlineError):
        for _ in range(20):
            patience.spend(1)


def ends() -> tuple[Channel, Channel]:
    first, second = socket.socketpair()
    return Channel(first), Channel(second)


def test_messages_arrive_whole() -> None:
    first, second = ends()
    pixels: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8)
    sender = threading.Thread(target=first.send, args=({"a": ["ü", None]}, memoryview(pixels)))
    sender.start()
    header = second.receive(Deadline(10))
    assert header == {"a": ["ü", None], "bytes": 3_000_000}
    received = np.empty_like(pixels)
    second.receive_into(memoryview(received), Deadline(10))
    sender.join()
    np.testing.assert_array_equal(received, pixels)
    first.close()
    with pytest.raises(EOFError):
        second.receive(Deadline(10))
    second.close()


def test_nonsense_is_refused() -> None:
    generator = random.Random(0)
    good = b'\x00\x00\x00\x0b{"bytes": 0}'
    messages = [b"\xff" * 8, b"\0\0\0\2[]", b"\0\0\0\2{}", b'\0\0\0\x0e{"bytes": "x"}', b"\0\0\0\4\xff\xff\xff\xff"]
    messages += [bytes(generator.randrange(256) if generator.random() < 0.2 else b for b in good) for _ in range(200)]
    refused = 0
    for message in messages:
        first, second = socket.socketpair()
        with first, second:
            first.sendall(message)
            first.shutdown(socket.SHUT_WR)
            try:
                assert isinstance(Channel(second).receive(Deadline(5))["bytes"], int)
            except (ValueError, EOFError):
                refused += 1
    assert refused > 150


@pytest.mark.parametrize(
    "reply",
    [
        b'{"shape": [65, 1, 3], "original_size": [1, 1], "region": [0, 0, 1, 1], "bytes": 195}',
        b'{"shape": [1, 1, 3], "original_size": [1, 1], "region": [0, 0, 1, 1], "bytes": 4}',
        b'{"shape": [-1, -1, 3], "original_size": [1, 1], "region": [0, 0, 1, 1], "bytes": 3}',
        b'{"shape": [1, 1, 3], "original_size": [1, true], "region": [0, 0, 1, 1], "bytes": 3}',
        b'{"shape": [1, 1, 3], "original_size": [1, 1], "region": [0, 0, 1], "bytes": 3}',
        b'{"reason": 3, "bytes": 0}',
    ],
)
def test_a_worker_that_answers_nonsense_is_replaced(
    reply: bytes, decoder: Callable[..., ProcessDecoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\n"
        "import socket, struct, sys, time\n"
        "connection = socket.socket(fileno=int(sys.argv[-1]))\n"
        f'for message in (b\'{{"bytes": 0}}\', b\'{{"file": null, "bytes": 0}}\', {reply!r}):\n'
        "    connection.sendall(struct.pack('>I', len(message)) + message)\n"
        "connection.sendall(bytes(1000))\n"
        "time.sleep(60)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    apart = decoder()
    failure = apart.decode(source(photo()), photo())
    assert isinstance(failure, PhotoFailure)
    assert failure.reason.startswith("the decoder answered nonsense twice (")
    assert apart.replaced == 2
