"""Photos that are not files of their own, read by threads that hold a bounded number of bytes together."""

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import StageSeconds
from ctxdeploy.core.urls import redacted
from ctxdeploy.runtime.config import MAX_BYTES
from ctxdeploy.runtime.decode.decode import TooLargeError
from ctxdeploy.runtime.photo import BoundedReader, PhotoSource, WorkItem

READER_PREFIX = "ctxdeploy-read"
# Bytes that a photo is taken to have where nobody tells, and by how much more where it has more.
_FIRST, _FACTOR = 4 << 20, 8


class ReadingRoom:
    """Room for the bytes of photos that are read here, until they are decoded; who wants more than is left waits.

    Those who wait are let in in their order, so that a large photo is not overtaken by small ones for ever. Nobody
    waits while he holds room, so that all come in some time.

    Args:
        total: bytes in all; no photo may have more.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def take(self, count: int) -> bool:
        """Wait for room for so many bytes, at most all there is; False if there is none any more, for the run ends."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            self._changed.wait_for(lambda: self._closed or (self._queue[0] is ticket and self._free >= count))
            self._queue.remove(ticket)
            if not self._closed:
                self._free -= count
            self._changed.notify_all()
            return not self._closed

    def give(self, count: int) -> None:
        """Give room back."""
        with self._changed:
            self._free += count
            self._changed.notify_all()

    def close(self) -> None:
        """Send away those who wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class ReadPool:
    """Threads that read photos which are not files. One that takes too long is given up and another started: a thread
    cannot be ended.

    Args:
        max_threads: that read at the same time.
        timeout: seconds for a photo, once there is room for its bytes.
        room: for the bytes of all photos, from before they are read until ``release``.
        deliver: is given each photo with its bytes or its failure, from any thread.
    """

    def __init__(
        self, max_threads: int, timeout: float, room: ReadingRoom, deliver: Callable[[WorkItem], None]
    ) -> None:
        self._max_threads, self._timeout, self._room, self._deliver = max_threads, timeout, room, deliver
        self._tasks: SimpleQueue[WorkItem | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._since: dict[WorkItem, float] = {}
        self._clock = 0.0
        self._threads = 0
        self._closed = False

    def submit(self, item: WorkItem) -> None:
        """Read a photo when its turn comes."""
        if self._threads < self._max_threads:
            self._start()
        self._tasks.put(item)

    def advance(self, seconds: float) -> None:
        """Let time pass; give up the photos that took too much of it."""
        with self._lock:
            self._clock += seconds
            late = [item for item, since in self._since.items() if self._clock - since >= self._timeout]
            for item in late:
                del self._since[item]
        for item in late:
            self._threads -= 1
            self._start()
            item.seconds = StageSeconds(read=self._timeout)
            item.fail(f"no data within {self._timeout:g} s", "read")
            self._deliver(item)

    def release(self, item: WorkItem) -> None:
        """Give back the room of a photo whose bytes are not needed any more. Any thread may call it, and twice."""
        with self._lock:
            count, item.room = item.room, 0
        if count:
            self._room.give(count)

    def close(self) -> None:
        """End the threads, each when the photo that it reads has come or failed; none is waited for."""
        self._closed = True
        self._room.close()
        for _ in range(self._threads):
            self._tasks.put(None)

    def _start(self) -> None:
        self._threads += 1
        threading.Thread(target=self._run, name=READER_PREFIX, daemon=True).start()

    def _run(self) -> None:
        while not self._closed and (item := self._tasks.get()) is not None and not self._closed:
            item.seconds = StageSeconds()
            count = _first_size(item, self._room.total)
            while True:
                if not self._room.take(count):
                    return
                content, error = self._try(item, count)
                if content is None and error is None:
                    return  # given up; another thread is in this one's place
                if not isinstance(error, TooLargeError) or count >= self._room.total:
                    break
                self.release(item)
                count = min(error.size or _FACTOR * count, self._room.total)
            self._finish(item, content, error)

    def _try(self, item: WorkItem, count: int) -> tuple[bytes | None, BaseException | None]:
        """Read a photo of at most so many bytes; return them or why there are none, two None if it was given up."""
        with self._lock:
            item.room, self._since[item] = count, self._clock
        start = time.perf_counter()
        content, error = None, None
        try:
            size = 0 if item.file is None else item.file.size
            if size > self._room.total:
                raise TooLargeError(self._room.total, size)
            content = read_now(item.source, count)
        except BaseException as caught:
            error = caught
        with self._lock:
            if self._since.pop(item, None) is None:
                return None, None
        item.seconds += StageSeconds(read=time.perf_counter() - start)
        return content, error

    def _finish(self, item: WorkItem, content: bytes | None, error: BaseException | None) -> None:
        item.content = content
        if isinstance(error, TooLargeError) and error.limit < MAX_BYTES:
            room = f"{self._room.total / 1e6:,.0f} MB"
            item.fail(f"its file has more than the {room} that there are to read it: raise --memory-limit", "memory")
        elif isinstance(error, PhotoError):
            item.fail(str(error), "read")
        else:
            item.result = error
        self._deliver(item)


def _first_size(item: WorkItem, total: int) -> int:
    """Return for how many bytes of a photo room is taken at first."""
    if item.file is None:
        return min(_FIRST, total)
    # Zip files hold a photo packed and unpacked.
    size = item.file.size if isinstance(item.source.reader, BoundedReader) else 2 * item.file.size
    return min(max(size, 1), total)


def read_now(source: PhotoSource, limit: int = MAX_BYTES) -> bytes | None:
    """Return the bytes of a photo that is not a file, None for a file.

    Raises:
        TooLargeError: it is known to have more bytes than ``limit``.
        PhotoError: it cannot be read; the message is the bare reason.
    """
    reader = source.reader
    if reader is None:
        return source.data
    try:
        data = reader.read_at_most(limit) if isinstance(reader, BoundedReader) else reader.read()
    except PhotoError:
        raise
    except Exception as error:  # file systems of others raise anything
        text = redacted(" ".join(str(error).split())) or type(error).__name__
        raise PhotoError(f"it cannot be read ({text})") from error
    if not isinstance(data, bytes):
        raise PhotoError(f"it cannot be read (its reader returned {type(data).__name__})")
    return data
