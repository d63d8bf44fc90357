"""Threads that read and threads that decode photos, ahead of the network."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.runtime.decoder import Decoded, Decoder
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource

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


class DecodePool:
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


READER_PREFIX = "ctxdeploy-read"


class ReadPool:
    """Daemon threads. One that takes too long is given up and another started: a thread cannot be ended.

    Args:
        most: threads that read at the same time.
        timeout: seconds for a photo.
        deliver: is given each ticket with its data or its failure, from any thread.
    """

    def __init__(self, most: int, timeout: float, deliver: Callable[[Ticket], None]) -> None:
        self._most, self._timeout, self._deliver = most, timeout, deliver
        self._tasks: SimpleQueue[Ticket | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._since: dict[Ticket, float] = {}
        self._clock = 0.0
        self._threads = 0
        self._closed = False

    def submit(self, ticket: Ticket) -> None:
        """Read a photo when its turn comes."""
        if self._threads < self._most:
            self._start()
        self._tasks.put(ticket)

    def advance(self, seconds: float) -> None:
        """Let time pass; give up the photos that took too much of it."""
        with self._lock:
            self._clock += seconds
            late = [ticket for ticket, since in self._since.items() if self._clock - since >= self._timeout]
            for ticket in late:
                del self._since[ticket]
        for ticket in late:
            self._threads -= 1
            self._start()
            ticket.read = self._timeout
            ticket.result = _failure(ticket, f"no data within {self._timeout:g} s")
            self._deliver(ticket)

    def close(self) -> None:
        """End the threads, each when the photo that it reads has come or failed; none is waited for."""
        self._closed = True
        for _ in range(self._threads):
            self._tasks.put(None)

    def _start(self) -> None:
        self._threads += 1
        threading.Thread(target=self._run, name=READER_PREFIX, daemon=True).start()

    def _run(self) -> None:
        while not self._closed and (ticket := self._tasks.get()) is not None and not self._closed:
            with self._lock:
                self._since[ticket] = self._clock
            start = time.perf_counter()
            data = _read(ticket.source)
            with self._lock:
                if self._since.pop(ticket, None) is None:
                    return  # given up; another thread is in this one's place
            ticket.read = time.perf_counter() - start
            try:
                if isinstance(data, bytes):
                    ticket.data = data
                else:
                    ticket.result = data if isinstance(data, BaseException) else _failure(ticket, data)
            except BaseException as error:
                ticket.result = error
            self._deliver(ticket)


def read_now(source: PhotoSource) -> bytes | None:
    """Return the bytes of a photo that is no file, None for a file; ``PhotoError`` with the bare reason."""
    if source.reader is None:
        return source.data
    data = _read(source)
    if isinstance(data, BaseException):
        raise data
    if isinstance(data, str):
        raise PhotoError(data)
    return data


def _read(source: PhotoSource) -> bytes | str | BaseException:
    """Return the bytes, or the reason why there are none."""
    try:
        data = source.reader.read() if source.reader is not None else source.data
    except PhotoError as error:
        return str(error)
    except Exception as error:  # file systems of others raise anything
        return f"it cannot be read ({' '.join(str(error).split()) or type(error).__name__})"
    except BaseException as error:
        return error
    return data if isinstance(data, bytes) else f"it cannot be read (its reader returned {type(data).__name__})"


def _failure(ticket: Ticket, reason: str) -> PhotoFailure:
    source = ticket.source
    return PhotoFailure(name=source.name, reason=reason, stage="read", file=source.state(), seconds=ticket.read)
