"""A folder of photos to an archive.

    photos ─ sample ─ extract ─ spool ─ codebook ─┐
       └──────────── extract ─────────────────────┴─ add ─ commit …

Everything that is committed stays: a run that was interrupted continues where it was.
"""

import random
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.archive import check_model, is_archive, store_model, store_origin
from ctxdeploy.bundle import Bundle
from ctxdeploy.errors import ConfigError, NoPhotosError
from ctxdeploy.progress import Progress
from ctxdeploy.spool import Spool, Spooled

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook, Index
    from ctxdeploy.runtime import Extracted, Extractor, PhotoFailure, PhotoSource

# Opens the display of a task of so many photos.
ShowProgress = Callable[[str, int], AbstractContextManager[Progress]]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class IndexingConfig:
    """How a folder is indexed.

    Attributes:
        codebook: file of a codebook to use; trained from the photos if None. Only for a new archive.
        words: size of a trained codebook; chosen from the number of descriptors if None.
        training_photos: photos at most whose descriptors train the codebook, drawn with ``seed``.
        seed: of the sample and of k-means.
        commit_seconds: least time between two commits. It grows to a tenth of the time that the run has taken, so that
            a long run does not leave thousands of small shards.
    """

    codebook: Path | None = None
    words: int | None = None
    training_photos: int = 5000
    seed: int = 0
    commit_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.codebook is not None and self.words is not None:
            raise ConfigError("--codebook and --words exclude each other: a given codebook has its size")
        if self.words is not None and not 1 <= self.words <= 1 << 20:
            raise ConfigError(f"--words {self.words} is outside 1..1048576")
        if self.training_photos < 1:
            raise ConfigError(f"--training-photos {self.training_photos} must be positive")


@dataclass(kw_only=True)
class IndexingReport:
    """What a run did, counted in photos.

    Attributes:
        found: in the folder.
        indexed: added by this run.
        unchanged: in the archive already.
        changed: in the archive, but their files have changed since; left as they are.
        failed: could not be read; the archive lists them with their reasons.
        descriptors: of the photos added.
        codebook: how it was trained, if this run trained it.
        seconds: of the whole run.
    """

    found: int = 0
    indexed: int = 0
    unchanged: int = 0
    changed: int = 0
    failed: int = 0
    descriptors: int = 0
    codebook: dict[str, Any] | None = None
    seconds: float = 0.0
    failures: list[dict[str, str]] = field(default_factory=list)

    def metadata(self) -> dict[str, Any]:
        """Return the report as JSON prints it."""
        return asdict(self)


def index_photos(
    folder: Path,
    photos: list["PhotoSource"],
    archive: Path,
    bundle: Bundle,
    extractor: "Extractor",
    config: IndexingConfig,
    *,
    progress: ShowProgress,
    say: Say,
) -> IndexingReport:
    """Index photos into an archive, new or not.

    Args:
        folder: that the photos' names are relative to.
        photos: what to index.
        archive: its folder.
        bundle: the model; an archive must have been made with it.
        extractor: the bundle, loaded.
        config: codebook and commits.
        progress: opens the display of a task.
        say: prints a line for the user.

    Raises:
        MismatchError: the archive was made with another model or preprocessing.
        ArchiveError: it is damaged, or another process writes to it.
        StorageError: it cannot be written.
        NoPhotosError: no photo could be read, so that no codebook can be trained.
        KeyboardInterrupt: after committing what was done.
    """
    start = time.monotonic()
    report = IndexingReport(found=len(photos))
    spool = Spool(archive.with_name(archive.name + ".training"), _spool_key(bundle))
    index = _open(archive, photos, bundle, extractor, config, spool, report, progress=progress, say=say)
    with index:
        store_origin(archive, folder)
        store_model(archive, bundle)
        pending = _pending(index, photos, report)
        run = _Run(index, report, config.commit_seconds)
        try:
            run.add_spooled(pending, spool)
            if pending:
                with progress("indexing", len(pending)) as bar:
                    run.add_extracted(extractor.extract(list(pending.values())), bar)
        except KeyboardInterrupt:
            run.commit()
            raise
        run.commit()
    spool.remove()
    report.seconds = time.monotonic() - start
    return report


def _spool_key(bundle: Bundle) -> dict[str, str]:
    return {"model": bundle.model_id, "preprocessing": bundle.preprocessing.hash}


def _open(
    archive: Path,
    photos: list["PhotoSource"],
    bundle: Bundle,
    extractor: "Extractor",
    config: IndexingConfig,
    spool: Spool,
    report: IndexingReport,
    *,
    progress: ShowProgress,
    say: Say,
) -> "Index":
    from ctxdeploy.index import Codebook, DescriptorSource, Index

    if is_archive(archive):
        if config.codebook is not None or config.words is not None:
            raise ConfigError(f"{archive} has a codebook: leave out --codebook and --words, or choose another -o")
        index = Index.open(archive, writable=True)
        try:
            check_model(index, bundle)
        except BaseException:
            index.close()
            raise
        return index
    if config.codebook is not None:
        codebook = Codebook.load(config.codebook)
        if codebook.dim != bundle.extraction.dim:
            raise ConfigError(
                f"codebook {config.codebook} has dimension {codebook.dim}, the model {bundle.extraction.dim}: "
                "give the codebook of this model, or none"
            )
    else:
        codebook = train_codebook(photos, extractor, config, spool, progress=progress, say=say)
        report.codebook = codebook.metadata()
    source = DescriptorSource(
        model=bundle.model_id, preprocessing=bundle.preprocessing.hash, description=bundle.source.get("file", "")
    )
    return Index.create(archive, codebook, source=source)


def train_codebook(
    photos: list["PhotoSource"],
    extractor: "Extractor",
    config: IndexingConfig,
    spool: Spool,
    *,
    progress: ShowProgress,
    say: Say,
) -> "Codebook":
    """Train a codebook from a sample of photos; their descriptors stay in the spool.

    Descriptors of the scale nearest 1 train it, as in HOW; where they are fewer than a tenth of all (a network without
    such a scale, small photos), all do.
    """
    from ctxdeploy.index import Codebook

    sample = photos
    if len(photos) > config.training_photos:
        sample = random.Random(config.seed).sample(photos, config.training_photos)
    missing = [photo for photo in sample if not _spooled(spool, photo)]
    if missing:
        with progress("extracting for the codebook", len(missing)) as bar:
            for result in extractor.extract(missing):
                photo = _photo(result)
                if photo is not None:
                    spool.put(photo)
                bar.advance(failed=int(photo is None))
    wanted = {photo.name for photo in sample}
    vectors = _training_vectors(photo for photo in spool.photos() if photo.name in wanted)
    if not len(vectors):
        raise NoPhotosError(f"none of {len(sample)} photos gave descriptors, so that no codebook can be trained")
    say(f"training a codebook from {len(vectors):,} descriptors of {len(sample):,} photos")
    codebook = Codebook.train(vectors, words=config.words, seed=config.seed)
    say(codebook.metadata()["training"]["explanation"])
    return codebook


def _training_vectors(photos: Iterable[Spooled]) -> NDArray[np.float32]:
    every, near = [], []
    for photo in photos:
        descriptors = photo.descriptors
        if not len(descriptors):
            continue
        distance = np.abs(np.log(descriptors.scales))
        every.append(descriptors.vectors)
        near.append(descriptors.vectors[distance <= 0.2])
    if not every:
        return np.empty((0, 0), np.float32)
    chosen = near if sum(map(len, near)) * 10 >= sum(map(len, every)) else every
    return np.concatenate(chosen)


def _state(photo: "PhotoSource") -> tuple[int, int]:
    """Return size and time of change of a photo's file; -1 if it cannot be told (the extraction will say why)."""
    try:
        found = photo.path.stat() if photo.path is not None else None
    except OSError:
        found = None
    return (-1, -1) if found is None else (found.st_size, found.st_mtime_ns)


def _spooled(spool: Spool, photo: "PhotoSource") -> bool:
    return spool.get(photo.name, *_state(photo)) is not None


def _photo(result: "Extracted | PhotoFailure") -> Spooled | None:
    from ctxdeploy.runtime import Extracted

    if not isinstance(result, Extracted):
        return None
    size, mtime_ns = (result.file.size, result.file.mtime_ns) if result.file else (-1, -1)
    return Spooled(name=result.name, descriptors=result.descriptors, size=size, mtime_ns=mtime_ns)


def _pending(index: "Index", photos: list["PhotoSource"], report: IndexingReport) -> dict[str, "PhotoSource"]:
    known = index.known()
    pending = {}
    for photo in photos:
        if photo.name not in known:
            pending[photo.name] = photo
        elif known[photo.name] == _state(photo):
            report.unchanged += 1
        else:
            report.changed += 1
    return pending


class _Run:
    """Adds photos to an index and commits now and then."""

    def __init__(self, index: "Index", report: IndexingReport, commit_seconds: float) -> None:
        self._index, self._report, self._commit_seconds = index, report, commit_seconds
        self._start = self._committed = time.monotonic()
        self._failures: list[dict[str, str]] = []

    def add_spooled(self, pending: dict[str, "PhotoSource"], spool: Spool) -> None:
        """Add the photos that the spool has, and take them from ``pending``."""
        for name, photo in list(pending.items()):
            spooled = spool.get(name, *_state(photo))
            if spooled is not None:
                self._add(spooled)
                del pending[name]

    def add_extracted(self, results: Iterable["Extracted | PhotoFailure"], bar: Progress) -> None:
        """Add photos as they are extracted."""
        from ctxdeploy.runtime import PhotoFailure

        for result in results:
            if isinstance(result, PhotoFailure):
                record = {"name": result.name, "reason": result.reason, "stage": result.stage}
                self._failures.append(record)
                self._report.failures.append(record)
                self._report.failed += 1
                bar.advance(failed=1)
                continue
            photo = _photo(result)
            if photo is not None:
                self._add(photo)
            bar.advance()

    def commit(self) -> None:
        """Make what was added durable."""
        if self._failures:
            self._index.record_failures(self._failures)
            self._failures = []
        self._index.commit()
        self._committed = time.monotonic()

    def _add(self, photo: Spooled) -> None:
        self._index.add(photo.name, photo.descriptors, size=photo.size, mtime_ns=photo.mtime_ns)
        self._report.indexed += 1
        self._report.descriptors += len(photo.descriptors)
        now = time.monotonic()
        if now - self._committed >= max(self._commit_seconds, 0.1 * (now - self._start)):
            self.commit()
