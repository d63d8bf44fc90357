"""What answers requests: the archives, and the threads that compute."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.query import QueryConfig
from ctxdeploy.service.archives import Archives
from ctxdeploy.service.config import ServiceConfig
from ctxdeploy.service.problems import ProblemError
from ctxdeploy.service.readiness import Readiness

_Result = TypeVar("_Result")


def sample() -> NDArray[np.uint8]:
    """Return a small photo, of noise, 96×128×3 uint8: what is done with it for the first time is not done again."""
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


class Service:
    """Archives, and threads that compute for requests. Requests wait in a queue of bounded length.

    Args:
        archives: that are answered from; closed with the service.
        config: of the service.
    """

    def __init__(self, archives: Archives, config: ServiceConfig) -> None:
        self.archives, self.config = archives, config
        self._threads = ThreadPoolExecutor(config.max_running, thread_name_prefix="ctxdeploy-answer")
        self._taken = 0
        self.readiness = Readiness()

    async def compute(self, work: Callable[[], _Result]) -> _Result:
        """Return what a function returns that runs in one of the threads.

        Raises:
            ProblemError: too many requests wait (429), or it took too long (504).
        """
        if self._taken >= self.config.max_running + self.config.max_queue:
            raise ProblemError(429, f"{self._taken} requests wait: ask again later", code="QueueFull", retry_after=1)
        self._taken += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        running.add_done_callback(lambda _: self._leave())
        try:
            return await asyncio.wait_for(asyncio.shield(running), self.config.timeout)
        except TimeoutError as error:
            raise ProblemError(504, f"no answer within {self.config.timeout:g} s", code="Timeout") from error

    def prepare(self) -> None:
        """Load and compile whatever the first request would wait for; ``readiness`` says how far it is."""
        try:
            for served in self.archives:
                self.readiness.step(f"loading the model of {served.name}")
                for _ in served.photos.search_many([sample()], QueryConfig(turn="none")):
                    pass
        except BaseException as error:
            self.readiness.fail(error)
        else:
            self.readiness.done()

    def _leave(self) -> None:
        self._taken -= 1

    def close(self) -> None:
        """End threads and archives."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self.archives.close()
