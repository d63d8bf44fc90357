"""The one writer of an archive inside the service: a thread that takes all jobs that wait, and commits them at once.

    job ─ describe each photo ─ store its file ─┐
    job ─ …                                     ├─ one commit ─ readers move on ─ jobs are done
    job ─ …                                    ─┘

The archive is open for writing while there are jobs and no longer, so that other processes may write it too; while one
does, the jobs wait.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ctxdeploy.core.errors import CtxdeployError
from ctxdeploy.core.locks import LockedError
from ctxdeploy.core.text import counted
from ctxdeploy.index import Index
from ctxdeploy.service.archives import ServedArchive
from ctxdeploy.service.jobs import Job, Jobs
from ctxdeploy.service.logs import log
from ctxdeploy.service.write_batch import WriteBatch

# Between two tries to have an archive that another process writes.
_PAUSE = 0.2
# Photos of one commit: described ones wait in memory, 0.5 MB each.
_TOGETHER = 128
_DEFECT, _DEFECT_CODE = "the service failed; its log says why", "InternalError"


class ArchiveWriter:
    """Adds and removes the photos of one archive. Its thread lives while there are jobs.

    Args:
        served: the archive.
        jobs: told what becomes of each.
        store_photos: the files of new photos are stored in the folder of the archive's photos.
    """

    def __init__(self, served: ServedArchive, jobs: Jobs, *, store_photos: bool) -> None:
        self._served, self._jobs, self._store_photos = served, jobs, store_photos
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> None:
        """Do a job when those before it are done."""
        with self._lock:
            self._waiting.append(job)
            if self._thread is None:
                name = f"ctxdeploy-write-{self._served.name}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait so long for the jobs that were accepted."""
        thread = self._thread
        if thread is not None:
            thread.join(max(seconds, 0.0))

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
            try:
                self._write()
            except CtxdeployError as error:
                log.error("%s cannot be written: %s", self._served.name, error)
                self._fail_waiting(error)
            except Exception:  # a defect of ours must not leave jobs that wait for ever
                log.exception("%s: writing failed", self._served.name)
                self._fail_waiting(None)

    def _write(self) -> None:
        """Open the archive and do the jobs that wait, until there are none, or one fails: then nothing of it is left in
        what is open."""
        with self._opened() as index:
            is_sound = True
            while is_sound and (batch := self._next_batch()) is not None:
                is_sound = self._do(index, batch)

    @contextmanager
    def _opened(self) -> "Iterator[Index]":
        """Open the archive for writing; wait for another process that does, until the time of the jobs is over."""
        while True:
            try:
                index = Index.open(self._served.path, writable=True)
                break
            except LockedError as error:
                self._fail_waiting(error, late=True)
                if not self._waiting:
                    raise
                time.sleep(_PAUSE)
        try:
            yield index
        finally:
            index.close()

    def _fail_waiting(self, error: CtxdeployError | None, *, late: bool = False) -> None:
        """Let the jobs that wait fail, or only those whose time is over; with None by a defect of ours."""
        with self._lock:
            failed = [job for job in self._waiting if not late or job.left <= 0]
            self._waiting = deque(job for job in self._waiting if job not in failed)
        self._fail(failed, error)

    def _fail(self, failed: Sequence[Job], error: CtxdeployError | None) -> None:
        reason = _DEFECT if error is None else self._served.told(str(error))
        for job in failed:
            self._jobs.fail(job, reason, _DEFECT_CODE if error is None else type(error).__name__)

    def _next_batch(self) -> list[Job] | None:
        """Take the jobs that go into one commit: those that wait, up to a second one for the same photo."""
        batch: list[Job] = []
        names: set[str] = set()
        with self._lock:
            while self._waiting:
                job = self._waiting[0]
                if batch and (not names.isdisjoint(job.names) or len(names) + len(job.names) > _TOGETHER):
                    break
                batch.append(self._waiting.popleft())
                names.update(job.names)
        return batch or None

    def _do(self, index: Index, batch: Sequence[Job]) -> bool:
        """Do jobs with one commit; return whether that succeeded."""
        for job in batch:
            self._jobs.begin(job)
        work = WriteBatch(self._served, index, batch, store_photos=self._store_photos)
        failure: CtxdeployError | None = None
        try:
            state = work.commit()
        except CtxdeployError as error:
            log.error("%s: jobs failed: %s", self._served.name, error)
            failure = error
        except Exception:
            log.exception("%s: jobs failed", self._served.name)
        else:
            for job in batch:
                self._jobs.end(job, state)
            return True
        work.undo()
        self._fail(batch, failure)
        return False


class Writers:
    """The writers of all archives, and their jobs.

    Args:
        max_jobs, max_bytes: that may wait, of all archives together.
        store_photos: as of ``ArchiveWriter``.
    """

    def __init__(self, max_jobs: int, max_bytes: int, *, store_photos: bool) -> None:
        self.jobs = Jobs(max_jobs, max_bytes)
        self._store_photos = store_photos
        self._writers: dict[str, ArchiveWriter] = {}

    def submit(self, served: ServedArchive, job: Job) -> None:
        """Accept a job; errors as ``Jobs.accept``. From one thread at a time."""
        self.jobs.accept(job)
        writer = self._writers.get(served.name)
        if writer is None:
            made = ArchiveWriter(served, self.jobs, store_photos=self._store_photos)
            writer = self._writers.setdefault(served.name, made)
        writer.submit(job)

    def close(self, seconds: float) -> int:
        """Take no jobs in any more, wait so long for those there are, and return how many have not ended.

        Those are logged: the archive is as if they had never come.
        """
        end = time.monotonic() + seconds
        self.jobs.close()
        for writer in self._writers.values():
            writer.join(end - time.monotonic())
        left = self.jobs.close()
        for job in left:
            photos = counted(len(job.names), "photo")
            log.error("job %s of %s was not done: %s to %s", job.id, job.archive, photos, job.kind)
        return len(left)
