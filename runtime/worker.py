"""A process that decodes photos and does nothing else: whatever a photo does to it, the run goes on.

    python -P -m ctxdeploy.runtime.worker DESCRIPTOR

It gets its settings, says that it is ready, and then answers each photo with the state of its file, at once, with a
word when it is read, and with its pixels or the reason why there are none. It ends when the other end of its connection
is closed.
"""

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctxdeploy.core.types import Box, Preprocessing
from ctxdeploy.runtime.decode.image import DecodeLimits, readable_formats
from ctxdeploy.runtime.decoder import Decoded, DecodeSettings, decode_source, too_large
from ctxdeploy.runtime.framing import Channel
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_OOM_SCORE = "500"
_LONGEST_REASON = 1000


def main(descriptor: int) -> None:
    """Answer until the other end is closed."""
    # Ctrl-C and SIGHUP go to all processes of a terminal, a batch system's SIGTERM to all of a job: the parent decides.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=descriptor))
    with suppress(EOFError, ConnectionError):
        header = channel.receive()
        _die_with_parent(header["parent"])
        readable_formats()  # loads Pillow's plug-ins
        settings = DecodeSettings(
            preprocessing=Preprocessing(**header["preprocessing"]),
            limits=DecodeLimits(**header["limits"]),
            memory=header["memory"],
        )
        _limit_memory(settings.memory)
        channel.send({})
        while True:
            _answer(channel, settings)


def _answer(channel: Channel, settings: DecodeSettings) -> None:
    header = channel.receive()
    try:
        payload = channel.receive_bytes(header["bytes"])
    except MemoryError:
        channel.send({"file": None})
        channel.send({"reason": too_large(settings.memory or header["bytes"]), "stage": "memory"})
        return
    box = Box(**header["box"]) if header["box"] else None
    if header["is_path"]:
        source = PhotoSource(name="", path=Path(os.fsdecode(payload)), box=box)
    else:
        source = PhotoSource(name="", data=payload, box=box)
    file = source.state()
    channel.send({"file": [file.size, file.mtime_ns] if file else None})
    result = decode_source(source, source.data, file, settings, lambda: channel.send({"is_read": True}))
    channel.send(*_reply(result))


def _reply(result: Decoded | PhotoFailure) -> tuple[dict[str, Any], memoryview | bytes]:
    if isinstance(result, PhotoFailure):
        return {"reason": result.reason[:_LONGEST_REASON], "stage": result.stage}, b""
    photo = result.photo
    header = {"shape": photo.pixels.shape, "original_size": photo.original_size, "region": photo.region}
    return header, photo.pixels.reshape(-1).data


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


def _limit_memory(most: int | None) -> None:
    """Let allocations beyond ``most`` bytes fail; Linux alone counts what is really private memory."""
    if most is None or sys.platform != "linux":
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]  # of a batch system; it cannot be raised
    most = min(most, sys.maxsize if hard == resource.RLIM_INFINITY else hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    main(int(sys.argv[1]))
