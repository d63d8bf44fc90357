"""Few open files for reading from many."""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class _Opened:
    descriptor: int
    users: int = 0


class OpenFiles:
    """Descriptors of files, shared by threads; they have no position: read with ``os.pread``.

    Args:
        limit: files that stay open while nobody reads; with n threads at most ``limit + n`` are open.
    """

    def __init__(self, limit: int = 16) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        weakref.finalize(self, _close, self._opened)

    @contextmanager
    def open(self, path: str, check: Callable[[int], None]) -> Iterator[int]:
        """Give a descriptor of a file, whose ``check`` is made when it is opened; ``OSError`` and what it raises."""
        with self._lock:
            opened = self._opened.get(path)
            if opened is None:
                opened = self._opened[path] = _Opened(descriptor=_open(path, check))
            self._opened.move_to_end(path)
            opened.users += 1
        try:
            yield opened.descriptor
        finally:
            with self._lock:
                opened.users -= 1
                self._evict()

    def _evict(self) -> None:
        idle = [path for path, opened in self._opened.items() if not opened.users]
        for path in idle[: max(len(self._opened) - self._limit, 0)]:
            os.close(self._opened.pop(path).descriptor)


def _open(path: str, check: Callable[[int], None]) -> int:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        check(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _close(opened: "OrderedDict[str, _Opened]") -> None:
    while opened:
        os.close(opened.popitem()[1].descriptor)
