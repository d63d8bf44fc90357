"""Until when a result is wanted, and results that one thread waits for and another one gives."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from ctxdeploy.core.errors import DeadlineError

Result = TypeVar("Result")


class Deadline:
    """Until when somebody waits for a result: for so many seconds from now on, or until ``give_up``. Any thread may use
    it.

    Work that nobody waits for any more is not begun; what has begun is ended, and its result dropped.

    Args:
        seconds: that the result is wanted for; as long as it takes if None.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds
        self._lock = threading.Lock()
        self._is_given_up = False
        self._waiting: set[threading.Event] = set()

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more."""
        return self._is_given_up or (self._end is not None and time.monotonic() >= self._end)

    @property
    def left(self) -> float | None:
        """Seconds until it is over, 0 at least; None if it has no end."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.0)

    def give_up(self) -> None:
        """Wait no longer: who waits is told at once."""
        with self._lock:
            self._is_given_up = True
            waiting = list(self._waiting)
        for woken in waiting:
            woken.set()

    def check(self) -> None:
        """Raise ``DeadlineError`` if it is over."""
        if self._is_given_up:
            raise DeadlineError("the result is not wanted any more")
        if self.is_over:
            raise DeadlineError(f"there is no result within {self._seconds:g} s: ask for less at once, or wait longer")

    @contextmanager
    def waking(self, woken: threading.Event) -> Iterator[None]:
        """Set an event when the deadline is given up while the block runs."""
        with self._lock:
            self._waiting.add(woken)
            if self._is_given_up:
                woken.set()
        try:
            yield
        finally:
            with self._lock:
                self._waiting.discard(woken)


class Promise(Generic[Result]):
    """A result that one thread waits for and another one gives, unless the deadline is over before.

    Args:
        deadline: of who waits.
    """

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._woken = threading.Event()
        self._given: list[Result] = []
        self._error: BaseException | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self._deadline.is_over

    @property
    def is_kept(self) -> bool:
        """Whether there is a result, or an error."""
        return bool(self._given) or self._error is not None

    def give(self, result: Result) -> None:
        """Give the result; the first one counts."""
        if not self.is_kept:
            self._given.append(result)
        self._woken.set()

    def fail(self, error: BaseException) -> None:
        """Let ``wait`` raise an error, unless there is a result."""
        if not self.is_kept:
            self._error = error
        self._woken.set()

    def wait(self) -> Result:
        """Return the result when it is there.

        Raises:
            DeadlineError: the deadline was over before.
            BaseException: what ``fail`` was given.
        """
        with self._deadline.waking(self._woken):
            while not self.is_kept:
                self._deadline.check()
                self._woken.wait(self._deadline.left)
        if not self._given and self._error is not None:
            raise self._error
        return self._given[0]
