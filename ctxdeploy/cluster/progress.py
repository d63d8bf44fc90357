"""Progress of a list while a worker is at it: a file in the folder of the segments, which the driver looks at.

So nothing but names and receipts passes through Ray, and a worker that was stopped or cut off changes nothing.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.files import write_file
from ctxdeploy.core.progress import Display, Progress
from ctxdeploy.core.reading import read_regular
from ctxdeploy.indexing.report import StageTimes

if TYPE_CHECKING:
    from ctxdeploy.cluster.lists import NameList
    from ctxdeploy.cluster.unit import Receipt

_PREFIX = ".progress-"
_MAX_BYTES = 4096
# Between two states of the file, and between two looks at all of them: a shared disk has better to do.
_WRITE_SECONDS, _LOOK_SECONDS = 5.0, 5.0
_TASK = "indexing"


@dataclass(frozen=True, kw_only=True)
class ListProgress:
    """How far a worker is with a list.

    Attributes:
        done: photos, failures among them, since this worker took the list.
        failed: of them.
        limit: the stage that it waits for; empty if not known yet.
    """

    done: int
    failed: int
    limit: str


def progress_path(parts: Path, number: int) -> Path:
    """Return the file of a list."""
    return parts / f"{_PREFIX}{number}"


def read_progress(parts: Path, number: int) -> ListProgress | None:
    """Return how far a list is; None if nothing is known of it."""
    try:
        found = json.loads(read_regular(progress_path(parts, number), _MAX_BYTES))
        return ListProgress(done=int(found["done"]), failed=int(found["failed"]), limit=str(found["limit"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_progress(parts: Path) -> None:
    """Remove what former runs left, whose lists may have been others."""
    for path in parts.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            path.unlink()


class WorkerDisplay(Display):
    """Says nothing, and keeps the progress of indexing in the file of a list.

    Args:
        file: is written now and then, and removed at the end.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(quiet=True)
        self._file = file

    @contextmanager
    def progress(self, task: str, total: int | None, unit: str = "photos") -> Iterator[Progress]:
        """As ``Display.progress``; shown is indexing alone."""
        if task != _TASK:
            with super().progress(task, total, unit) as silent:
                yield silent
            return
        try:
            yield _FileProgress(self._file)
        finally:
            with suppress(OSError):
                self._file.unlink()


class _FileProgress:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._done = self._failed = 0
        self._limit = ""
        self._written = time.monotonic()

    def limited_by(self, stage: str) -> None:
        self._limit = stage

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        self._done += count
        self._failed += failed
        now = time.monotonic()
        if now - self._written < _WRITE_SECONDS:
            return
        self._written = now
        facts = {"done": self._done, "failed": self._failed, "limit": self._limit}
        with suppress(StorageError):  # a disk that is full is the segment's affair
            write_file(self._file, [json.dumps(facts).encode("ascii")])


class ClusterProgress:
    """Shows all workers in one display: receipts, and between them what the workers' files say.

    Args:
        bar: counts photos.
        parts: folder of the files.
        stages: to which the seconds of the receipts are added.
    """

    def __init__(self, bar: Progress, parts: Path, stages: StageTimes) -> None:
        self._bar, self._parts, self._stages = bar, parts, stages
        self._shown: dict[int, ListProgress] = {}
        self._looked = time.monotonic()

    def look(self, running: "Iterable[NameList]") -> None:
        """Show how far the lists are that workers are at; at most now and then."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        limits: Counter[str] = Counter()
        for names in running:
            found = read_progress(self._parts, names.part.number)
            if found is None:
                continue
            limits.update([found.limit] if found.limit else [])
            self._show(names.part.number, min(found.done, len(names.names)), found.failed)
        if limits:
            self._bar.limited_by(limits.most_common(1)[0][0])

    def take(self, number: int, receipt: "Receipt") -> None:
        """Show a list that is done."""
        if receipt.is_new:
            self._stages.add(receipt.stages)
            self._bar.limited_by(self._stages.limit)
        self._show(number, receipt.photos, receipt.failed)
        self._shown.pop(number, None)

    def _show(self, number: int, done: int, failed: int) -> None:
        """Move the bar on; it never goes back, where a list was begun anew."""
        before = self._shown.get(number, ListProgress(done=0, failed=0, limit=""))
        now = ListProgress(done=max(done, before.done), failed=max(failed, before.failed), limit="")
        if now != before:
            self._bar.advance(now.done - before.done, failed=now.failed - before.failed)
        self._shown[number] = now
