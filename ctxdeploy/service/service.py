"""What answers requests: the archives, and the threads that compute."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from ctxdeploy.core.cpu import available_processors
from ctxdeploy.runtime.decode import DecodeLimits
from ctxdeploy.service.archives import Archives
from ctxdeploy.service.config import ServiceConfig
from ctxdeploy.service.keys import Keys
from ctxdeploy.service.leftovers import Leftovers
from ctxdeploy.service.limits import Bodies, Places
from ctxdeploy.service.logs import log
from ctxdeploy.service.metrics import Metrics
from ctxdeploy.service.pictures import Pictures
from ctxdeploy.service.problems import ProblemError, problem_of
from ctxdeploy.service.readiness import Readiness
from ctxdeploy.service.record import RequestRecord, record_of
from ctxdeploy.service.rehearsing import rehearse
from ctxdeploy.service.threads import BoundedThreads, has_ended
from ctxdeploy.service.writing import Writers

_Result = TypeVar("_Result")
# Threads that look things up, and requests that may wait for them, or for thumbnails.
_LOOKUPS, _WAITING = 4, 256


class Service:
    """Archives, and threads that compute for requests. Requests wait in a queue of bounded length.

    Args:
        archives: that are answered from; closed with the service.
        config: of the service.
        keys: of those who may ask; everybody if there are none.

    Attributes:
        readiness: what the first request would wait for.
        places, bodies: what there is for requests.
        metrics: what is counted.
        lookups: threads for what takes milliseconds, which does not wait for what takes long.
        decoding: threads that make thumbnails.
        pictures: of the photos.
        writers: of the archives, and their jobs.
    """

    def __init__(self, archives: Archives, config: ServiceConfig, keys: Keys | None = None) -> None:
        self.archives, self.config, self.keys = archives, config, keys or Keys()
        self.readiness = Readiness()
        self.places = Places(config.max_running, config.max_queue)
        self.bodies = Bodies(config.max_body_memory)
        self.writers = Writers(config.max_jobs, config.max_job_bytes, store_photos=config.store_photos)
        self.metrics = Metrics(archives, self.readiness, self.places, self.bodies, self.writers.jobs)
        self._threads = ThreadPoolExecutor(config.max_running, thread_name_prefix="ctxdeploy-answer")
        self.lookups = BoundedThreads(_LOOKUPS, _WAITING, "lookups")
        decoders = min(max(available_processors() // 2, 1), 4)
        self.decoding = BoundedThreads(2 * decoders, _WAITING, "thumbnails")
        self.pictures = Pictures(DecodeLimits(max_pixels=config.max_pixels), decoders)
        self._leftovers = Leftovers(archives)
        self._has_ended: bool | None = None

    def prepare(self) -> None:
        """Load and compile whatever the first request would wait for; ``readiness`` says how far it is."""
        try:
            rehearse(self.archives, self.readiness, self.metrics)
        except BaseException as error:  # of a thread that nobody joins
            self.readiness.fail(error)
        else:
            for served in self.archives:
                served.photos.gather(self.config.gather)
            self.readiness.done()
            if self.config.writable and self.config.store_photos:
                for served in self.archives:
                    log.info("%s: the files of new photos go to %s", served.name, served.folder() or "nowhere")
                self._leftovers.start()

    def check_room(self) -> None:
        """Raise ``ProblemError`` (429) if a request would be refused after its body has come."""
        self.places.check()

    def timer(self, record: RequestRecord) -> asyncio.Timeout:
        """Return a context that raises ``TimeoutError`` when the time of a request is over."""
        return asyncio.timeout(record.deadline.left)

    def problem(self, error: BaseException) -> ProblemError:
        """Return what an error is for the one who asked. Folders of the server are not told."""
        return problem_of(error, self.archives.secrets)

    async def compute(self, request: Request, work: Callable[[], _Result]) -> _Result:
        """Return what a function returns that runs in one of the threads, after those that came before it.

        The function is not begun when the time of the request is over, or when nobody waits for its answer any more;
        what runs then should look at the request's deadline before each step, since it is given up.

        Raises:
            ProblemError: too many requests wait (429), or it took too long (504).
            ClientDisconnect: nobody waits for it any more.
            Exception: of the function.
        """
        record = record_of(request)
        self.places.take()
        try:
            future = self._threads.submit(self._timed, work, record, time.perf_counter())
        except BaseException:
            self.places.give()
            raise
        # The place is given back when the thread has ended, not when nobody waits any more: ``running`` is never
        # cancelled by itself, so that its end is that of the thread, in one hop to the loop.
        running = asyncio.wrap_future(future)
        running.add_done_callback(self._leave)
        return await self._awaited(request, future, running, record)

    def _leave(self, running: "asyncio.Future[Any]") -> None:
        self.places.give()
        if not running.cancelled():
            running.exception()  # of a request that nobody waits for any more; else it was raised

    async def _awaited(
        self, request: Request, future: "Future[_Result]", running: "asyncio.Future[_Result]", record: RequestRecord
    ) -> _Result:
        leaving = asyncio.create_task(_gone(request))
        try:
            both: set[asyncio.Future[Any]] = {running, leaving}
            await asyncio.wait(both, timeout=record.deadline.left, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            if leaving.done():
                raise ClientDisconnect
            raise ProblemError(504, f"no answer within {self.config.timeout:g} s", code="Timeout")
        finally:
            leaving.cancel()
            if not running.done():
                record.deadline.give_up()
                future.cancel()

    def _timed(self, work: Callable[[], _Result], record: RequestRecord, since: float) -> _Result:
        record.seconds["queue"] = time.perf_counter() - since
        record.deadline.check()
        return work()

    def close(self, seconds: float = 5.0) -> bool:
        """End threads and archives; return whether what ran has ended within so many seconds. May be called twice.

        The jobs that were accepted are done first, as long as there is time since the service was told to end.
        """
        if self._has_ended is not None:
            return self._has_ended
        self.readiness.end()
        self._leftovers.close()
        left = self.writers.close(max(self.config.grace_seconds - self.readiness.seconds_of_ending, 1.0))
        self._threads.shutdown(wait=False, cancel_futures=True)
        for threads in (self.lookups, self.decoding):
            threads.drop()
        self.pictures.close()
        until = time.monotonic() + seconds
        joined = [has_ended(self._threads, until), self.lookups.has_ended(until), self.decoding.has_ended(until)]
        if all(joined):
            self.archives.close()
        else:
            log.warning("work that nobody waits for still runs: it is dropped")
        self._has_ended = all(joined) and not left
        return self._has_ended


async def _gone(request: Request) -> None:
    """Return when the one who asked has closed the connection. The body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
