"""A folder of photos to an archive.

    photos ─ sample ─ extract ─ spool ─ codebook ─┐
       └──────────── extract ─────────────────────┴─ add ─ commit …

Everything that is committed stays: a run that was interrupted continues where it was. A run on an archive that exists
takes in what is new or changed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.adding import Adding, IndexingReport
from ctxdeploy.archive import check_model, check_origin, is_archive, store_model, store_origin
from ctxdeploy.bundle import Bundle
from ctxdeploy.errors import BackendError, ConfigError, StorageError
from ctxdeploy.planning import Plan, check_sync, is_gone, make_plan
from ctxdeploy.progress import Display
from ctxdeploy.spool import Spool
from ctxdeploy.training import TrainingConfig, train_codebook

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook, Index
    from ctxdeploy.runtime import Extractor, PhotoFailure, PhotoSource


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
        geometry: keep the position and scale of each descriptor. Only for a new archive.
        sync: remove the archive's photos whose files are gone.
        collect_garbage: remove files of interrupted runs and former states at the end, even if nothing was compacted.
    """

    codebook: Path | None = None
    words: int | None = None
    training_photos: int = 5000
    seed: int = 0
    commit_seconds: float = 60.0
    geometry: bool = False
    sync: bool = False
    collect_garbage: bool = False

    def __post_init__(self) -> None:
        from ctxdeploy.index.config import MAX_WORDS

        if self.codebook is not None and self.words is not None:
            raise ConfigError("--codebook and --words exclude each other: a given codebook has its size")
        if self.words is not None and not 1 <= self.words <= MAX_WORDS:
            raise ConfigError(f"--words {self.words} is outside 1..{MAX_WORDS}")
        if self.training_photos < 1:
            raise ConfigError(f"--training-photos {self.training_photos} must be positive")


def index_photos(
    folder: Path,
    photos: list["PhotoSource"],
    archive: Path,
    extractor: "Extractor",
    config: IndexingConfig,
    display: Display,
    *,
    unreadable: Sequence["PhotoFailure"] = (),
) -> IndexingReport:
    """Index photos into an archive, new or not.

    Args:
        folder: that the photos' names are relative to.
        photos: what to index.
        archive: its folder.
        extractor: the model; an archive must have been made with it.
        config: codebook, commits, and what happens to what is gone.
        display: where progress and remarks go.
        unreadable: folders that could not be listed; they count as failures.

    Raises:
        MismatchError: the archive was made with another model or preprocessing.
        ArchiveError: it is damaged, or another process writes to it.
        StorageError: it cannot be written.
        NoPhotosError: no photo could be read, so that no codebook can be trained.
        ConfigError: settings that the archive cannot take, or a sync that would leave nothing.
        BackendError, KeyboardInterrupt: after committing what was done.
    """
    start = time.monotonic()
    report = IndexingReport(found=len(photos))
    bundle = extractor.bundle
    spool = Spool(archive.with_name(archive.name + ".training"), _spool_key(bundle))
    with _open(archive, photos, extractor, config, spool, display, report) as index:
        plan = _plan(index, archive, folder, photos, config, unreadable)
        report.unchanged, report.changed = plan.unchanged, len(plan.changed)
        store_origin(archive, folder, extractor.description())
        store_model(archive, bundle)
        run = Adding(index, report, config.commit_seconds)
        index.forget_failures(plan.settled)
        for failure in unreadable:
            run.fail(failure)
        pending = {**plan.new, **plan.changed}
        try:
            run.add_spooled(pending, spool)
            if pending:
                with display.progress("indexing", len(pending)) as bar:
                    run.add_extracted(extractor.extract(list(pending.values())), bar)
        except (KeyboardInterrupt, BackendError):
            run.commit()
            raise
        # Last, so that a photo that was renamed is in the archive under either name at any time.
        _leave(index, [name for name in plan.gone if is_gone(folder / name)], config, report)
        run.commit()
        report.compacted = _tidy(index, config, display)
    spool.remove()
    report.seconds = time.monotonic() - start
    return report


def plan_indexing(
    folder: Path,
    photos: list["PhotoSource"],
    archive: Path,
    config: IndexingConfig,
    unreadable: Sequence["PhotoFailure"] = (),
) -> Plan:
    """Return what ``index_photos`` would do; nothing is written, and no model is needed.

    Raises:
        ArchiveError: the archive is damaged, or cannot be made because other files are there.
        ConfigError: settings that the archive cannot take, or a sync that would leave nothing.
    """
    from ctxdeploy.index import Index
    from ctxdeploy.index.creation import check_free

    if not is_archive(archive):
        check_free(archive)
        return make_plan(None, folder, photos, unreadable)
    with Index.open(archive) as index:
        _check_settings(index, archive, config)
        return _plan(index, archive, folder, photos, config, unreadable)


def _plan(
    index: "Index",
    archive: Path,
    folder: Path,
    photos: list["PhotoSource"],
    config: IndexingConfig,
    unreadable: Sequence["PhotoFailure"],
) -> Plan:
    check_origin(archive, folder)
    plan = make_plan(index, folder, photos, unreadable)
    if config.sync:
        check_sync(plan, archive, folder)
    return plan


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
    from ctxdeploy.index import DescriptorSource, Index, IndexConfig
    from ctxdeploy.index.creation import check_free

    bundle = extractor.bundle
    if not is_archive(archive):
        check_free(archive)
        with spool.locked():
            codebook = _codebook(photos, extractor, config, spool, display, report)
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


def _check_settings(index: "Index", archive: Path, config: IndexingConfig) -> None:
    """Raise ``ConfigError`` for what only a new archive takes."""
    if config.codebook is not None or config.words is not None:
        raise ConfigError(f"{archive} has a codebook: leave out --codebook and --words, or choose another -o")
    if config.geometry and not index.config.geometry:
        raise ConfigError(f"{archive} was made without --geometry: leave it out, or choose another -o")


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
