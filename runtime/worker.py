"""Decoding one photo, and the process that does nothing else: whatever a photo does to it, the run goes on.

    python -P -m ctxdeploy.runtime.worker DESCRIPTOR

The messages on the connection are JSON with the number of bytes that follow, in pieces. First come the settings, and
the answer says that the worker is ready. It then answers each photo at once with the state of its file, again when the
photo has been read, and last with its pixels, which follow or lie in shared memory, or the reason why there are none.
The process ends when the other end of the connection is closed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import BufferTooShort
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import Box, Preprocessing, StageSeconds
from ctxdeploy.runtime.config import DEFAULT_LIMITS, MAX_BYTES, DecodeLimits
from ctxdeploy.runtime.decode.decode import decode_bytes, read_file
from ctxdeploy.runtime.decode.formats import readable_formats
from ctxdeploy.runtime.decode.nvimgcodec import check_decoder
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource, WorkItem
from ctxdeploy.runtime.shared_pixels import SharedPixels

_MAX_HEADER = 1 << 16
# A worker that has not the memory for a photo's bytes receives them piece by piece, and drops them.
_PIECE = 1 << 18
_MAX_REASON = 1000
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_OOM_SCORE = "500"


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeSettings:
    """How photos are decoded.

    Attributes:
        preprocessing: size and mode.
        limits: which photos are refused.
        timeout: seconds that a worker has for a photo.
        memory: bytes that a worker may allocate; no limit if None.
        reading: bytes that photos which are not files may have together, from reading to decoding.
        gpu: number of the GPU, for a decoder that has one.
    """

    preprocessing: Preprocessing
    limits: DecodeLimits = DEFAULT_LIMITS
    timeout: float = 60.0
    memory: int | None = None
    reading: int = MAX_BYTES
    gpu: int = 0


def decode_item(item: WorkItem, settings: DecodeSettings, on_read: Callable[[], None] = lambda: None) -> None:
    """Set the pixels of a photo; whatever is wrong with it becomes its ``PhotoFailure``.

    Args:
        item: the photo; a file is read first.
        settings: how it is decoded.
        on_read: called between reading and decoding.
    """
    source, start, stage = item.source, time.perf_counter(), "read"
    reason: str | None = None
    try:
        data = read_file(source.path) if source.path is not None else item.content or source.data or b""
        on_read()
        stage = "decode"
        item.result = decode_bytes(data, settings.preprocessing, source.box, settings.limits)
    except Exception as error:  # a defect of ours, or of Pillow's, must not end a run of days
        reason = _reason(error, settings.memory)
        stage = "memory" if _lacks_memory(error) else stage
    item.seconds += StageSeconds(decode=time.perf_counter() - start)
    if reason is not None:
        item.fail(reason, stage)


def _reason(error: BaseException, memory: int | None) -> str:
    if memory is not None and _lacks_memory(error):
        return _too_large(memory)
    if not isinstance(error, PhotoError):
        return f"it cannot be decoded ({type(error).__name__}: {' '.join(str(error).split())})"
    if memory is not None and error.__cause__ is not None:  # libwebp and others do not say that it was memory
        return f"{error}, or {_too_large(memory).removeprefix('it ')}"
    return str(error)


def _too_large(memory: int) -> str:
    return f"it needs more than {memory / 1e6:,.0f} MB to decode: raise --memory-limit"


def _lacks_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__
    return False


def send(connection: Connection, message: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    """Send a message, and bytes behind it."""
    connection.send_bytes(json.dumps({**message, "bytes": len(payload)}).encode())
    for start in range(0, len(payload), _PIECE):
        connection.send_bytes(payload[start : start + _PIECE])


def receive(connection: Connection) -> dict[str, Any]:
    """Return the next message, whose ``bytes`` are to be received next.

    Raises:
        ValueError: it is not a message; a photo may have spoilt the process that sent it.
        EOFError, OSError: the other end is gone.
    """
    message = json.loads(connection.recv_bytes(_MAX_HEADER))
    if not isinstance(message, dict) or type(message.get("bytes")) is not int:
        raise ValueError("a message without its length")
    return message


def receive_into(connection: Connection, view: memoryview) -> None:
    """Fill ``view`` with the bytes of a message; errors as ``receive``."""
    at = 0
    try:
        while at < len(view):
            at += connection.recv_bytes_into(view, at)
    except BufferTooShort as error:
        raise ValueError("more bytes than the message says") from error


def main(descriptor: int) -> None:
    """Answer until the other end is closed."""
    # Ctrl-C and SIGHUP go to all processes of a terminal, a batch system's SIGTERM to all of a job: the parent decides.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(descriptor)
    with suppress(EOFError, ConnectionError):
        message = receive(connection)
        _die_with_parent(message["parent"])
        readable_formats()  # loads Pillow's plug-ins
        settings = DecodeSettings(
            preprocessing=Preprocessing(**message["preprocessing"]),
            limits=DecodeLimits(**message["limits"]),
            memory=message["memory"],
            gpu=message["gpu"],
        )
        check_decoder(settings.preprocessing, settings.gpu)
        _limit_memory(settings.memory)
        shared = None if message["shared"] is None else SharedPixels(*message["shared"])
        send(connection, {})
        while True:
            _answer(connection, settings, shared)


def _answer(connection: Connection, settings: DecodeSettings, shared: SharedPixels | None) -> None:
    message = receive(connection)
    payload = _receive_payload(connection, message["bytes"])
    if payload is None:
        send(connection, {"file": None})
        send(connection, {"reason": _too_large(settings.memory or message["bytes"]), "stage": "memory"})
        return
    box = Box(**message["box"]) if message["box"] else None
    path = Path(os.fsdecode(payload)) if message["is_path"] else None
    item = WorkItem(source=PhotoSource(name="", path=path, data=payload if path is None else None, box=box))
    item.file = item.source.state()
    send(connection, {"file": [item.file.size, item.file.mtime_ns] if item.file else None})
    decode_item(item, settings, lambda: send(connection, {"is_read": True}))
    if isinstance(item.result, PhotoFailure):
        send(connection, {"reason": item.result.reason[:_MAX_REASON], "stage": item.result.stage})
        return
    shown = item.pixels
    answer = {"shape": shown.pixels.shape, "original_size": shown.original_size, "region": shown.region}
    is_shared = shared is not None and shared.put(shown.pixels)
    send(connection, {**answer, "is_shared": is_shared}, b"" if is_shared else shown.pixels.reshape(-1).data)


def _receive_payload(connection: Connection, count: int) -> bytes | None:
    """Return the bytes behind a message; None if there is not enough memory for them."""
    try:
        buffer = bytearray(count)
    except MemoryError:
        while count > 0:
            count -= len(connection.recv_bytes(_PIECE))
        return None
    receive_into(connection, memoryview(buffer))
    try:
        return bytes(buffer)
    except MemoryError:
        return None


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process with the thread that started it, also while a photo hangs; elsewhere the end of
    the connection is found after the photo at hand."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()  # it died before
    with suppress(OSError):  # out of memory, the kernel then takes a worker, not its parent
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def _limit_memory(max_bytes: int | None) -> None:
    """Let allocations beyond ``max_bytes`` fail; Linux alone counts what is really private memory."""
    if max_bytes is None or sys.platform != "linux":
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]  # of a batch system; it cannot be raised
    max_bytes = min(max_bytes, sys.maxsize if hard == resource.RLIM_INFINITY else hard)
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))


if __name__ == "__main__":
    main(int(sys.argv[1]))
