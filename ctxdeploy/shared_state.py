"""What threads share of an archive: the state that they read while one moves on to a newer one, and the turn."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.archive import is_archive, open_state
from ctxdeploy.core.errors import ArchiveError, ConfigError

if TYPE_CHECKING:
    from ctxdeploy.index import QueriedIndex


class SharedState:
    """The newest state that this process has opened. A former one is closed when its last reader has left it.

    Nothing is opened before something is asked: a state that is held keeps its files from garbage collection.

    Args:
        path: the archive's folder.
        at: the state to stay at: a snapshot, or the number of a manifest; the newest if None.
        opening: opens a state; ``open_state`` if None.

    Attributes:
        at: as it was given.
    """

    def __init__(
        self,
        path: Path,
        at: str | int | None,
        opening: "Callable[[Path, str | int | None], QueriedIndex] | None" = None,
    ) -> None:
        self._path, self.at = path, at
        self._open = opening or open_state
        # The garbage collector may end a generator that reads this state in a thread that holds the lock.
        self._lock = threading.RLock()
        self._refreshing = threading.Lock()
        self._readers: dict[int, int] = {}
        self._opened: QueriedIndex | None = None
        self.is_closed = False

    @contextmanager
    def reading(self) -> "Iterator[QueriedIndex]":
        """Hold the state in force while the block runs: who refreshes or closes meanwhile leaves it open.

        Raises:
            ArchiveError: the archive is closed, does not exist yet, or is damaged.
        """
        with self._lock:
            self.check()
            if self._opened is None:
                if not is_archive(self._path):
                    raise ArchiveError(f"{self._path} has no photos yet: add some first")
                self._opened = self._open(self._path, self.at)
            index = self._opened
            self._readers[id(index)] = self._readers.get(id(index), 0) + 1
        try:
            yield index
        finally:
            with self._lock:
                self._readers[id(index)] -= 1
                is_left = not self._readers[id(index)]
                if is_left:
                    del self._readers[id(index)]
                is_former = index is not self._opened
            if is_left and is_former:
                index.close()

    def refresh(self, prepare: "Callable[[QueriedIndex], None]" = lambda index: None) -> bool:
        """Move on to the newest committed state; return whether there was a newer one than the one that is open.

        Nothing is done if it is closed, also by another thread. Readers come and go meanwhile; none of them waits.

        Args:
            prepare: called with the newer state before anybody reads it.

        Raises:
            ArchiveError: the newest state is damaged, or the archive is gone; the one that is open stays.
        """
        with self._refreshing:
            with self._lock:
                if self._opened is None or self.at is not None:
                    return False
                held = self._opened.manifest
            newest = self._open(self._path, None)
            try:
                is_new = newest.manifest != held and newest.is_ready()  # also another archive in its place
                if is_new:
                    prepare(newest)
            except BaseException:
                newest.close()
                raise
            with self._lock:
                if self.is_closed or not is_new:
                    former, is_read = newest, False
                else:
                    former, self._opened = self._opened, newest
                    is_read = id(former) in self._readers
            if not is_read:
                former.close()
            return former is not newest

    def close(self) -> None:
        """Close the state, when its last reader has left it. May be called twice."""
        with self._lock:
            self.is_closed = True
            former, self._opened = self._opened, None
            is_read = former is not None and id(former) in self._readers
        if former is not None and not is_read:
            former.close()

    def check(self) -> None:
        """Raise ``ArchiveError`` if it is closed."""
        if self.is_closed:
            raise ArchiveError(f"{self._path} is closed: open it again")


def opening_on(text: str) -> "Callable[[Path, str | int | None], QueriedIndex] | None":
    """Return what opens states that are searched on a GPU, for ``SharedState``; None for the CPU.

    Args:
        text: ``cpu``, ``cuda`` or ``cuda:N``; see ``SearchDevice``.
    """
    from ctxdeploy.index import SearchDevice

    device = SearchDevice(text)

    def open_there(path: Path, at: str | int | None) -> "QueriedIndex":
        index = open_state(path, at)
        try:
            device.take(index)
        except BaseException:
            index.close()
            raise
        return index

    return open_there if device.is_gpu else None


class WriterTurn:
    """Lets one thread at a time change an archive.

    Args:
        path: the archive's folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._thread: int | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have the turn while the block runs; errors as ``check_idle``."""
        self.check_idle()
        with self._lock:
            self._thread = threading.get_ident()
            try:
                yield
            finally:
                self._thread = None

    def check_idle(self) -> None:
        """Raise ``ConfigError`` if this thread has the turn: the photos that it adds would change the archive."""
        if self._thread == threading.get_ident():
            raise ConfigError(f"photos are being added to {self._path}: change or close it when that is done")
