"""Workers on a Ray cluster: lists of names go out, receipts come back; nothing else passes through Ray.

A list whose worker or machine is lost is given out again; one that takes far longer than the others, when none is left,
is given to another worker as well, and the first receipt counts.
"""

import os
import signal
import socket
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ctxdeploy
from ctxdeploy.cluster.config import ClusterConfig
from ctxdeploy.cluster.lists import NameList
from ctxdeploy.cluster.worker import Reply, SegmentWorker, WorkerSpec
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable

EXTRA = "cluster"
# A list that lost so many workers, or met so many errors of storage, ends the run.
ATTEMPTS = 5
# Errors that may be gone the next time: a disk that is full for a while, a worker that was asleep.
_PASSING = ("ArchiveError", "StorageError", "LeaseLostError")
# A list that a lost machine's worker still holds is waited for so often; then it is begun in another folder.
_LOCKED = 2
# So many workers that end before they began, without one that began between them, end the run.
UNSTARTED = 10
_POLL_SECONDS = 1.0
_PAUSE_SECONDS = 2.0
# A list is repeated that takes so many times as long as half of the others, and at least so many seconds.
_SLOW, _SLOW_SECONDS = 3.0, 30.0
# Without a worker for so long a user wants to know why.
_BUSY_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
# Of shares of a GPU: ten workers of 0.1 have room on one.
_ROUNDING = 1e-6


@dataclass(kw_only=True, eq=False)
class _Running:
    worker: Any
    names: NameList
    since: float


class RayPool:
    """The workers of a cluster; as many as there is room for, also when machines come and go.

    Args:
        config: address, and what a worker takes.
        spec: what workers need to know.
        display: where remarks go.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: there is no such cluster, or it has no room for one worker.
    """

    def __init__(self, config: ClusterConfig, spec: WorkerSpec, display: Display) -> None:
        self._ray = require("ray", EXTRA)
        self._config, self._display = config, display
        _connect(self._ray, config.address)
        self._class = self._ray.remote(num_cpus=config.worker_cpus, num_gpus=config.worker_gpus)(SegmentWorker)
        self._spec = self._ray.put(spec)
        if not self._room():
            largest = self._largest()
            self.close()
            raise ConfigError(
                f"no machine of the cluster has room for a worker of --worker-cpus {config.worker_cpus} and "
                f"--worker-gpus {config.worker_gpus:g}; the largest has {largest}: too few for one worker"
            )
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._running: dict[Any, _Running] = {}
        self._source: Iterator[NameList] = iter(())
        self._queue: deque[NameList] = deque()
        self._not_before: dict[int, float] = {}
        self._attempts: dict[int, int] = {}
        self._locked: dict[int, int] = {}
        self._done: set[int] = set()
        self._seconds: deque[float] = deque(maxlen=1000)
        self._unstarted = 0
        self._capacity, self._looked = 0, float("-inf")
        self._is_waiting, self._begin = True, time.monotonic()
        self._method = "make"

    @property
    def running(self) -> list[NameList]:
        """The lists that workers are at."""
        return [one.names for one in self._running.values()]

    def run(
        self, lists: Iterable[NameList], *, method: str = "make", look: Callable[[], None] = lambda: None
    ) -> Iterator[Reply]:
        """Yield the reply for each list, as they come.

        Args:
            lists: of names, taken as there are workers for them.
            method: of ``SegmentWorker``, that does them.
            look: called about once a second.

        Raises:
            CtxdeployError: of a worker, that another attempt would meet as well.
            BackendError: a list lost its worker too often.
            ConfigError: a machine has another version.
        """
        self._method, self._source = method, iter(lists)
        while True:
            self._give_out()
            self._fill(1)
            if not self._queue and all(one.names.part.number in self._done for one in self._running.values()):
                return
            waited = [*self._running, *self._starting]
            ready, _ = self._ray.wait(waited, timeout=_POLL_SECONDS) if waited else ([], [])
            for task in ready:
                if task in self._starting:
                    self._started(task)
                elif (reply := self._taken(task)) is not None:
                    yield reply
            look()
            self._remark()
            if not ready and not waited:
                time.sleep(_PAUSE_SECONDS)  # all machines are gone; some may come

    def _remark(self) -> None:
        """Say once why nothing happens."""
        if self._is_waiting and self._running:
            self._is_waiting = False
        elif self._is_waiting and time.monotonic() - self._begin > _BUSY_SECONDS:
            self._is_waiting = False
            self._display.say("no worker has begun yet: other jobs may hold the processors or GPUs of the cluster")

    def close(self) -> None:
        """End the workers and leave the cluster."""
        with suppress(Exception):  # Ray says of a lost cluster whatever comes to its mind
            for worker in (*self._idle, *self._starting.values(), *(one.worker for one in self._running.values())):
                self._ray.kill(worker)
        self._ray.shutdown()

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """Return how many workers the machines as they are now have room for; none works on two of them."""
        cpus, gpus = self._config.worker_cpus, self._config.worker_gpus
        room = 0
        for found in self._machines():
            fitting = int(found.get("CPU", 0) // cpus)
            room += min(fitting, int(found.get("GPU", 0) / gpus + _ROUNDING)) if gpus else fitting
        return room

    def _largest(self) -> str:
        found = max(self._machines(), key=lambda one: (one.get("GPU", 0), one.get("CPU", 0)), default={})
        return f"{found.get('CPU', 0):g} processors and {found.get('GPU', 0):g} GPUs"

    def _give_out(self) -> None:
        if time.monotonic() - self._looked >= _POLL_SECONDS:
            self._capacity, self._looked = self._room(), time.monotonic()
        while len(self._idle) + len(self._starting) + len(self._running) < self._capacity and self._wants_more():
            worker = self._class.remote(self._spec)
            self._starting[worker.version.remote()] = worker
        while self._idle and (names := self._next()) is not None:
            self._start(names, is_repeat=self._locked.get(names.part.number, 0) > _LOCKED)
        if self._idle and (slow := self._slow()) is not None:
            self._start(slow, is_repeat=True)

    def _wants_more(self) -> bool:
        """Return whether another worker would have something to do."""
        spare = len(self._idle) + len(self._starting)
        self._fill(spare + 1)
        return len(self._queue) > spare or (not spare and self._slow() is not None)

    def _fill(self, count: int) -> None:
        """Have so many lists wait, as long as there are any."""
        while len(self._queue) < count and (names := next(self._source, None)) is not None:
            self._queue.append(names)

    def _next(self) -> NameList | None:
        """Return the list that goes out next; None if there is none, or none yet."""
        now = time.monotonic()
        for place, names in enumerate(self._queue):
            if self._not_before.get(names.part.number, 0.0) <= now:
                del self._queue[place]
                return names
        return next(self._source, None)

    def _start(self, names: NameList, *, is_repeat: bool) -> None:
        worker = self._idle.pop()
        task = getattr(worker, self._method).remote(names, is_repeat=is_repeat)
        self._running[task] = _Running(worker=worker, names=names, since=time.monotonic())

    def _slow(self) -> NameList | None:
        """Return a list that takes far longer than others and is with one worker alone."""
        if not self._seconds or self._queue:
            return None
        limit = max(_SLOW * statistics.median(self._seconds), _SLOW_SECONDS)
        held = [one.names.part.number for one in self._running.values()]
        late = [
            one
            for one in self._running.values()
            if time.monotonic() - one.since > limit
            and held.count(one.names.part.number) == 1
            and one.names.part.number not in self._done
        ]
        return min(late, key=lambda one: one.since).names if late else None

    def _started(self, task: Any) -> None:
        """Take a worker that is there; one that is lost before is replaced."""
        worker = self._starting.pop(task)
        try:
            machine, version = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            if isinstance(error, self._ray.exceptions.RayTaskError):
                raise
            self._unstarted += 1
            if self._unstarted >= UNSTARTED:
                raise BackendError(
                    f"{UNSTARTED} workers in turn were lost before they began, the last one so: {_line(error)}: is "
                    "ctxdeploy installed on all machines, and is there memory?"
                ) from error
            return
        self._unstarted = 0
        if version != ctxdeploy.__version__:
            raise ConfigError(
                f"{machine} has ctxdeploy {version}, and this machine {ctxdeploy.__version__}: install the same "
                "version on all"
            )
        self._idle.append(worker)

    def _taken(self, task: Any) -> Reply | None:
        """Return a new receipt; None for a list that goes out again, or was done by another worker."""
        running = self._running.pop(task)
        number = running.names.part.number
        try:
            reply: Reply = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            if isinstance(error, self._ray.exceptions.RayTaskError):
                raise  # a defect of ours, with its traceback
            with suppress(Exception):  # one that was only cut off must not go on
                self._ray.kill(running.worker)
            self._again(running.names, f"a worker was lost ({type(error).__name__})")
            return None
        self._idle.append(running.worker)
        if number in self._done:
            return None
        if not reply.is_done:
            self._failed(running.names, reply)
            return None
        self._done.add(number)
        self._seconds.append(time.monotonic() - running.since)
        return reply

    def _failed(self, names: NameList, reply: Reply) -> None:
        number = names.part.number
        if reply.is_locked:
            # The worker of a lost machine, or of a driver that was killed, may live for a while.
            self._locked[number] = self._locked.get(number, 0) + 1
            self._not_before[number] = time.monotonic() + _PAUSE_SECONDS
            self._queue.append(names)
            return
        if reply.error not in _PASSING:
            raise reply.raised()
        self._again(names, reply.text, reply)

    def _again(self, names: NameList, why: str, reply: Reply | None = None) -> None:
        number = names.part.number
        if number in self._done or any(one.names.part.number == number for one in self._running.values()):
            return
        self._attempts[number] = self._attempts.get(number, 0) + 1
        if self._attempts[number] >= ATTEMPTS:
            if reply is not None:
                raise reply.raised()
            raise BackendError(
                f"list {number} of {names.part.count} lost its worker {ATTEMPTS} times, the last time: {why}; its "
                f"first photo is {printable(next(iter(names.names), ''))!r}: give workers more room (--worker-cpus), "
                "or extract that list alone to see why"
            )
        self._display.say(f"list {number} of {names.part.count} is given out again: {why}")
        self._not_before[number] = time.monotonic() + (_PAUSE_SECONDS if reply is not None else 0.0)
        self._queue.append(names)


def _connect(ray: Any, address: str | None) -> None:
    """Join a cluster, or start one on this machine; what Ray would send to its maker stays here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _own_signals():
        try:
            _check_reachable(_found(ray) if address == "auto" else address or "")
            if address == "local":
                ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
            else:
                ray.init(address=address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise ConfigError(
                f"--cluster {address}: there is no Ray cluster ({_line(error)}): start one with  ray start --head  on "
                "one machine and  ray start --address=…  on the others, or say  --cluster local"
            ) from error


def _found(ray: Any) -> str:
    """Return the address that Ray takes for ``auto``: that of ``RAY_ADDRESS``, of processes of this machine, or of the
    cluster that was started here last, which may have ended without a word. Empty if that cannot be told."""
    services = getattr(getattr(ray, "_private", None), "services", None)
    find = getattr(services, "get_ray_address_from_environment", None)
    found = os.environ.get("RAY_ADDRESS") if find is None else find("auto", None)
    return found or ""


def _check_reachable(address: str) -> None:
    """Raise ``OSError`` where nothing listens: Ray would try for minutes, whatever it is told meanwhile."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except OSError as error:
            raise ConnectionError(f"nothing answers at {address}: {error.strerror or error}") from error


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what this process does on SIGTERM: Ray would end it without a commit."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
