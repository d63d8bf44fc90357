"""Decoding in a process of its own, which can be killed and may die.

``concurrent.futures`` and ``multiprocessing.Pool`` are not used, because a process that dies breaks the one and hangs
the other, and neither can end a single photo that takes too long. A worker is a plain child of ``subprocess``: nothing
of the caller's ``__main__`` is imported, a process of many gigabytes is not forked beside its threads, a worker that
hangs or dies is replaced and costs one photo at most, and Linux kills it together with its parent. Only bytes and JSON
go over the connection, nothing is pickled; pixels lie in memory that both have, where there is such.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.types import FileState, StageSeconds
from ctxdeploy.runtime.decode.decode import Pixels
from ctxdeploy.runtime.photo import WorkItem
from ctxdeploy.runtime.shared_pixels import SharedPixels
from ctxdeploy.runtime.worker import DecodeSettings, receive, receive_into, send

ATTEMPTS = 2
START_SECONDS = 60.0
_REAP_SECONDS = 2.0
_STAGES = ("read", "memory", "decode")
_STDERR_BYTES = 4096
# numpy starts a thread per core in its BLAS, which decoding never calls.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class ProcessDecoder:
    """Decodes in a worker process, started with the first photo and replaced when it dies or takes too long."""

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._closed = False
        self._child: _Child | None = None
        self.replaced = 0

    def decode(self, item: WorkItem) -> None:
        """Set the pixels or the failure of a photo; one whose worker dies has a second try.

        The seconds that starting a worker takes are not the photo's.

        Raises:
            BackendError: no worker can be started.
        """
        for attempt in range(1, ATTEMPTS + 1):
            answer, is_final = self._try(item)
            if isinstance(answer, Pixels):
                item.result = answer
                return
            if is_final or attempt == ATTEMPTS:
                reason, stage = answer
                item.fail(reason if is_final else f"{reason} twice", stage)
                return

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

    def _try(self, item: WorkItem) -> "tuple[Pixels | tuple[str, str], bool]":
        """Return the pixels, or reason and stage of the failure; and whether that is final."""
        seconds = self._settings.timeout
        start = time.perf_counter()
        child, limit = None, None
        try:
            child = self._running()
            start = time.perf_counter()
            with _TimeLimit(seconds, child.kill) as limit:
                answer = child.ask(item, self._settings)
            if limit.is_over:
                self._replace()
            return answer, True
        except (EOFError, OSError, ValueError, RecursionError) as error:
            is_late = limit is not None and limit.is_over
            is_nonsense = isinstance(error, ValueError | RecursionError)
            cause, stage = self._replace(is_gone=not is_late and not is_nonsense)
            if is_late:
                return (f"no result within {seconds:g} s", stage), True
            return ("the decoder answered nonsense" if is_nonsense else cause, stage), False
        finally:
            item.seconds += StageSeconds(decode=time.perf_counter() - start)

    def _running(self) -> "_Child":
        child = self._child
        if child is None:
            with self._lock:
                if self._closed:
                    raise EOFError
                child = self._child = _Child(self._settings.preprocessing.image_size)
            child.prepare(self._settings)
        return child

    def _replace(self, *, is_gone: bool = False) -> tuple[str, str]:
        """End the process, unless it is ending by itself; return what it died of, and in which stage of the photo."""
        child, self._child = self._child, None
        if child is None:
            return "the decoder was ended", "read"
        self.replaced += 1
        stage = child.stage
        has_ended = is_gone and child.has_ended()
        if not has_ended:
            child.kill()
        cause, lacked_memory = child.bury()
        return cause, "memory" if has_ended and lacked_memory else stage


class _TimeLimit:
    """Calls ``end`` from a thread of its own when what is done within takes too long.

    Waiting goes in slices of which no more than two count at once: time in which all processes were stopped (Ctrl-Z, a
    laptop that sleeps) does not pass. The thread costs 0.1 ms.

    Attributes:
        is_over: ``end`` was called.
    """

    SLICE = 1.0

    def __init__(self, seconds: float, end: Callable[[], None]) -> None:
        self._left, self._end = seconds, end
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ctxdeploy-time-limit", daemon=True)
        self.is_over = False

    def __enter__(self) -> "_TimeLimit":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def spend(self, seconds: float) -> None:
        """Count seconds that have passed, as far as they count."""
        self._left -= min(seconds, 2 * self.SLICE)

    def _watch(self) -> None:
        while self._left > 0:
            start = time.monotonic()
            if self._done.wait(min(self._left, self.SLICE)):
                return
            self.spend(time.monotonic() - start)
        self.is_over = True
        self._end()


class _Child:
    """A running worker.

    Args:
        longest: pixels of the longest side of a decoded photo.

    Attributes:
        stage: of the photo that was asked for last: ``read`` or ``decode``.
    """

    def __init__(self, longest: int) -> None:
        self.stage = "read"
        self._held = ExitStack()
        with ExitStack() as passed:
            try:
                self._connection, theirs = Pipe()
                self._held.enter_context(self._connection)
                passed.enter_context(theirs)
                # A second descriptor, by which any thread can end what another one sends or receives.
                self._socket = socket.socket(fileno=os.dup(self._connection.fileno()))
                self._held.enter_context(self._socket)
                self._errors, errors = os.pipe()
                self._held.callback(os.close, self._errors)
                passed.callback(os.close, errors)
                # Nobody waits for what libraries print: when the pipe is full, it is lost and the worker goes on.
                os.set_blocking(errors, False)
                os.set_blocking(self._errors, False)
                self._shared = SharedPixels.make(3 * longest * longest)
                if self._shared is not None:
                    self._held.callback(self._shared.close)
                memory = () if self._shared is None else (self._shared.descriptor,)
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "ctxdeploy.runtime.worker", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=(theirs.fileno(), *memory),
                    env={**os.environ, **_ONE_THREAD, "PYTHONPATH": _module_path()},
                )
            except (OSError, ValueError) as error:  # too many open files, say: the photo is not to blame
                self._held.close()
                raise BackendError(_cannot_start(str(error))) from error

    def prepare(self, settings: DecodeSettings) -> None:
        """Send the settings and wait until the worker has taken them; ``BackendError`` if it cannot start."""
        message = {
            "parent": os.getpid(),
            "gpu": settings.gpu,
            "preprocessing": settings.preprocessing.metadata(),
            "limits": asdict(settings.limits),
            "memory": settings.memory,
            "shared": None if self._shared is None else (self._shared.descriptor, self._shared.size),
        }
        limit = _TimeLimit(START_SECONDS, self.kill)
        try:
            with limit:
                send(self._connection, message)
                receive(self._connection)
        except (EOFError, OSError, ValueError) as error:
            if limit.is_over:
                raise BackendError(_cannot_start(f"it is not ready after {START_SECONDS:g} s")) from error
            if self._wait() > 0:
                raise BackendError(_cannot_start(self._last_words())) from error
            raise  # killed from outside, like any other worker

    def ask(self, item: WorkItem, settings: DecodeSettings) -> Pixels | tuple[str, str]:
        """Return the pixels of a photo, or reason and stage of its failure; set the state of its file.

        Raises:
            EOFError, OSError: the process died.
            ValueError: it answers nonsense.
        """
        source, connection = item.source, self._connection
        self.stage = "read" if source.path is not None else "decode"
        try:
            payload = os.fsencode(source.path.absolute()) if source.path is not None else item.content or source.data
        except (OSError, ValueError) as error:  # the current folder is gone, or no file can have this name
            return f"it cannot be read ({error})", "read"
        is_path, box = source.path is not None, asdict(source.box) if source.box else None
        send(connection, {"is_path": is_path, "box": box}, payload or b"")
        item.file = _file(receive(connection)) or item.file
        answer = receive(connection)
        if answer.get("is_read") is True:
            self.stage = "decode"
            answer = receive(connection)
        self._drain()
        if isinstance(answer.get("reason"), str) and answer["bytes"] == 0:
            stage = answer.get("stage")
            return answer["reason"], stage if stage in _STAGES else "decode"
        pixels = self._pixels(answer, settings.preprocessing.image_size)
        width, height = _integers(answer, "original_size", 2)
        left, upper, right, lower = _integers(answer, "region", 4)
        return Pixels(pixels=pixels, original_size=(width, height), region=(left, upper, right, lower))

    def _pixels(self, answer: dict[str, Any], longest: int) -> NDArray[np.uint8]:
        height, width, channels = _integers(answer, "shape", 3)
        count = 0 if answer.get("is_shared") is True else height * width * 3
        is_image = 1 <= height <= longest and 1 <= width <= longest and channels == 3
        if not is_image or answer["bytes"] != count:
            raise ValueError(f"pixels of {height}×{width}×{channels}")
        if not count:
            if self._shared is None:
                raise ValueError("pixels in memory that there is not")
            return self._shared.taken((height, width, channels))
        pixels = np.empty((height, width, channels), np.uint8)
        receive_into(self._connection, pixels.reshape(-1).data)
        return pixels

    def has_ended(self) -> bool:
        """Wait a little for a process whose connection is closed: what it ends with is worth knowing."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_SECONDS)
        return self._process.returncode is not None

    def kill(self) -> None:
        """End the process, and what waits for its answer. May be called from any thread."""
        self._process.kill()
        with suppress(OSError):  # the other end is gone already
            self._socket.shutdown(socket.SHUT_RDWR)

    def bury(self) -> tuple[str, bool]:
        """Wait for the end of the process; return what it died of, and whether it may have lacked memory."""
        status = self._wait()
        said = self._last_words()
        self._held.close()
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
        return lines[-1].strip() if lines else "it printed nothing"


def _cannot_start(reason: str) -> str:
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


def _integers(answer: dict[str, Any], key: str, count: int) -> list[int]:
    numbers = answer.get(key)
    if not isinstance(numbers, list) or len(numbers) != count or not all(type(n) is int for n in numbers):
        raise ValueError(f"{key} {numbers}")
    return numbers
