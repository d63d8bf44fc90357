"""Work handed to a thread of its own, so that extraction and writing do not wait for each other."""

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
# Seconds between two looks at whether the other side still lives: Python sees Ctrl-C only between its instructions.
_POLL = 0.1


class Handover(Generic[Item]):
    """Calls ``take`` for every item, in order, in another thread, which is at most ``most`` items behind.

    On leaving the block without an exception all items are taken; with one, those that were put are taken as well, so
    that nothing that was extracted is lost. What ``take`` raises is raised by the next ``put`` or by leaving; the items
    behind it are dropped. A second Ctrl-C drops what waits too; the thread has always ended when the block is left.

    Args:
        take: what to do with an item.
        most: items that wait at most.
    """

    def __init__(self, take: Callable[[Item], None], most: int) -> None:
        self._take = take
        self._items: queue.Queue[Item | None] = queue.Queue(most)
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
        """Hand an item over; waits while ``most`` wait already.

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
