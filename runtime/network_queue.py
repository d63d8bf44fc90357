"""Decoded photos of many threads before one network: those that wait while it runs go together in the next batch.

A photo that comes while the network is idle runs at once, alone: nobody waits for company.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ctxdeploy.core.deadline import Deadline, Promise
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.runtime.network import ExtractionStatistics, Network
from ctxdeploy.runtime.photo import PhotoFailure, WorkItem

NETWORK_THREAD = "ctxdeploy-network"
# Threads for a network that takes several batches at once: one hands a batch over while another waits for the GPU. With
# more, photos that come one by one would hardly ever meet in a batch.
_MOST_THREADS = 2
_JOIN_SECONDS = 60.0


class ExtractionObserver(Protocol):
    """Is told what a ``QueuedExtractor`` does, at once and from any of its threads; it should return soon.

    What it raises is printed, and ends nothing.
    """

    def decoded(self, seconds: float) -> None:
        """A photo was read and decoded, or that failed, in so many seconds."""

    def ran(self, photos: int, seconds: float) -> None:
        """The network ran for a batch of so many photos, each turn of a photo being one, in so many seconds."""


class Unobserved:
    """Observes nothing."""

    def decoded(self, seconds: float) -> None:
        """See ``ExtractionObserver``."""

    def ran(self, photos: int, seconds: float) -> None:
        """See ``ExtractionObserver``."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Waiting:
    item: WorkItem
    promise: Promise[PhotoDescriptors | PhotoFailure]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.item.pixels.pixels.shape


class NetworkQueue:
    """Runs a network for many threads: photos of exactly one shape together, the oldest and those like it first.

    Args:
        network: that runs, in one thread of this queue, or two where it can have two batches under way.
        batch_size: photos that it takes at once.
        observer: told of each batch.
    """

    def __init__(self, network: Network, batch_size: int, observer: ExtractionObserver) -> None:
        self._network, self._batch_size, self._observer = network, batch_size, observer
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._running: dict[int, list[_Waiting]] = {}  # by thread
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def __len__(self) -> int:
        """Return the number of photos that wait, those that run left out."""
        return len(self._waiting)

    def run(self, items: Sequence[WorkItem], wanted: Deadline) -> list[PhotoDescriptors | PhotoFailure]:
        """Return what the network finds in decoded photos, whose size it takes.

        Raises:
            BackendError: the network failed, or the queue is closed.
            DeadlineError: the deadline was over before.
        """
        added = [_Waiting(item=item, promise=Promise(wanted)) for item in items]
        with self._changed:
            if self._is_closed:
                raise closed()
            while len(self._threads) < min(self._network.in_flight, _MOST_THREADS):
                self._threads.append(threading.Thread(target=self._work, name=NETWORK_THREAD, daemon=True))
                self._threads[-1].start()
            self._waiting += added
            self._changed.notify(len(self._threads))
        return [one.promise.wait() for one in added]

    def close(self) -> None:
        """End the thread when its batch is done; what waits fails."""
        with self._changed:
            self._is_closed = True
            left = [*self._waiting, *(one for batch in self._running.values() for one in batch)]
            self._waiting.clear()
            self._changed.notify_all()
        for one in left:
            one.promise.fail(closed())
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[_Waiting]:
        """Return the next batch, waiting for its first photo; nothing when the queue is closed."""
        with self._changed:
            self._running[threading.get_ident()] = []
            while not self._is_closed:
                self._waiting = deque(one for one in self._waiting if one.promise.is_wanted)
                if self._waiting:
                    shape = self._waiting[0].shape
                    alike = [one for one in self._waiting if one.shape == shape][: self._batch_size]
                    self._waiting = deque(one for one in self._waiting if one not in alike)
                    self._running[threading.get_ident()] = alike
                    return alike
                self._changed.wait()
            return []

    def _run(self, batch: Sequence[_Waiting]) -> None:
        start, done = time.perf_counter(), 0
        try:
            for result in self._network.run([one.item for one in batch], ExtractionStatistics()):
                batch[done].promise.give(result)
                done += 1
        except BaseException as error:
            # What fails in company may be sound alone.
            for one in batch[done:]:
                if len(batch) == 1:
                    one.promise.fail(error)
                else:
                    self._run([one])
            return
        with reporting():
            self._observer.ran(len(batch), time.perf_counter() - start)


@contextmanager
def reporting() -> Iterator[None]:
    """Print what an observer raises: what it observes goes on."""
    try:
        yield
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)


def closed() -> BackendError:
    """Return the error of what is asked after ``close``."""
    return BackendError("the extractor is closed: make another one")
