"""Photos of a place to an archive.

    photos ─ sample ─ extract ─ spool ─ codebook ─┐
       └──────────── extract ─────────────────────┴─ add ─ commit …
                (workers, network)                  (a thread)

Everything that is committed stays: a run that was interrupted continues where it was. A run on an archive that exists
takes in what is new or changed.
"""

import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.archive import check_model, check_origin, is_archive, store_model, store_origin
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.bundled_codebook import check_codebook
from ctxdeploy.core.errors import BackendError, ConfigError, StorageError, TooManyFailuresError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.settings import setting
from ctxdeploy.indexing.codebook import CodebookTrainer, TrainingConfig
from ctxdeploy.indexing.commit import BackgroundWriter, IndexCommitter, IndexingReport
from ctxdeploy.indexing.descriptor_cache import DescriptorCache, spooled
from ctxdeploy.indexing.failure_limit import NO_LIMIT, FailureLimit
from ctxdeploy.indexing.plan import Plan, check_sync, make_plan
from ctxdeploy.indexing.report import StageTimes

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook, Index
    from ctxdeploy.runtime import Extractor, PhotoDescriptors, PhotoFailure, PhotoSource
    from ctxdeploy.runtime.sources import PhotoList

# Extracted photos that may wait for the writer, 0.5 MB each at 1000 descriptors.
_AHEAD = 64


@dataclass(frozen=True, kw_only=True)
class IndexingConfig:
    """How photos are indexed.

    Attributes:
        codebook: file of a codebook to use. Only for a new archive.
        words: size of a codebook that is trained from the photos. If neither is given, that of the bundle is used, and
            where it carries none, one is trained whose size is chosen from the number of descriptors.
        training_photos: photos at most whose descriptors train the codebook, drawn with ``seed``.
        seed: of the sample and of k-means.
        commit_seconds: least time between two commits. It grows to a tenth of the time that the run has taken, and to
            five minutes at most.
        geometry: keep the position and scale of each descriptor. Only for a new archive.
        sync: remove the archive's photos that are gone.
        moved: the photos are at another place now than the archive remembers.
        retry_failed: try photos again that could not be decoded before.
        failure_limit: how many photos may fail.
        collect_garbage: remove files of interrupted runs and former states at the end, even if nothing was compacted.
    """

    codebook: Path | None = setting(
        None, "--codebook", "Codebook to use.", metavar="FILE", default_text="the model's, or trained"
    )
    words: int | None = setting(None, "--words", "Train a codebook of this size from the photos.", metavar="N")
    training_photos: int = setting(5000, "--training-photos", "Photos that train the codebook.")
    seed: int = 0
    geometry: bool = setting(False, "--geometry", "Keep the position and scale of each descriptor (8 bytes).")
    sync: bool = setting(False, "--sync", "Remove photos from the archive that are gone from PLACE.")
    moved: bool = setting(False, "--moved", "The archive's photos are at PLACE now.")
    retry_failed: bool = setting(False, "--retry-failed", "Try photos again that could not be decoded before.")
    failure_limit: FailureLimit = setting(
        NO_LIMIT,
        "--max-failures",
        "Stop when more photos fail; a share counts from 100 photos on.",
        metavar="N|P%",
        parse=FailureLimit.parse,
        default_text="no limit",
    )
    commit_seconds: float = setting(
        10.0, "--commit-seconds", "Least time between two commits; it grows to a tenth of the run, 300 at most."
    )
    collect_garbage: bool = setting(False, "--gc", "At the end, remove files of interrupted runs and former states.")

    def __post_init__(self) -> None:
        from ctxdeploy.index.config import MAX_WORDS

        if self.codebook is not None and self.words is not None:
            raise ConfigError("--codebook and --words exclude each other: a given codebook has its size")
        if self.words is not None and not 1 <= self.words <= MAX_WORDS:
            raise ConfigError(f"--words {self.words} is outside 1..{MAX_WORDS}")
        if self.training_photos < 1:
            raise ConfigError(f"--training-photos {self.training_photos} must be positive")
        if not 0 <= self.commit_seconds <= 86400:
            raise ConfigError(f"--commit-seconds {self.commit_seconds:g} is outside 0..86400")


def index_photos(
    listing: "PhotoList", archive: Path, extractor: "Extractor", config: IndexingConfig, display: Display
) -> IndexingReport:
    """Index photos into an archive, new or not.

    Args:
        listing: the photos; what of it could not be listed counts as failures.
        archive: its folder.
        extractor: the model; an archive must have been made with it.
        config: codebook, commits, failures, and what happens to what is gone.
        display: where progress and remarks go.

    Raises:
        MismatchError: the archive was made with another model or preprocessing.
        ArchiveError: it is damaged, or another process writes to it.
        StorageError: it cannot be written.
        NoPhotosError: no photo could be read, so that no codebook can be trained.
        ConfigError: settings that the archive cannot take, or a sync that would leave nothing.
        TooManyFailuresError, BackendError, KeyboardInterrupt: after committing what was done;
        OSError: as well, if what reads the progress is gone.
    """
    start = time.monotonic()
    report = IndexingReport(found=len(listing.photos))
    bundle = extractor.bundle
    spool = DescriptorCache(archive.with_name(archive.name + ".training"), _spool_key(bundle))
    trainer = CodebookTrainer(extractor, spool, config.failure_limit, display)
    with _open(archive, listing, bundle, config, spool, trainer, report, display) as index:
        plan = _plan(index, archive, listing, config)
        report.stages = trainer.times
        report.unchanged, report.changed, report.given_up = plan.unchanged, len(plan.changed), len(plan.given_up)
        store_origin(archive, listing, extractor.description(), moved=config.moved)
        store_model(archive, bundle)
        limit = extractor.config.memory_limit
        run = IndexCommitter(index, report, config.commit_seconds, config.failure_limit, display, limit)
        index.forget_failures(plan.settled)
        pending = _failed_last(plan)
        try:
            run.add_spooled(pending, spool)
            # After those that succeeded: both count for a share of failures.
            for failure in (*listing.unreadable, *trainer.failed):
                pending.pop(failure.name, None)
                run.fail(failure)
            if pending:
                _extract(list(pending.values()), extractor, run, report.stages, display)
        except (KeyboardInterrupt, BackendError, TooManyFailuresError, OSError):
            run.commit()
            raise
        # Last, so that a photo that was renamed is in the archive under either name at any time.
        _leave(index, [name for name in plan.gone if listing.is_gone(name)], config, report)
        run.commit()
        report.compacted += _tidy(index, config, display)
    spool.remove()
    report.seconds = time.monotonic() - start
    return report


def plan_indexing(listing: "PhotoList", archive: Path, config: IndexingConfig) -> Plan:
    """Return what ``index_photos`` would do; nothing is written, and no model is needed.

    Raises:
        ArchiveError: the archive is damaged, or cannot be made because other files are there.
        ConfigError: settings that the archive cannot take, or a sync that would leave nothing.
    """
    from ctxdeploy.index import Index
    from ctxdeploy.index.storage.creation import check_free

    if not is_archive(archive):
        check_free(archive)
        return make_plan(None, listing)
    with Index.open(archive) as index:
        _check_settings(index, archive, config)
        return _plan(index, archive, listing, config)


def _plan(index: "Index", archive: Path, listing: "PhotoList", config: IndexingConfig) -> Plan:
    if not config.moved:
        check_origin(archive, listing)
    plan = make_plan(index, listing, retry_failed=config.retry_failed)
    if config.sync:
        check_sync(plan, archive, listing)
    return plan


def _failed_last(plan: Plan) -> dict[str, "PhotoSource"]:
    """Return what is to be done; at its head, photos that fail again would use up a share of failures at once."""
    before = set(plan.failed)
    todo = {**plan.new, **plan.changed}
    return {name: todo[name] for failed in (False, True) for name in todo if (name in before) is failed}


def _extract(
    photos: list["PhotoSource"], extractor: "Extractor", run: IndexCommitter, stages: StageTimes, display: Display
) -> None:
    """Extract photos and add them; assignment, shards and commits run in a thread beside the network."""
    from ctxdeploy.runtime import PhotoFailure

    before = replace(stages)

    def take(result: "PhotoDescriptors | PhotoFailure") -> None:
        if isinstance(result, PhotoFailure):
            run.fail(result)
        else:
            run.add(spooled(result))

    with (
        closing(extractor.extract(photos)) as results,
        display.progress("indexing", len(photos)) as bar,
        BackgroundWriter(take, _AHEAD) as writer,
    ):
        for result in results:
            start = time.perf_counter()
            writer.put(result)
            stages.blocked += time.perf_counter() - start
            stages.take(extractor.flow, before)
            bar.limited_by(stages.limit)
            bar.advance(failed=int(isinstance(result, PhotoFailure)))


def _spool_key(bundle: Bundle) -> dict[str, str]:
    return {"model": bundle.model_id, "preprocessing": bundle.preprocessing.hash}


def _open(
    archive: Path,
    listing: "PhotoList",
    bundle: Bundle,
    config: IndexingConfig,
    spool: DescriptorCache,
    trainer: CodebookTrainer,
    report: IndexingReport,
    display: Display,
) -> "Index":
    """Open the archive for writing, or make it with a codebook, which may have to be trained."""
    from ctxdeploy.index import DescriptorSource, Index, IndexConfig
    from ctxdeploy.index.storage.creation import check_free

    if not is_archive(archive):
        check_free(archive)
        with spool.locked():
            codebook = _given_codebook(config, bundle, display)
            if codebook is None:
                training = TrainingConfig(words=config.words, most_photos=config.training_photos, seed=config.seed)
                codebook = trainer.train(listing.photos, training)
                report.codebook = codebook.metadata()
            name = bundle.source.get("file", "")
            source = DescriptorSource(model=bundle.model_id, preprocessing=bundle.preprocessing.hash, description=name)
            settings = IndexConfig(geometry=config.geometry)
            return Index.create(archive, codebook, config=settings, source=source)
    index = Index.open(archive, writable=True)
    try:
        _check_settings(index, archive, config)
        check_model(index, bundle)
    except BaseException:
        index.close()
        raise
    return index


def _given_codebook(config: IndexingConfig, bundle: Bundle, display: Display) -> "Codebook | None":
    """Return the codebook that is named, or the bundle's, or None: one is to be trained."""
    if config.codebook is not None:
        return check_codebook(config.codebook, bundle.extraction.dim)
    codebook = bundle.codebook() if config.words is None else None
    if codebook is not None:
        display.say(f"the model's own codebook of {len(codebook):,} words; --words N trains one from the photos")
    return codebook


def _check_settings(index: "Index", archive: Path, config: IndexingConfig) -> None:
    """Raise ``ConfigError`` for what only a new archive takes, unless it was made so: the same command goes on."""
    from ctxdeploy.index import Codebook

    words = len(index.codebook.centroids)
    other = config.codebook is not None and Codebook.load(config.codebook).id != index.codebook.id
    if other or config.words not in (None, words):
        raise ConfigError(
            f"{archive} has a codebook of {words} words: leave out --codebook and --words, or choose another -o"
        )
    if config.geometry and not index.config.geometry:
        raise ConfigError(f"{archive} was made without --geometry: leave it out, or choose another -o")


def _leave(index: "Index", gone: list[str], config: IndexingConfig, report: IndexingReport) -> None:
    """Remove the photos whose files are gone, if that is wanted, or count them."""
    if config.sync:
        report.removed = index.remove(gone)
    else:
        report.missing = len(gone)


def _tidy(index: "Index", config: IndexingConfig, display: Display) -> int:
    """Compact if it is worth it, and remove what is no longer needed; return how many shards were merged."""
    merged = 0
    try:
        with display.steps("compacting") as step:
            merged = index.compact_if_worth_it(step)
    except StorageError as error:  # the photos are committed; a disk without room for a second copy is no failed run
        display.say(f"not compacted: {error}")
    if merged:
        display.say(f"merged {merged} shards into larger ones")
    if merged or config.collect_garbage:
        index.collect_garbage()
    return merged
