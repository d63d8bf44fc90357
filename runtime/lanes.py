"""Threads that each decode one photo at a time, with a decoder of their own."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from ctxdeploy.runtime.decoding import Decoded, Decoder
from ctxdeploy.runtime.sources import PhotoFailure, PhotoSource

THREAD_PREFIX = "ctxdeploy-decode"
_END_SECONDS = 5.0


@dataclass(kw_only=True, eq=False, slots=True)
class Ticket:
    """A photo on its way.

    Attributes:
        source: the photo.
        data: its bytes, if it is no file and has been read.
        read: seconds that reading them took.
        result: what became of it; an exception ends the run. None while it is on its way.
    """

    source: PhotoSource
    data: bytes | None = None
    read: float = 0.0
    result: Decoded | PhotoFailure | BaseException | None = None


class Lanes:
    """Daemon threads: one that hangs in a photo keeps no process from ending.

    Args:
        make: returns a decoder.
        most: lanes; they start when there are photos for them.
        deliver: is given each ticket with its result, from the lane's thread.
    """

    def __init__(self, make: Callable[[], Decoder], most: int, deliver: Callable[[Ticket], None]) -> None:
        self._make, self._most, self._deliver = make, most, deliver
        self._tasks: SimpleQueue[Ticket | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._submitted = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._decoders: list[Decoder] = []

    def submit(self, ticket: Ticket) -> None:
        """Decode a photo when its turn comes. May be called from any thread."""
        with self._lock:
            self._submitted += 1
            wanted = not self._closed and len(self._threads) < min(self._most, self._submitted)
            if wanted:
                self._start()
        self._tasks.put(ticket)

    def reinforce(self) -> None:
        """Start one lane more, for one that is held up; at most as many again as there were to be."""
        with self._lock:
            if not self._closed and len(self._threads) < 2 * self._most:
                self._start()

    @property
    def replaced(self) -> int:
        """Number of processes that died or hung."""
        return sum(decoder.replaced for decoder in self._decoders)

    def close(self) -> None:
        """End all lanes; what they decode is dropped."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        for decoder in self._decoders:
            decoder.close()
        for thread in self._threads:
            # The garbage collector may close an abandoned stream from any thread, so also from a lane.
            if thread is not threading.current_thread():
                thread.join(_END_SECONDS)

    def _start(self) -> None:
        decoder = self._make()
        name = f"{THREAD_PREFIX}-{len(self._threads)}"
        thread = threading.Thread(target=self._run, args=(decoder,), name=name, daemon=True)
        self._decoders.append(decoder)
        self._threads.append(thread)
        thread.start()

    def _run(self, decoder: Decoder) -> None:
        try:
            while not self._closed and (ticket := self._tasks.get()) is not None and not self._closed:
                try:
                    ticket.result = decoder.decode(ticket.source, ticket.data)
                except BaseException as error:
                    ticket.result = error
                ticket.data = None
                self._deliver(ticket)
        finally:
            decoder.release()
