"""Photos into an index as they are extracted, with a commit now and then."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ctxdeploy.progress import Progress
from ctxdeploy.spool import Spool, Spooled, file_state, spooled

if TYPE_CHECKING:
    from ctxdeploy.index import Index
    from ctxdeploy.runtime import Extracted, PhotoFailure, PhotoSource

# Photos whose descriptors are assigned to words in one call, which is faster than one by one.
_TOGETHER = 32


@dataclass(kw_only=True)
class IndexingReport:
    """What a run did, counted in photos.

    Attributes:
        found: in the folder.
        indexed: added by this run.
        replaced: changed photos whose new descriptors took the place of the old ones.
        unchanged: in the archive already.
        changed: in the archive, but their files had changed; those that could not be read keep their old descriptors.
        removed: taken from the archive, because their files are gone.
        missing: in the archive, but their files are gone; left as they are.
        failed: could not be read; the archive lists them with their reasons.
        descriptors: of the photos added and replaced.
        compacted: shards that were merged into larger ones at the end.
        codebook: how it was trained, if this run trained it.
        seconds: of the whole run.
    """

    found: int = 0
    indexed: int = 0
    replaced: int = 0
    unchanged: int = 0
    changed: int = 0
    removed: int = 0
    missing: int = 0
    failed: int = 0
    descriptors: int = 0
    compacted: int = 0
    codebook: dict[str, Any] | None = None
    seconds: float = 0.0
    failures: list[dict[str, str]] = field(default_factory=list)

    def metadata(self) -> dict[str, Any]:
        """Return the report as JSON prints it."""
        return asdict(self)


class Adding:
    """Adds photos to an index, or replaces those of their names.

    Args:
        index: open for writing.
        report: counts what is added, replaced and failed.
        commit_seconds: least time between two commits; it grows to a tenth of the time since the start.
    """

    def __init__(self, index: "Index", report: IndexingReport, commit_seconds: float) -> None:
        self._index, self._report, self._commit_seconds = index, report, commit_seconds
        self._start = self._committed = time.monotonic()
        self._failures: list[dict[str, str]] = []
        self._waiting: list[Spooled] = []

    def add_spooled(self, pending: dict[str, "PhotoSource"], spool: Spool) -> None:
        """Add the photos that the spool has, and take them from ``pending``."""
        for name, photo in list(pending.items()):
            spooled = spool.get(name, *file_state(photo))
            if spooled is not None:
                self._add(spooled)
                del pending[name]

    def add_extracted(self, results: Iterable["Extracted | PhotoFailure"], bar: Progress) -> None:
        """Add photos as they are extracted."""
        from ctxdeploy.runtime import PhotoFailure

        for result in results:
            if isinstance(result, PhotoFailure):
                self.fail(result)
                bar.advance(failed=1)
                continue
            photo = spooled(result)
            if photo is not None:
                self._add(photo)
            bar.advance()

    def fail(self, failure: "PhotoFailure") -> None:
        """List a photo that could not be read."""
        record = {"name": failure.name, "reason": failure.reason, "stage": failure.stage}
        self._failures.append(record)
        self._report.failures.append(record)
        self._report.failed += 1

    def commit(self) -> None:
        """Make what was added durable."""
        self._add_waiting()
        if self._failures:
            self._index.record_failures(self._failures)
            self._failures = []
        self._index.commit()
        self._committed = time.monotonic()

    def _add(self, photo: Spooled) -> None:
        self._waiting.append(photo)
        if len(self._waiting) >= _TOGETHER:
            self._add_waiting()
        now = time.monotonic()
        if now - self._committed >= max(self._commit_seconds, 0.1 * (now - self._start)):
            self.commit()

    def _add_waiting(self) -> None:
        from ctxdeploy.index import Photo

        known = sum(photo.name in self._index for photo in self._waiting)
        self._index.add_many(
            (
                Photo(name=photo.name, vectors=photo.descriptors, size=photo.size, mtime_ns=photo.mtime_ns)
                for photo in self._waiting
            ),
            # An interrupt may have come between adding and forgetting: then they are added once more.
            replace=True,
        )
        self._report.replaced += known
        self._report.indexed += len(self._waiting) - known
        self._report.descriptors += sum(len(photo.descriptors) for photo in self._waiting)
        self._waiting = []
