"""Jobs: photos that are to be added or removed, from the request that was accepted to the commit that shows them."""

import threading
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ctxdeploy.core.text import counted
from ctxdeploy.service.problems import ProblemError

ADD, REMOVE = "add", "remove"
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
# Jobs that have ended and can still be asked for.
HISTORY = 1000


@dataclass(frozen=True, kw_only=True)
class NewPhoto:
    """A photo to be added.

    Attributes:
        name: under which; one of the archive of this name is replaced.
        data: the bytes of its file.
    """

    name: str
    data: bytes


@dataclass(kw_only=True, eq=False)
class Job:
    """Photos of one request.

    Attributes:
        kind: ``add`` or ``remove``.
        archive: name of it.
        names: of the photos.
        photos: to be added; empty when the job has ended.
        with_files: remove the photos' files as well.
        seconds: within which it is to begin.
        id: of it.
        state: ``waiting``, ``running``, ``done``, or ``failed``: then none of its photos has come or gone.
        failures: names and reasons of the photos that could not be taken in.
        remarks: what else happened, a line each.
        reason: why it failed.
        code: of that, the library's class of errors.
        archive_state: the commit from which on searches know of it.
    """

    kind: str
    archive: str
    names: tuple[str, ...]
    photos: tuple[NewPhoto, ...] = ()
    with_files: bool = False
    seconds: float = 300.0
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = WAITING
    failures: list[dict[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    reason: str | None = None
    code: str | None = None
    archive_state: int | None = None
    created: float = field(default_factory=time.time)
    ended: float | None = None
    begun: float = field(default_factory=time.monotonic)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in (DONE, FAILED)

    @property
    def left(self) -> float:
        """Seconds that it may still wait, 0 or less if its time is over."""
        return self.begun + self.seconds - time.monotonic()

    @property
    def bytes(self) -> int:
        """Bytes that it holds."""
        return sum(len(photo.data) for photo in self.photos)

    def facts(self) -> dict[str, Any]:
        """Return what is told of it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "archive": self.archive,
            "state": self.state,
            "photos": len(self.names),
            "names": list(self.names),
            "failures": [dict(failure) for failure in self.failures],
            "remarks": list(self.remarks),
            "reason": self.reason,
            "code": self.code,
            "archive_state": self.archive_state,
            "created": _time(self.created),
            "ended": None if self.ended is None else _time(self.ended),
        }


class Jobs:
    """All jobs of a service: those that wait, within bounds, and the last that have ended. Any thread may ask.

    Args:
        max_jobs: that may wait.
        max_bytes: of photos that may wait.
    """

    def __init__(self, max_jobs: int, max_bytes: int) -> None:
        self._max_jobs, self._max_bytes = max_jobs, max_bytes
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Job] = OrderedDict()
        self._ended: OrderedDict[str, Job] = OrderedDict()
        self._bytes = 0
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._is_closed = False

    @property
    def bytes(self) -> int:
        """Bytes of photos that wait to be added, or are being added."""
        return self._bytes

    def numbers(self) -> Counter[tuple[str, str]]:
        """Return by archive and state how many jobs there are that have not ended, and how many ever ended so."""
        with self._lock:
            return self._numbers + Counter((job.archive, job.state) for job in self._open.values())

    def accept(self, job: Job) -> None:
        """Take a job in.

        Raises:
            ProblemError: too many wait, or too many bytes (429), or the service ends (503).
        """
        with self._lock:
            if self._is_closed:
                raise ProblemError(503, "the service is ending: ask again soon", code="Ending", retry_after=5)
            full = len(self._open) >= self._max_jobs
            if full or (self._open and self._bytes + job.bytes > self._max_bytes):
                waits = f"{counted(len(self._open), 'job')} of {self._bytes:,} bytes"
                raise ProblemError(429, f"{waits} wait to be written: ask again later", code="JobsFull", retry_after=2)
            self._open[job.id] = job
            self._bytes += job.bytes

    def begin(self, job: Job) -> None:
        """Say that a job runs."""
        job.state = RUNNING

    def end(self, job: Job, state: int) -> None:
        """Say that a job is done: searches know of it."""
        self._end(job, DONE, state, None, None)

    def fail(self, job: Job, reason: str, code: str) -> None:
        """Say that a job has failed as a whole, and by which class of errors."""
        known = {failure["name"] for failure in job.failures}
        job.failures += [{"name": name, "reason": reason} for name in job.names if name not in known]
        self._end(job, FAILED, None, reason, code)

    def _end(self, job: Job, how: str, state: int | None, reason: str | None, code: str | None) -> None:
        with self._lock:
            if self._open.pop(job.id, None) is None:
                return
            self._bytes -= job.bytes
            job.photos = ()
            job.reason, job.code, job.archive_state, job.ended = reason, code, state, time.time()
            job.state = how
            self._ended[job.id] = job
            self._numbers[job.archive, how] += 1
            while len(self._ended) > HISTORY:
                self._ended.popitem(last=False)

    def is_waiting(self, archive: str, name: str) -> bool:
        """Return whether a job of a photo has not ended."""
        with self._lock:
            return any(job.archive == archive and name in job.names for job in self._open.values())

    def find(self, number: str) -> Job:
        """Return a job; ``ProblemError`` (404) if it is not known, or has been forgotten."""
        with self._lock:
            found = self._open.get(number) or self._ended.get(number)
        if found is None:
            detail = f"there is no such job: the last {HISTORY:,} are known, of this process alone"
            raise ProblemError(404, detail, code="NoSuchJob")
        return found

    def latest(self, limit: int) -> list[Job]:
        """Return the jobs, the latest first."""
        with self._lock:
            everything = [*self._ended.values(), *self._open.values()]
        return sorted(everything, key=lambda job: -job.begun)[:limit]

    def close(self) -> Sequence[Job]:
        """Take none in any more; return those that have not ended."""
        with self._lock:
            self._is_closed = True
            return list(self._open.values())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
