"""Decoding in a process of its own, which can be killed, and may die.

A plain child of ``subprocess``: nothing of the caller's ``__main__`` is imported, nothing is forked beside threads.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.types import FileState
from ctxdeploy.runtime.decode.decode import Pixels
from ctxdeploy.runtime.decoder import Decoded, DecodeSettings, Undecoded
from ctxdeploy.runtime.framing import Channel, Deadline, DeadlineError
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource

ATTEMPTS = 2
START_SECONDS = 60.0
_REAP_SECONDS = 2.0
_STAGES = ("read", "memory", "decode")
_STDERR_BYTES = 4096
# numpy starts a thread per core in its BLAS, which decoding never calls.
_SINGLE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class ProcessDecoder:
    """Decodes in a worker process, started with the first photo and replaced when it dies or takes too long."""

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._closed = False
        self._child: _Child | None = None
        self.replaced = 0

    def decode(self, source: PhotoSource, data: bytes | None) -> Decoded | PhotoFailure:
        """As ``Decoder.decode``; a photo whose worker dies has a second try. Starting workers does not count."""
        file = None if source.path is not None else source.state()
        seconds, failed = 0.0, Undecoded(reason="")
        for _ in range(ATTEMPTS):
            child = None
            answer: Pixels | Undecoded | None = None  # it died, or answered nonsense
            start = time.perf_counter()
            try:
                child = self._running()
                start = time.perf_counter()
                answer = child.ask(source, data, self._settings)
            except DeadlineError:
                stage = self._bury().stage
                answer = Undecoded(reason=f"no result within {self._settings.timeout:g} s", stage=stage)
            except (EOFError, OSError):
                failed = self._bury(gone=True)
                failed = Undecoded(reason=f"{failed.reason} twice", stage=failed.stage)
            except ValueError as error:
                stage = self._bury().stage
                failed = Undecoded(reason=f"the decoder answered nonsense twice ({error})", stage=stage)
            seconds += time.perf_counter() - start
            file = (child.file if child else None) or file
            if isinstance(answer, Pixels):
                return Decoded(source=source, photo=answer, seconds=seconds, file=file)
            if answer is not None:
                failed = answer
                break
        return PhotoFailure(name=source.name, reason=failed.reason, stage=failed.stage, file=file, seconds=seconds)

    def close(self) -> None:
        """End the process; what it decodes fails."""
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            child.kill()

    def release(self) -> None:
        """Wait for the end of the process, and close the connection."""
        self.close()
        child, self._child = self._child, None
        if child is not None:
            child.bury()

    def _running(self) -> "_Child":
        child = self._child
        if child is None:
            with self._lock:
                if self._closed:
                    raise EOFError
                child = self._child = _Child()
            child.prepare(self._settings)
        return child

    def _bury(self, *, gone: bool = False) -> Undecoded:
        """End the process, unless it is ending by itself, and return what it died of, in which stage."""
        child, self._child = self._child, None
        if child is None:
            return Undecoded(reason="the decoder was ended", stage="read")
        self.replaced += 1
        stage = child.stage
        ended = gone and child.has_ended()
        if not ended:
            child.kill()
        reason, lacked_memory = child.bury()
        return Undecoded(reason=reason, stage="memory" if ended and lacked_memory else stage)


class _Child:
    """A running worker.

    Attributes:
        file: state of the file that was asked for last.
        stage: of the photo that was asked for last: ``read`` or ``decode``.
    """

    def __init__(self) -> None:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:  # too many open files: the photo is not to blame
            raise BackendError(_no_start(str(error))) from error
        try:
            self._errors, errors = os.pipe()
        except OSError as error:
            ours.close()
            theirs.close()
            raise BackendError(_no_start(str(error))) from error
        self._channel = Channel(ours)
        # Nobody waits for what libraries print: when the pipe is full, it is lost and the worker goes on.
        os.set_blocking(errors, False)
        os.set_blocking(self._errors, False)
        self.file: FileState | None = None
        self.stage = "read"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ctxdeploy.runtime.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **_SINGLE, "PYTHONPATH": _module_path()},
            )
        except (OSError, ValueError) as error:
            os.close(self._errors)
            ours.close()
            raise BackendError(_no_start(str(error))) from error
        finally:
            os.close(errors)
            theirs.close()

    def prepare(self, settings: DecodeSettings) -> None:
        """Send the settings and wait until the worker has taken them; ``BackendError`` if it cannot start."""
        patience = Deadline(START_SECONDS)
        message = {
            "parent": os.getpid(),
            "preprocessing": settings.preprocessing.metadata(),
            "limits": asdict(settings.limits),
            "memory": settings.memory,
        }
        try:
            self._channel.send(message, patience=patience)
            self._channel.receive(patience)
        except (EOFError, OSError, ValueError) as error:
            if self._wait() > 0:
                raise BackendError(_no_start(self._last_words())) from error
            raise  # killed from outside, like any other worker
        except DeadlineError as error:
            raise BackendError(_no_start(f"it is not ready after {START_SECONDS:g} s")) from error

    def ask(self, source: PhotoSource, data: bytes | None, settings: DecodeSettings) -> Pixels | Undecoded:
        """Return a photo, or the reason why there is none.

        Raises:
            DeadlineError: no answer in time.
            EOFError, OSError, ValueError: the process died, or answers nonsense.
        """
        self.file, self.stage = None, "read" if source.path is not None else "decode"
        patience = Deadline(settings.timeout)
        box = source.box
        try:
            payload = data or b"" if source.path is None else os.fsencode(source.path.absolute())
        except (OSError, ValueError) as error:  # the current folder is gone, or no file can have this name
            return Undecoded(reason=f"it cannot be read ({error})", stage="read")
        header = {"is_path": source.path is not None, "box": asdict(box) if box else None}
        self._channel.send(header, payload, patience)
        self.file = _file(self._channel.receive(patience))
        answer = self._channel.receive(patience)
        if answer.get("is_read") is True:
            self.stage = "decode"
            answer = self._channel.receive(patience)
        self._drain()
        if isinstance(answer.get("reason"), str) and answer["bytes"] == 0:
            stage = answer.get("stage")
            return Undecoded(reason=answer["reason"], stage=stage if stage in _STAGES else "decode")
        pixels = np.empty(_shape(answer, settings.preprocessing.image_size), np.uint8)
        self._channel.receive_into(pixels.reshape(-1).data, patience)
        width, height = _integers(answer, "original_size", 2)
        left, upper, right, lower = _integers(answer, "region", 4)
        return Pixels(pixels=pixels, original_size=(width, height), region=(left, upper, right, lower))

    def has_ended(self) -> bool:
        """Wait a little for a process whose connection is closed: what it ends with is worth knowing."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_SECONDS)
        return self._process.returncode is not None

    def kill(self) -> None:
        """End the process, and what waits for its answer."""
        self._process.kill()
        self._channel.interrupt()

    def bury(self) -> tuple[str, bool]:
        """Wait for the end of the process; return what it died of, and whether it may have lacked memory."""
        status = self._wait()
        said = self._last_words()
        self._channel.close()
        os.close(self._errors)
        if status >= 0:
            return f"the decoder ended with exit code {status} ({said})", said.startswith("MemoryError")
        name = signal.Signals(-status).name if -status in set(signal.Signals) else "unknown"
        return f"the decoder died of signal {-status} ({name})", name == "SIGKILL"  # which Linux sends to get some back

    def _wait(self) -> int:
        try:
            return self._process.wait(_REAP_SECONDS)
        except subprocess.TimeoutExpired:  # it hangs in the kernel, on a disk that does not answer
            return -signal.SIGKILL

    def _drain(self) -> bytes:
        """Return the end of what the worker has printed so far."""
        said = b""
        with suppress(OSError):  # BlockingIOError: no more for now
            while read := os.read(self._errors, _STDERR_BYTES):
                said = (said + read)[-_STDERR_BYTES:]
        return said

    def _last_words(self) -> str:
        lines = self._drain().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"


def _no_start(reason: str) -> str:
    return (
        f"no decoding process can be started with {sys.executable or 'no interpreter'} ({reason}): mend that, or "
        "decode in threads (isolated=False)"
    )


def _module_path() -> str:
    """Return where this process finds its modules, for one that is started without the current folder."""
    return os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path if isinstance(entry, str))


def _file(answer: dict[str, Any]) -> FileState | None:
    if answer.get("file") is None:
        return None
    size, mtime_ns = _integers(answer, "file", 2)
    return FileState(size=size, mtime_ns=mtime_ns)


def _shape(answer: dict[str, Any], most: int) -> tuple[int, int, int]:
    height, width, channels = _integers(answer, "shape", 3)
    if not (1 <= height <= most and 1 <= width <= most and channels == 3) or answer["bytes"] != height * width * 3:
        raise ValueError(f"pixels of {height}×{width}×{channels}")
    return height, width, channels


def _integers(answer: dict[str, Any], key: str, count: int) -> list[int]:
    numbers = answer.get(key)
    if not isinstance(numbers, list) or len(numbers) != count or not all(type(n) is int for n in numbers):
        raise ValueError(f"{key} {numbers}")
    return numbers
