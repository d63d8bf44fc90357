"""The unit of work of many machines: a part of the photos of a place becomes a segment, once.

    photos ─ id ─ is there? ── yes ────────────────────────────────┐
                   └─ extract into a work archive ─ compact ─ rename ┴─ receipt

The work archive is an archive as any: a unit that was killed goes on where it committed last.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.archive import is_archive
from ctxdeploy.cluster.config import SegmentConfig
from ctxdeploy.cluster.destination import Destination
from ctxdeploy.cluster.segment import (
    remove_abandoned_in,
    remove_unused,
    segment_id,
    segment_path,
    store_shared,
    work_path,
)
from ctxdeploy.core.errors import ArchiveError, StorageError
from ctxdeploy.core.files import make_folder, remove_folder
from ctxdeploy.core.locks import LockedError
from ctxdeploy.core.part import Part
from ctxdeploy.core.progress import Display
from ctxdeploy.indexing.job import IndexingJob
from ctxdeploy.indexing.report import StageTimes

if TYPE_CHECKING:
    from ctxdeploy.index import Index, Segment
    from ctxdeploy.runtime import Extractor
    from ctxdeploy.runtime.sources import PhotoList


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What is known of a segment without reading it.

    Attributes:
        segment: its folder.
        id: hex sha256 of what it was made from.
        is_new: this call made it; else it was there.
        photos: that it was made from.
        images: in it.
        failed: photos that could not be read, and parts of the place that could not be listed.
        bytes: of its shards.
        seconds: that this call took.
        stages: where they went.
    """

    segment: Path
    id: str
    is_new: bool
    photos: int
    images: int
    failed: int
    bytes: int
    seconds: float
    stages: StageTimes = field(default_factory=StageTimes)

    def metadata(self) -> dict[str, Any]:
        """Return the receipt as JSON prints it."""
        seconds = {"seconds": round(self.seconds, 3), "stages": self.stages.metadata()}
        return {**asdict(self), "segment": str(self.segment), **seconds}


class SegmentMaker:
    """Makes segments of one archive with one network, one after the other.

    Args:
        parts: the folder where finished segments lie.
        extractor: the network.
        destination: codebook and settings of the archive.
        config: boxes, failures and commits.
        display: where progress and remarks go.
        work: folder of unfinished segments, such as one on a local disk; ``parts`` if None.
        training: folder of descriptors that trained the codebook, which are not extracted once more.
    """

    def __init__(
        self,
        parts: Path,
        extractor: "Extractor",
        destination: Destination,
        config: SegmentConfig,
        display: Display,
        work: Path | None = None,
        training: Path | None = None,
    ) -> None:
        self._parts, self._work, self._training = parts, work or parts, training
        self._extractor, self._destination = extractor, destination
        self._config, self._display = config, display

    def make(self, photos: "PhotoList", part: Part | None = None) -> Receipt:
        """Make the segment of some photos, or return at once if it is there.

        Args:
            photos: all of them are in the segment, or listed as failed.
            part: which part of a place they are; orders segments when they are published.

        Raises:
            ArchiveError: another process makes it, in the same folder.
            StorageError: a folder cannot be written.
            TooManyFailuresError, BackendError, KeyboardInterrupt: what was done is kept; the next call goes on.
        """
        from ctxdeploy.index import is_segment, open_segment

        start = time.monotonic()
        identity = segment_id(photos, self._destination, self._extractor, self._config.boxes)
        path, work = segment_path(self._parts, identity), work_path(self._work, identity)
        if is_segment(path):
            remove_unused(work)  # of one that was killed when its segment was there
            return _receipt(open_segment(path), start, StageTimes(), is_new=False)
        for folder in {self._parts, self._work}:
            make_folder(folder, advice="choose another -o")
        for folder in {self._parts, self._work}:
            remove_abandoned_in(folder)
        store_shared(self._parts, self._destination, self._extractor.bundle)
        with self._opened(work) as index:
            config, shown = self._config.indexing(), self._display
            job = IndexingJob(work, self._extractor, config, shown, index, is_part=True, training=self._training)
            stages = job.place(photos).stages
            finished = time.monotonic()
            with self._display.steps("compacting") as step:
                index.compact(purge=True, progress=step)
            segment = self._write(index, path, identity, self._facts(photos, part, time.monotonic() - start))
        remove_folder(work)
        written = time.monotonic() - finished  # nothing else runs meanwhile
        stages.write, stages.blocked = stages.write + written, stages.blocked + written
        return _receipt(segment, start, stages, is_new=True)

    @contextmanager
    def _opened(self, work: Path) -> "Iterator[Index]":
        from ctxdeploy.index import Index

        index = self._former(work)
        if index is None:
            goal = self._destination
            index = Index.create(work, goal.codebook, config=goal.config, source=goal.source, quantiser=goal.quantiser)
        try:
            yield index
        finally:
            index.close()

    def _former(self, work: Path) -> "Index | None":
        """Open what an interrupted run extracted; None if there is nothing, or it is damaged: it is extracted anew."""
        from ctxdeploy.index import Index

        if not is_archive(work):
            return None
        try:
            return Index.open(work, writable=True)
        except LockedError:
            raise
        except ArchiveError as error:
            self._display.say(f"{work} is begun anew: {error}")
            remove_folder(work)
            return None

    def _write(self, index: "Index", path: Path, identity: str, facts: dict[str, Any]) -> "Segment":
        from ctxdeploy.index import is_segment, open_segment, write_segment

        try:
            return write_segment(index.state, index.path, path, identity, facts)
        except (ArchiveError, StorageError):
            if not is_segment(path):  # else another machine was faster
                raise
            return open_segment(path)

    def _facts(self, photos: "PhotoList", part: Part | None, seconds: float) -> dict[str, Any]:
        return {
            "place": photos.place,
            "folder": None if photos.folder is None else str(photos.folder.resolve()),
            "part": None if part is None else [part.number, part.count],
            "photos": len(photos.photos),
            "first": photos.photos[0].name if photos.photos else "",
            "unlisted": len(photos.unreadable),
            "extraction": self._extractor.description(),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "seconds": round(seconds, 3),
        }


def _receipt(segment: "Segment", start: float, stages: StageTimes, *, is_new: bool) -> Receipt:
    manifest, facts = segment.manifest, segment.facts
    return Receipt(
        segment=segment.path,
        id=segment.id,
        is_new=is_new,
        photos=facts["photos"],
        images=manifest.images,
        failed=facts["photos"] + facts["unlisted"] - manifest.images,
        bytes=sum(entry.bytes for entry in manifest.shards),
        seconds=time.monotonic() - start,
        stages=stages,
    )
