"""A folder of photos to an archive.

    photos ─ sample ─ extract ─ spool ─ codebook ─┐
       └──────────── extract ─────────────────────┴─ add ─ commit …

Everything that is committed stays: a run that was interrupted continues where it was.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.archive import check_model, is_archive, store_model, store_origin
from ctxdeploy.bundle import Bundle
from ctxdeploy.errors import BackendError, ConfigError
from ctxdeploy.progress import Display, Progress
from ctxdeploy.spool import Spool, Spooled, file_state, spooled
from ctxdeploy.training import TrainingConfig, train_codebook

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook, Index
    from ctxdeploy.runtime import Extracted, Extractor, PhotoFailure, PhotoSource


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
        from ctxdeploy.index.config import MAX_WORDS

        if self.codebook is not None and self.words is not None:
            raise ConfigError("--codebook and --words exclude each other: a given codebook has its size")
        if self.words is not None and not 1 <= self.words <= MAX_WORDS:
            raise ConfigError(f"--words {self.words} is outside 1..{MAX_WORDS}")
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
        missing: in the archive, but their files are gone; left as they are.
        failed: could not be read; the archive lists them with their reasons.
        descriptors: of the photos added.
        codebook: how it was trained, if this run trained it.
        seconds: of the whole run.
    """

    found: int = 0
    indexed: int = 0
    unchanged: int = 0
    changed: int = 0
    missing: int = 0
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
    extractor: "Extractor",
    config: IndexingConfig,
    display: Display,
    *,
    unreadable: Sequence["PhotoFailure"] = (),
    collect_garbage: bool = False,
) -> IndexingReport:
    """Index photos into an archive, new or not.

    Args:
        folder: that the photos' names are relative to.
        photos: what to index.
        archive: its folder.
        extractor: the model; an archive must have been made with it.
        config: codebook and commits.
        display: where progress and remarks go.
        unreadable: folders that could not be listed; they count as failures.
        collect_garbage: remove files of interrupted runs and former states at the end.

    Raises:
        MismatchError: the archive was made with another model or preprocessing.
        ArchiveError: it is damaged, or another process writes to it.
        StorageError: it cannot be written.
        NoPhotosError: no photo could be read, so that no codebook can be trained.
        BackendError, KeyboardInterrupt: after committing what was done.
    """
    start = time.monotonic()
    report = IndexingReport(found=len(photos))
    bundle = extractor.bundle
    spool = Spool(archive.with_name(archive.name + ".training"), _spool_key(bundle))
    with _open(archive, photos, extractor, config, spool, display, report) as index:
        store_origin(archive, folder, extractor.description())
        store_model(archive, bundle)
        pending = _pending(index, photos, report)
        _look_for_missing(index, folder, photos, report)
        run = _Run(index, report, config.commit_seconds)
        for failure in unreadable:
            run.fail(failure)
        try:
            run.add_spooled(pending, spool)
            if pending:
                with display.progress("indexing", len(pending)) as bar:
                    run.add_extracted(extractor.extract(list(pending.values())), bar)
        except (KeyboardInterrupt, BackendError):
            run.commit()
            raise
        run.commit()
        if collect_garbage:
            index.collect_garbage()
    spool.remove()
    report.seconds = time.monotonic() - start
    return report


def _spool_key(bundle: Bundle) -> dict[str, str]:
    return {"model": bundle.model_id, "preprocessing": bundle.preprocessing.hash}


def _open(
    archive: Path,
    photos: list["PhotoSource"],
    extractor: "Extractor",
    config: IndexingConfig,
    spool: Spool,
    display: Display,
    report: IndexingReport,
) -> "Index":
    """Open the archive for writing, or make it with a codebook, which may have to be trained."""
    from ctxdeploy.index import DescriptorSource, Index
    from ctxdeploy.index.creation import check_free

    bundle = extractor.bundle
    if not is_archive(archive):
        check_free(archive)
        with spool.locked():
            codebook = _codebook(photos, extractor, config, spool, display, report)
            name = bundle.source.get("file", "")
            source = DescriptorSource(model=bundle.model_id, preprocessing=bundle.preprocessing.hash, description=name)
            return Index.create(archive, codebook, source=source)
    if config.codebook is not None or config.words is not None:
        raise ConfigError(f"{archive} has a codebook: leave out --codebook and --words, or choose another -o")
    index = Index.open(archive, writable=True)
    try:
        check_model(index, bundle)
    except BaseException:
        index.close()
        raise
    return index


def _codebook(
    photos: list["PhotoSource"],
    extractor: "Extractor",
    config: IndexingConfig,
    spool: Spool,
    display: Display,
    report: IndexingReport,
) -> "Codebook":
    from ctxdeploy.index import Codebook

    if config.codebook is None:
        training = TrainingConfig(words=config.words, most_photos=config.training_photos, seed=config.seed)
        trained = train_codebook(photos, extractor, spool, training, display)
        report.codebook = trained.metadata()
        return trained
    codebook = Codebook.load(config.codebook)
    dim = extractor.bundle.extraction.dim
    if codebook.dim != dim:
        raise ConfigError(
            f"codebook {config.codebook} has dimension {codebook.dim}, the model {dim}: "
            "give the codebook of this model, or none"
        )
    return codebook


def _pending(index: "Index", photos: list["PhotoSource"], report: IndexingReport) -> dict[str, "PhotoSource"]:
    known = index.known()
    pending = {}
    for photo in photos:
        if photo.name not in known:
            pending[photo.name] = photo
        elif known[photo.name] == file_state(photo):
            report.unchanged += 1
        else:
            report.changed += 1
    return pending


def _look_for_missing(index: "Index", folder: Path, photos: list["PhotoSource"], report: IndexingReport) -> None:
    """Count the archive's photos whose files are gone, and forget failures of files that are gone."""
    found = {photo.name for photo in photos}
    report.missing = sum(_is_gone(folder / name) for name in index.names() if name not in found)
    failed = [failure["name"] for failure in index.failures() if failure["name"] not in found]
    index.forget_failures(name for name in failed if name.endswith("/") or _is_gone(folder / name))


def _is_gone(path: Path) -> bool:
    """Return whether a file is known not to exist; in a folder that cannot be read nothing is known."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


class _Run:
    """Adds photos to an index and commits now and then."""

    def __init__(self, index: "Index", report: IndexingReport, commit_seconds: float) -> None:
        self._index, self._report, self._commit_seconds = index, report, commit_seconds
        self._start = self._committed = time.monotonic()
        self._failures: list[dict[str, str]] = []

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
