"""Workers on a Ray cluster: lists of names go out, receipts come back; nothing else passes through Ray.

A list whose worker or machine is lost is given out again; one that takes far longer than the others, when none is left,
is given to another worker as well, and the first receipt counts.
"""

import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ctxdeploy.cluster.config import ClusterConfig
from ctxdeploy.cluster.worker import NameList, Reply, SegmentWorker, WorkerSpec
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable

EXTRA = "cluster"
# A list that lost so many workers, or met so many errors of storage, ends the run.
ATTEMPTS = 5
# Errors that may be gone the next time: a lock of a worker that is about to die, a disk that is full for a while.
_PASSING = ("ArchiveError", "StorageError")
_POLL_SECONDS = 1.0
_PAUSE_SECONDS = 2.0
# A list is repeated that takes so many times as long as half of the others, and at least so many seconds.
_SLOW, _SLOW_SECONDS = 3.0, 30.0


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
            total = self._ray.cluster_resources()
            self.close()
            raise ConfigError(
                f"the cluster has {total.get('CPU', 0):g} processors and {total.get('GPU', 0):g} GPUs, too few for one "
                f"worker of --worker-cpus {config.worker_cpus} and --worker-gpus {config.worker_gpus:g}"
            )
        self._idle: list[Any] = []
        self._running: dict[Any, _Running] = {}
        self._queue: deque[NameList] = deque()
        self._attempts: dict[int, int] = {}
        self._done: set[int] = set()
        self._seconds: list[float] = []
        self._method = "make"

    def run(self, lists: Sequence[NameList], *, method: str = "make") -> Iterator[Reply]:
        """Yield the reply for each list, as they come.

        Args:
            lists: of names.
            method: of ``SegmentWorker``, that does them.

        Raises:
            CtxdeployError: of a worker, that another attempt would meet as well.
            BackendError: a list lost its worker too often.
        """
        self._method = method
        self._queue.extend(lists)
        while len(self._done) < len(lists):
            self._give_out()
            ready, _ = self._ray.wait(list(self._running), timeout=_POLL_SECONDS) if self._running else ([], [])
            for task in ready:
                reply = self._taken(task)
                if reply is not None:
                    yield reply
            if not self._running and not ready:
                time.sleep(_PAUSE_SECONDS)  # all machines are gone; some may come

    def close(self) -> None:
        """End the workers and leave the cluster."""
        self._ray.shutdown()

    def _room(self) -> int:
        """Return how many workers the cluster as it is now has room for."""
        found = self._ray.cluster_resources()
        cpus = int(found.get("CPU", 0) // self._config.worker_cpus)
        gpus = self._config.worker_gpus
        return cpus if not gpus else min(cpus, int(found.get("GPU", 0) // gpus))

    def _give_out(self) -> None:
        wanted = min(self._room(), len(self._queue) + len(self._running))
        while len(self._idle) + len(self._running) < wanted:
            self._idle.append(self._class.remote(self._spec))
        while self._idle and self._queue:
            self._start(self._queue.popleft(), is_repeat=False)
        if self._idle and (slow := self._slow()) is not None:
            self._start(slow, is_repeat=True)

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

    def _taken(self, task: Any) -> Reply | None:
        """Return a new receipt; None for a list that goes out again, or was done by another worker."""
        running = self._running.pop(task)
        number = running.names.part.number
        try:
            reply: Reply = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            if isinstance(error, self._ray.exceptions.RayTaskError):
                raise  # a defect of ours, with its traceback
            self._again(running.names, f"a worker was lost ({type(error).__name__})")
            return None
        self._idle.append(running.worker)
        if number in self._done:
            return None
        if not reply.is_done:
            if reply.error not in _PASSING:
                raise reply.raised()
            self._again(running.names, reply.text, reply)
            return None
        self._done.add(number)
        self._seconds.append(time.monotonic() - running.since)
        return reply

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
        self._queue.append(names)
        if reply is not None:
            time.sleep(_PAUSE_SECONDS)


def _connect(ray: Any, address: str | None) -> None:
    """Join a cluster, or start one on this machine; what Ray would send to its maker stays here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _own_signals():
        try:
            if address == "local":
                ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
            else:
                ray.init(address=address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            line = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"--cluster {address}: there is no Ray cluster ({line}): start one with  ray start --head  on one "
                "machine and  ray start --address=…  on the others, or say  --cluster local"
            ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what this process does on SIGTERM: Ray would end it without a commit."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
