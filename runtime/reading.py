"""Threads that read photos which are no files, ahead of the decoders: a slow server holds up no decoder."""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from ctxdeploy.errors import PhotoError
from ctxdeploy.runtime.lanes import Ticket
from ctxdeploy.runtime.sources import PhotoFailure, PhotoSource

THREAD_PREFIX = "ctxdeploy-read"


class Readers:
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
        threading.Thread(target=self._run, name=THREAD_PREFIX, daemon=True).start()

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
