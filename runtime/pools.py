"""Threads that read and threads that decode photos ahead of the network, and the order in which photos leave them."""

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from ctxdeploy.runtime.photo import WorkItem
from ctxdeploy.runtime.worker import DecodeSettings, decode_item

DECODER_PREFIX = "ctxdeploy-decode"
_JOIN_SECONDS = 5.0


class Decoder(Protocol):
    """What a thread of the ``DecodePool`` decodes with.

    Attributes:
        replaced: processes that died or hung.
    """

    replaced: int

    def decode(self, item: WorkItem) -> None:
        """Set the pixels or the failure of a photo; ``BackendError`` if no photo can be decoded."""

    def close(self) -> None:
        """End what is under way. May be called from any thread."""

    def release(self) -> None:
        """Give back what is held. Called at last, from the thread that decodes."""


class ThreadDecoder:
    """Decodes in the thread that asks: a photo that hangs holds that thread for ever."""

    replaced = 0

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings

    def decode(self, item: WorkItem) -> None:
        """As ``Decoder.decode``."""
        item.file = item.source.state()
        decode_item(item, self._settings)

    def close(self) -> None:
        """Nothing can end what is under way."""

    def release(self) -> None:
        """Nothing is held."""


class DecodePool:
    """Threads that decode; ``concurrent.futures`` has none that a process may leave behind when one hangs in a photo.

    Args:
        make: returns a decoder.
        max_threads: they start when there are photos for them.
        deliver: is given each photo with its result, from the thread that decoded it.
        is_wanted: asked when the turn of a photo comes: one that nobody wants is neither decoded nor delivered.
    """

    def __init__(
        self,
        make: Callable[[], Decoder],
        max_threads: int,
        deliver: Callable[[WorkItem], None],
        is_wanted: Callable[[WorkItem], bool] = lambda _: True,
    ) -> None:
        self._make, self._max_threads, self._deliver, self._is_wanted = make, max_threads, deliver, is_wanted
        self._tasks: SimpleQueue[WorkItem | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._submitted = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._decoders: list[Decoder] = []

    def submit(self, item: WorkItem) -> None:
        """Decode a photo when its turn comes. May be called from any thread."""
        with self._lock:
            self._submitted += 1
            if not self._closed and len(self._threads) < min(self._max_threads, self._submitted):
                self._start()
        self._tasks.put(item)

    def reinforce(self) -> None:
        """Start one more thread, for one that is held up; at most as many again as there were to be."""
        with self._lock:
            if not self._closed and len(self._threads) < 2 * self._max_threads:
                self._start()

    @property
    def replaced(self) -> int:
        """Number of processes that died or hung."""
        return sum(decoder.replaced for decoder in self._decoders)

    def close(self) -> None:
        """End all threads; what they decode is dropped."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        for decoder in self._decoders:
            decoder.close()
        for thread in self._threads:
            # The garbage collector may close an abandoned stream from any thread, so also from one of these.
            if thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)

    def _start(self) -> None:
        decoder = self._make()
        name = f"{DECODER_PREFIX}-{len(self._threads)}"
        thread = threading.Thread(target=self._run, args=(decoder,), name=name, daemon=True)
        self._decoders.append(decoder)
        self._threads.append(thread)
        thread.start()

    def _run(self, decoder: Decoder) -> None:
        try:
            while not self._closed and (item := self._tasks.get()) is not None and not self._closed:
                if not self._is_wanted(item):
                    continue
                try:
                    decoder.decode(item)
                except BaseException as error:
                    item.result = error
                item.content = None
                self._deliver(item)
        finally:
            decoder.release()


class ReorderBuffer:
    """Photos in their own order, but none waits long for another: one that keeps others waiting is overtaken, and then
    leaves when it can.

    Args:
        max_wait: seconds that one may keep others waiting.
    """

    def __init__(self, max_wait: float) -> None:
        self._max_wait = max_wait
        self._waited = 0.0
        self._queue: deque[WorkItem] = deque()
        self._overtaken: list[WorkItem] = []
        self._done: set[WorkItem] = set()

    def __len__(self) -> int:
        """Return the number of photos that have not left."""
        return len(self._queue) + len(self._overtaken)

    def add(self, item: WorkItem) -> None:
        """Take a photo in behind all others."""
        self._queue.append(item)

    def mark_done(self, item: WorkItem) -> None:
        """Note that a photo may leave."""
        self._done.add(item)

    def ready(self) -> bool:
        """Say whether ``leave`` would return one."""
        return bool(self._queue and self._queue[0] in self._done) or any(item in self._done for item in self._overtaken)

    def leave(self) -> WorkItem | None:
        """Return the next photo that may leave, None if there is none yet."""
        for item in self._overtaken:
            if item in self._done:
                self._overtaken.remove(item)
                self._done.remove(item)
                return item
        if self._queue and self._queue[0] in self._done:
            self._waited = 0.0
            self._done.remove(self._queue[0])
            return self._queue.popleft()
        return None

    def wait(self, seconds: float) -> bool:
        """Count seconds in which none could leave; return whether the first one has now been overtaken."""
        if not self._done:
            return False
        self._waited += seconds
        if self._waited < self._max_wait:
            return False
        self._waited = 0.0
        self._overtaken.append(self._queue.popleft())
        return True
