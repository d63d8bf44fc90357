"""Threads for one kind of work, with a bound on what waits for them."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ctxdeploy.service.problems import ProblemError

_Result = TypeVar("_Result")


class BoundedThreads:
    """Threads that work for requests, so that the event loop never waits. Use it from the event loop's thread.

    Args:
        count: of the threads.
        waiting: pieces of work that may wait for one of them; more are refused.
        what: is done, for their names and the refusal.
    """

    def __init__(self, count: int, waiting: int, what: str) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=f"ctxdeploy-{what}")
        self._most, self._what = count + waiting, what
        self._taken = 0

    async def run(self, work: Callable[[], _Result], *, goes_on: bool = False) -> _Result:
        """Return what a function returns that runs in one of the threads.

        Args:
            work: the function.
            goes_on: it is a further piece of what has begun, and is not refused.

        Raises:
            ProblemError: too much waits (429).
            Exception: of the function.
        """
        if self._taken >= self._most and not goes_on:
            raise ProblemError(
                429, f"{self._taken} requests for {self._what} wait: ask again later", code="QueueFull", retry_after=1
            )
        self._taken += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        running.add_done_callback(self._leave)
        return await asyncio.shield(running)

    def _leave(self, done: "asyncio.Future[_Result]") -> None:
        self._taken -= 1
        if not done.cancelled():
            done.exception()  # of a request that nobody waits for any more; else it was raised

    def drop(self) -> None:
        """Begin nothing any more; what waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def has_ended(self, until: float) -> bool:
        """Return, at a time of ``time.monotonic`` at last, whether what ran has ended; ``drop`` comes before."""
        return has_ended(self._threads, until)


def has_ended(threads: ThreadPoolExecutor, until: float) -> bool:
    """Return, at a time of ``time.monotonic`` at last, whether the threads of a pool that is shut down have ended."""
    for thread in list(threads._threads):
        thread.join(max(until - time.monotonic(), 0))
    return not any(thread.is_alive() for thread in threads._threads)
