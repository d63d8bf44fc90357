"""Photos into an index as they are extracted: a thread that writes and commits now and then."""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from ctxdeploy.core.device import Device
from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.indexing.config import FailureLimit
from ctxdeploy.indexing.descriptor_cache import DescriptorCache
from ctxdeploy.indexing.report import IndexingReport
from ctxdeploy.judgement import judgement_of

if TYPE_CHECKING:
    from ctxdeploy.index import Index
    from ctxdeploy.runtime import PhotoFailure, PhotoSource

Item = TypeVar("Item")
# Seconds between two looks at whether the other side still lives: Python sees Ctrl-C only between its instructions.
_POLL = 0.1


class BackgroundWriter(Generic[Item]):
    """Calls ``take`` for every item, in order, in another thread, which is at most ``max_waiting`` items behind.

    On leaving the block without an exception all items are taken; with one, those that were put are taken as well, so
    that nothing that was extracted is lost. What ``take`` raises is raised by the next ``put`` or by leaving; the items
    behind it are dropped. A second Ctrl-C drops what waits too; the thread has always ended when the block is left.

    Args:
        take: what to do with an item.
        max_waiting: items that may wait.
    """

    def __init__(self, take: Callable[[Item], None], max_waiting: int) -> None:
        self._take = take
        self._items: queue.Queue[Item | None] = queue.Queue(max_waiting)
        self._error: BaseException | None = None
        self._dropping = False
        # Not is_alive(): until Python 3.13 an interrupt in join() makes it False though the thread runs.
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ctxdeploy-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupt: KeyboardInterrupt | None = None
        is_told = False
        while not self._ended.is_set():
            try:
                if not is_told:
                    self._put(None)
                    is_told = True
                self._ended.wait(_POLL)
            except KeyboardInterrupt as another:  # who caught it would write while the thread still does
                self._dropping = error is not None or interrupt is not None
                interrupt = another
        self._thread.join()
        if interrupt is not None:
            raise interrupt
        if self._error is not None and error is None:
            raise self._error

    def put(self, item: Item) -> None:
        """Hand an item over; waits while ``max_waiting`` wait already.

        Raises:
            Exception: what ``take`` raised for an earlier item.
        """
        self._put(item)
        if self._error is not None:
            raise self._error

    def _put(self, item: Item | None) -> None:
        while not self._ended.is_set():
            try:
                self._items.put(item, timeout=_POLL)
                return
            except queue.Full:
                continue

    def _work(self) -> None:
        try:
            while (item := self._items.get()) is not None and not self._dropping:
                self._take(item)
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()


# Photos whose descriptors are assigned to words in one call, which is faster than one by one.
_TOGETHER = 32
# Between two commits a tenth of the run's time may pass, so that a long run does not leave thousands of small shards,
# but no more than this is lost when a machine fails.
_MAX_COMMIT_SECONDS = 300.0
# A descriptor is a posting at most: code, number of the photo, position and scale. Sorting takes three times that.
_POSTING_BYTES, _SORTING = 26, 3
# After so many commits small shards are merged, while the run goes on: a query reads every shard.
_COMMITS_TO_COMPACT = 32


class IndexCommitter:
    """Adds photos to an index, or replaces those of their names. Use it from one thread at a time.

    Args:
        index: open for writing.
        report: counts what is added, replaced and failed.
        commit_seconds: least time between two commits; it grows to a tenth of the time since the start, and to five
            minutes at most.
        failure_limit: how many photos may fail.
        display: where remarks go.
        memory_limit: bytes of the whole command; a quarter of it may be postings that wait for their shard.
        device: that finds the words of descriptors; None for the CPU. They are the same on any.
    """

    def __init__(
        self,
        index: "Index",
        report: IndexingReport,
        commit_seconds: float,
        failure_limit: FailureLimit,
        display: Display,
        memory_limit: int | None = None,
        device: Device | None = None,
    ) -> None:
        self._index, self._report, self._display = index, report, display
        if device is not None and index.keeps_local:
            index.codebook.use(device)
        self._commit_seconds, self._failure_limit = commit_seconds, failure_limit
        self._start = self._committed = time.monotonic()
        self._commits = self._postings = 0
        posting = _POSTING_BYTES * _SORTING
        self._max_postings = float("inf") if memory_limit is None else memory_limit / 4 / posting
        self._failures: list[dict[str, Any]] = []
        self._reasons: Counter[str] = Counter()
        self._waiting: list[PhotoDescriptors] = []

    def add_cached(self, pending: dict[str, "PhotoSource"], cache: DescriptorCache) -> None:
        """Add the photos that the cache has, and take them from ``pending``."""
        for name, photo in list(pending.items()):
            kept = cache.get(name, photo.state())
            if kept is not None:
                self.add(kept)
                del pending[name]

    def add(self, photo: PhotoDescriptors) -> None:
        """Add a photo; commit what waits if it is time.

        Raises:
            TooManyFailuresError: it is one too many that the archive cannot hold.
        """
        keeps_global = self._index.config.keeps_global
        self._waiting.append(photo.with_global() if keeps_global else replace(photo, global_descriptor=None))
        if photo.remark:
            self._report.remarks.append({"name": photo.name, "remark": photo.remark})
        if len(self._waiting) >= _TOGETHER:
            self._add_waiting()
            self._check_failures()
        self._commit_if_due()

    def fail(self, failure: "PhotoFailure") -> None:
        """List a photo that could not be read.

        Raises:
            TooManyFailuresError: that was one too many.
        """
        self._list(failure)
        self._commit_if_due()
        self._check_failures()

    def _list(self, failure: "PhotoFailure") -> None:
        state = {} if failure.file is None else {"size": failure.file.size, "mtime_ns": failure.file.mtime_ns}
        record = {"name": failure.name, "reason": failure.reason, "stage": failure.stage}
        self._failures.append({**record, "seconds": round(failure.seconds, 3), **state})
        self._report.failures.append({**record, "seconds": round(failure.seconds, 3)})
        self._report.failed += 1
        self._reasons[failure.reason] += 1

    def _check_failures(self) -> None:
        report = self._report
        tried = report.indexed + report.replaced + len(self._waiting) + report.failed
        self._failure_limit.check(self._reasons, tried)

    def finish(self) -> None:
        """Make all durable.

        Raises:
            TooManyFailuresError: among the last photos are too many that the archive cannot hold; it is durable.
        """
        before = self._report.failed
        self.commit()
        if self._report.failed > before:
            self._check_failures()

    def commit(self) -> None:
        """Make what was added durable."""
        self._add_waiting()
        start = time.perf_counter()
        if self._failures:
            self._index.record_failures(self._failures)
            self._failures = []
        self._index.commit()
        self._committed = time.monotonic()
        self._commits += 1
        self._postings = 0
        if self._commits % _COMMITS_TO_COMPACT == 0:
            self._compact()
        self._report.stages.write += time.perf_counter() - start

    def _commit_if_due(self) -> None:
        now = time.monotonic()
        if self._postings > self._max_postings:
            self.commit()
            return
        growing = min(0.1 * (now - self._start), _MAX_COMMIT_SECONDS)
        if now - self._committed >= max(self._commit_seconds, growing):
            self.commit()

    def _compact(self) -> None:
        try:
            self._report.compacted += self._index.compact_if_worth_it()
        except StorageError as error:  # the photos are committed; room for a second copy may come
            self._display.say(f"not compacted: {error}")

    def _add_waiting(self) -> None:
        if not self._waiting:
            return
        start = time.perf_counter()
        refused: dict[int, str] = {}
        new = {photo.name for photo in self._waiting if photo.name not in self._index}
        self._index.add_many(
            self._waiting,
            # An interrupt may have come between adding and forgetting: then they are added once more.
            replace=True,
            refused=lambda photo, error: refused.update({id(photo): str(error)}),
        )
        taken = [photo for photo in self._waiting if id(photo) not in refused]
        indexed = len(new.intersection(photo.name for photo in taken))
        self._report.indexed += indexed
        self._report.replaced += len(taken) - indexed
        descriptors = sum(len(photo.descriptors) for photo in taken)
        self._report.descriptors += descriptors
        self._postings += descriptors
        waiting, self._waiting = self._waiting, []
        for photo in waiting:
            if id(photo) in refused:
                self._list(_failure(photo, refused[id(photo)]))
        self._report.stages.assign += time.perf_counter() - start


@contextmanager
def committing(committer: IndexCommitter) -> Iterator[None]:
    """Commit what was done when the block is left, whatever ends it: Ctrl-C, too many failures, the photos' own errors,
    or that what reads the progress is gone."""
    try:
        yield
    except StorageError:  # another commit would meet the same full disk
        raise
    except BaseException:
        committer.commit()
        raise
    committer.finish()


def finish(index: "Index", report: IndexingReport, display: Display, *, collect: bool) -> None:
    """Compact if it is worth it, remove what is no longer needed, and judge the archive if its photos changed."""
    merged = 0
    try:
        with display.steps("compacting") as step:
            merged = index.compact_if_worth_it(step)
    except StorageError as error:  # the photos are committed; room for a second copy may come
        display.say(f"not compacted: {error}")
    if merged:
        display.say(f"merged {merged} shards into larger ones")
    if merged or collect:
        index.collect_garbage()
    report.compacted += merged
    if index.keeps_local:
        judgement_of(index)


def _failure(photo: PhotoDescriptors, reason: str) -> "PhotoFailure":
    from ctxdeploy.runtime import PhotoFailure

    short = reason.removeprefix(f"{photo.name!r}: ").removeprefix(f"{photo.name}: ")
    return PhotoFailure(name=photo.name, reason=short, stage="index", file=photo.file, seconds=photo.seconds.total)
