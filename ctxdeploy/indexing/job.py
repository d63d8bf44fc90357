"""Photos of a place to an archive.

    photos ─ sample ─ extract ─ cache ─ codebook ─┐
       └──────────── extract ─────────────────────┴─ add ─ commit …
                (workers, network)                  (a thread)

Everything that is committed stays: a run that was interrupted continues where it was. A run on an archive that exists
takes in what is new or changed.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.archive import (
    check_model,
    check_origin,
    check_precision,
    extraction_of,
    is_archive,
    store_model,
    store_origin,
)
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable
from ctxdeploy.indexing.codebook import CodebookTrainer, TrainingConfig, codebook_of, read_codebook
from ctxdeploy.indexing.commit import BackgroundWriter, IndexCommitter, committing, finish
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.descriptor_cache import DescriptorCache
from ctxdeploy.indexing.given_codebook import open_given
from ctxdeploy.indexing.plan import TODO, IndexingPlan, check_sync, make_plan
from ctxdeploy.indexing.quantiser import check_sample, train_quantiser
from ctxdeploy.indexing.regions import Regions, read_boxes
from ctxdeploy.indexing.report import IndexingReport

if TYPE_CHECKING:
    from ctxdeploy.core.types import PhotoDescriptors
    from ctxdeploy.index import Codebook, GlobalQuantiser, Index, IndexConfig
    from ctxdeploy.runtime import Extractor, PhotoFailure, PhotoSource
    from ctxdeploy.runtime.sources import PhotoList

# Extracted photos that may wait for the writer, 0.5 MB each at 1000 descriptors.
_MAX_WAITING = 64


class IndexingJob:
    """One run that takes photos into an archive, new or not. Use it once.

    Args:
        archive: its folder.
        extractor: the model; an archive that exists must have been made with it.
        config: codebook, commits, failures, and what happens to photos that are gone.
        display: where progress and remarks go.
        index: the archive, open for writing, which stays open; None to open or make it, and close it at the end.
        is_part: it becomes a part of another archive: neither model nor judgement is kept with it.
        training: folder of descriptors that trained the codebook; beside the archive if None. Of a part it stays.
    """

    def __init__(
        self,
        archive: Path,
        extractor: "Extractor",
        config: IndexingConfig,
        display: Display,
        index: "Index | None" = None,
        *,
        is_part: bool = False,
        training: Path | None = None,
    ) -> None:
        self._archive, self._extractor, self._config, self._display = archive, extractor, config, display
        self._given, self._is_part = index, is_part
        self._bundle = extractor.bundle
        key = {"model": self._bundle.model_id, "preprocessing": self._bundle.preprocessing.hash}
        self._cache = DescriptorCache(training or archive.with_name(archive.name + ".training"), key)
        self._trainer = CodebookTrainer(extractor, self._cache, config.failure_limit, display)
        self._boxes = {} if config.boxes is None else read_boxes(config.boxes)
        self._report = IndexingReport()
        self._start = time.monotonic()

    def place(self, photos: "PhotoList") -> IndexingReport:
        """Index the photos of a place: what is new or changed; what of it could not be listed counts as failures.

        Raises:
            MismatchError: the archive was made with another model or preprocessing.
            ArchiveError: it is damaged, or another process writes to it.
            StorageError: it cannot be written.
            NoPhotosError: no photo could be read, so that no codebook can be trained.
            ConfigError: settings that the archive cannot take, or a sync that would leave nothing.
            TooManyFailuresError, BackendError, KeyboardInterrupt: after committing what was done.
        """
        report, config = self._report, self._config
        report.found, report.left_out = len(photos.photos), photos.left_out.metadata()
        for line in photos.left_out.lines():
            self._display.say(line)
        strange = {name for name in self._boxes if photos.row(name) is None}
        if strange and not self._is_part:
            number, one = counted(len(strange), "photo"), printable(min(strange))
            self._display.say(f"--boxes names {number} that are not among these, such as {one}")
        with self._opened(photos.photos) as index:
            plan = make_checked_plan(index, self._archive, photos, config)
            report.take_plan(plan)
            # What made the photos stays known where a run adds none.
            former = None if plan.count(*TODO) else extraction_of(self._archive)
            extraction = self._extractor.description() if former is None else former
            store_origin(self._archive, photos, extraction, moved=config.moved)
            index.forget_failures(plan.settled)
            committer = self._committer(index)
            pending = plan.todo()
            with committing(committer):
                self._add_cached(pending, committer)
                # After those that succeeded: both count for a share of failures.
                for failure in (*photos.unreadable, *plan.refused, *self._trainer.failed):
                    pending.pop(failure.name, None)
                    committer.fail(failure)
                self._extract(list(pending.values()), committer)
                # Last, so that a photo that was renamed is in the archive under either name at any time.
                self._leave(index, [name for name in plan.gone if photos.is_gone(name)])
            if not self._is_part:
                finish(index, self._report, self._display, collect=self._config.collect_garbage)
        return report

    def stream(self, photos: "Iterable[PhotoSource]") -> IndexingReport:
        """Index photos as they come, whatever the archive holds: those of known names are replaced.

        A codebook that must be trained is trained from all of them, which are then held in memory.

        Raises:
            As ``place``.
        """
        report = self._report
        is_new = self._given is None and not is_archive(self._archive)
        held = list(photos) if is_new and is_trained(self._config, self._bundle) else None
        with self._opened(held or []) as index:
            committer = self._committer(index)
            with committing(committer):
                pending = {} if held is None else {photo.name: photo for photo in held}
                self._add_cached(pending, committer)
                for failure in self._trainer.failed:
                    pending.pop(failure.name, None)
                    committer.fail(failure)
                self._extract(photos if held is None else list(pending.values()), committer)
            report.found = report.indexed + report.replaced + report.failed
            finish(index, self._report, self._display, collect=self._config.collect_garbage)
        return report

    def described(self, photos: "Iterable[PhotoDescriptors]") -> IndexingReport:
        """Index photos that were described before, by the same model; those of known names are replaced.

        Raises:
            As ``place``, of an archive that exists.
        """
        with self._opened([]) as index:
            committer = self._committer(index)
            with committing(committer):
                for photo in photos:
                    committer.add(photo)
            self._report.found = self._report.indexed + self._report.replaced + self._report.failed
            finish(index, self._report, self._display, collect=self._config.collect_garbage)
        return self._report

    @contextmanager
    def _opened(self, photos: "Sequence[PhotoSource]") -> "Iterator[Index]":
        """Open the archive for writing, or make it with a codebook, which may have to be trained from ``photos``."""
        from ctxdeploy.index import Index

        if self._given is not None:
            check_settings(self._given, self._archive, self._config)
            check_model(self._given, self._bundle)
            self._check_precision()
            index = self._given
        elif is_archive(self._archive):
            index = Index.open(self._archive, writable=True)
        else:
            index = self._make(photos)
        try:
            if self._given is None:
                check_settings(index, self._archive, self._config)
                check_model(index, self._bundle)
                self._check_precision()
            if (self._config.geometry, index.config.geometry) == ("codes", "positions"):
                self._display.say(
                    f"{self._archive} keeps positions alone, as --geometry did before there were codes, and goes on "
                    "so; --verify needs codes: index the photos into another -o"
                )
            self._report.stages = self._trainer.times
            if not self._is_part:
                store_model(self._archive, self._bundle)
            yield index
        finally:
            if self._given is None:
                index.close()
        if not self._is_part:
            self._cache.remove()
        self._report.seconds = time.monotonic() - self._start

    def _check_precision(self) -> None:
        remark = check_precision(self._archive, self._bundle, self._extractor.description()["precision"])
        if remark is not None:
            self._display.say(remark)

    def _make(self, photos: "Sequence[PhotoSource]") -> "Index":
        config = self._config
        check_free(self._archive)
        codebook, settings = given_codebook(config, self._bundle), config.for_archive(self._bundle)
        check_sample(config, len(photos))
        if codebook is not None and config.codebook is None:
            self._display.say(
                f"the model's own codebook of {len(codebook):,} words; --words N trains one from the photos"
            )
        if not is_trained(config, self._bundle):
            return create_index(self._archive, codebook, self._bundle, config)
        with self._cache.locked():
            for photo in photos:
                if photo.data is not None:  # another run may have had other bytes of this name
                    self._cache.discard(photo.name)
            training = TrainingConfig(words=config.words, max_photos=config.training_photos, seed=config.seed)
            if codebook is None and gives_local(self._bundle):
                codebook = self._trainer.train(photos, training)
                self._report.codebook = codebook.metadata()
            quantiser = self._quantiser(photos, settings, training) if settings.needs_quantiser else None
            return create_index(self._archive, codebook, self._bundle, config, quantiser)

    def _quantiser(
        self, photos: "Sequence[PhotoSource]", settings: "IndexConfig", training: TrainingConfig
    ) -> "GlobalQuantiser":
        """Train the words and cells of global vectors on the sample that trains a codebook."""
        names = {photo.name for photo in self._trainer.sample(photos, training)}
        sample, times, extractor = self._cache.photos(names), self._trainer.times, self._extractor
        limit, device = extractor.config.memory_limit, extractor.device
        return train_quantiser(sample, settings, self._config, self._display, times, limit, device)

    def _committer(self, index: "Index") -> IndexCommitter:
        config, limit, device = self._config, self._extractor.config.memory_limit, self._extractor.device
        settings = (config.commit_seconds, config.failure_limit, self._display, limit, device)
        return IndexCommitter(index, self._report, *settings)

    def _add_cached(self, pending: "dict[str, PhotoSource]", committer: IndexCommitter) -> None:
        """Add photos that training has extracted; of those with boxes it has the whole alone."""
        whole = {name: photo for name, photo in pending.items() if name not in self._boxes}
        left = set(whole)
        committer.add_cached(whole, self._cache)
        for name in left - set(whole):
            del pending[name]

    def _extract(self, photos: "Iterable[PhotoSource]", committer: IndexCommitter) -> None:
        """Extract photos and add them; assignment, shards and commits run in a thread beside the network."""
        from ctxdeploy.runtime import PhotoFailure

        stages = self._report.stages
        before, total = replace(stages), len(photos) if isinstance(photos, list) else None
        if total == 0:
            return

        def take(result: "PhotoDescriptors | PhotoFailure") -> None:
            if isinstance(result, PhotoFailure):
                committer.fail(result)
            else:
                committer.add(result)

        regions = Regions(self._boxes)
        with (
            closing(self._extractor.extract(regions.spread(photos))) as results,
            self._display.progress("indexing", total) as bar,
            BackgroundWriter(take, _MAX_WAITING) as writer,
        ):
            for result in regions.join(results):
                start = time.perf_counter()
                writer.put(result)
                stages.blocked += time.perf_counter() - start
                stages.take(self._extractor.statistics, before)
                bar.limited_by(stages.limit)
                bar.advance(failed=int(isinstance(result, PhotoFailure)))

    def _leave(self, index: "Index", gone: list[str]) -> None:
        """Remove the photos whose files are gone, if that is wanted, or count them."""
        if self._config.sync:
            self._report.removed = index.remove(gone)
        else:
            self._report.missing = len(gone)


def index_photos(
    photos: "PhotoList", archive: Path, extractor: "Extractor", config: IndexingConfig, display: Display
) -> IndexingReport:
    """Index the photos of a place into an archive, new or not; see ``IndexingJob.place``."""
    return IndexingJob(archive, extractor, config, display).place(photos)


def plan_indexing(photos: "PhotoList", archive: Path, config: IndexingConfig) -> IndexingPlan:
    """Return what ``IndexingJob.place`` would do; nothing is written, and no model is needed.

    Raises:
        ArchiveError: the archive is damaged, or cannot be made because other files are there.
        ConfigError: settings that the archive cannot take, or a sync that would leave nothing.
        NoPhotosError: too few photos to train what a new archive needs.
    """
    from ctxdeploy.index import Index

    if not is_archive(archive):
        check_free(archive)
        check_sample(config, len(photos.photos))
        return make_plan(None, photos)
    with Index.open(archive) as index:
        check_settings(index, archive, config)
        return make_checked_plan(index, archive, photos, config)


def make_checked_plan(index: "Index", archive: Path, photos: "PhotoList", config: IndexingConfig) -> IndexingPlan:
    """Return a plan; ``ConfigError`` if the archive is of another place, or a sync would leave nothing."""
    if not config.moved:
        check_origin(archive, photos)
    plan = make_plan(index, photos, retry_failed=config.retry_failed)
    if config.sync:
        check_sync(plan, archive, photos)
    return plan


def gives_local(bundle: Bundle) -> bool:
    """Return whether a model gives local descriptors; of one that does not an archive keeps global vectors alone."""
    return "local" in bundle.extraction.gives


def is_trained(config: IndexingConfig, bundle: Bundle) -> bool:
    """Return whether the codebook of a new archive, or what its global vectors are coded with, is to be trained from
    its photos."""
    lacks_codebook = given_codebook(config, bundle) is None and gives_local(bundle)
    return lacks_codebook or config.for_archive(bundle).needs_quantiser


def given_codebook(config: IndexingConfig, bundle: Bundle) -> "Codebook | None":
    """Return the codebook that a configuration names, or the bundle's; None if one is to be trained, or none is needed.

    Raises:
        ConfigError: the model gives no local descriptors, and the configuration asks for what is made of them.
    """
    if not gives_local(bundle):
        given = {
            "--codebook": config.codebook is not None,
            "--words": config.words is not None,
            "--geometry": config.geometry != "none",
            "--boxes": config.boxes is not None,
        }
        flag = next((flag for flag, is_given in given.items() if is_given), None)
        if flag is not None:
            raise ConfigError(
                f"{flag} is about local descriptors, and the model {bundle.source.get('file', bundle.path.name)} gives "
                "one global vector a photo alone: leave it out"
            )
        return None
    if config.codebook is not None:
        return read_codebook(config.codebook, bundle.extraction.dim)
    return codebook_of(bundle) if config.words is None else None


def create_index(
    archive: Path,
    codebook: "Codebook | None",
    bundle: Bundle,
    config: IndexingConfig,
    quantiser: "GlobalQuantiser | None" = None,
) -> "Index":
    """Make an archive for the descriptors of a model, open for writing."""
    from ctxdeploy.index import DescriptorSource, Index

    name = bundle.source.get("file", "")
    source = DescriptorSource(model=bundle.model_id, preprocessing=bundle.preprocessing.hash, description=name)
    settings = config.for_archive(bundle)
    return Index.create(archive, codebook, config=settings, source=source, quantiser=quantiser)


def check_free(archive: Path) -> None:
    """Raise ``ArchiveError`` if an archive cannot be made in a folder because other files are there."""
    from ctxdeploy.index import Index

    Index.check_free(archive)


def check_settings(index: "Index", archive: Path, config: IndexingConfig) -> None:
    """Raise ``ConfigError`` for what only a new archive takes, unless it was made so: the same command goes on."""
    if (config.boxes is None) != (index.config.aggregation == "plain"):
        raise ConfigError(
            f"{archive} was made without --boxes: leave it out, or choose another -o"
            if config.boxes is not None
            else f"{archive} was made with --boxes: give the boxes of the photos again (--boxes FILE)"
        )
    check_global(index, archive, config)
    if not index.keeps_local:
        if config.codebook is not None or config.words is not None or config.geometry != "none":
            raise ConfigError(
                f"{archive} keeps global vectors alone: leave out --codebook, --words, --geometry, or choose another -o"
            )
        return
    words = len(index.codebook.centroids)
    other = config.codebook is not None and open_given(config.codebook).id != index.codebook.id
    if other or config.words not in (None, words):
        raise ConfigError(
            f"{archive} has a codebook of {words} words: leave out --codebook and --words, or choose another -o"
        )
    kept = index.config.geometry
    # --geometry meant positions before there were codes: the command that made such an archive goes on.
    if config.geometry not in ("none", kept) and (config.geometry, kept) != ("codes", "positions"):
        made = "without --geometry" if kept == "none" else f"with --geometry {kept}"
        raise ConfigError(f"{archive} was made {made}: leave it out, or choose another -o")


def check_global(index: "Index", archive: Path, config: IndexingConfig) -> None:
    """Raise ``ConfigError`` if an archive was made with another ``--global`` than is asked for now."""
    kept = index.config.global_vectors
    if config.global_vectors not in ("none", kept):
        made = "without --global" if kept == "none" else f"with --global {kept}"
        raise ConfigError(f"{archive} was made {made}: leave it out, or choose another -o")
    cells = index.global_cells
    if config.global_cells is not None and (not cells or config.global_cells not in (0, cells)):
        made = f"with --global-cells {cells}" if cells else "without --global-cells"
        raise ConfigError(f"{archive} was made {made}: leave it out, or choose another -o")
