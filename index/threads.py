"""The threads that scan shards."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from ctxdeploy.errors import ConfigError


def checked_threads(threads: int | None) -> int:
    """Return a number of threads; None stands for the processors this process may use.

    Raises:
        ConfigError: fewer than one.
    """
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"{threads!r} threads: give a whole number of at least 1")
    return threads


class SearchThreads:
    """An executor, made when there is work for it, and made anew in a forked child, which has none of its threads.

    Args:
        count: threads.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._executor: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._mutex = threading.Lock()

    @property
    def count(self) -> int:
        """Threads that a search may use."""
        return self._count

    def executor_for(self, tasks: int) -> ThreadPoolExecutor | None:
        """Return the executor, or None where one thread does the tasks as well."""
        if self._count == 1 or tasks < 2:
            return None
        with self._mutex:
            if self._executor is None or self._process != os.getpid():
                self._executor, self._process = ThreadPoolExecutor(self._count, "ctxdeploy-search"), os.getpid()
            return self._executor

    def close(self) -> None:
        """End the threads."""
        if self._executor is not None and self._process == os.getpid():
            self._executor.shutdown()
        self._executor = None
