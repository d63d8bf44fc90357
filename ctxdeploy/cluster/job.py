"""Photos of a place to an archive, extracted on a cluster: lists go out, segments come back, one commit takes them in.

What is finished lies beside the archive, in ``<archive>.parts``: a run that was interrupted goes on from there.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.archive import has_model, is_archive, open_model
from ctxdeploy.cluster.config import ClusterConfig, SegmentConfig
from ctxdeploy.cluster.destination import Destination, destination_of
from ctxdeploy.cluster.publish import publish
from ctxdeploy.cluster.ray_pool import RayPool
from ctxdeploy.cluster.segment import (
    codebook_path,
    find_segments,
    finished_in,
    model_path,
    store_model_beside,
    store_shared,
)
from ctxdeploy.cluster.worker import NameList, WorkerSpec, training_cache
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.bundle import open as open_bundle
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.files import make_folder, remove_folder, settings_sha256
from ctxdeploy.core.part import Part
from ctxdeploy.core.progress import Display
from ctxdeploy.indexing.codebook import TrainingConfig, draw_sample, train_codebook
from ctxdeploy.indexing.commit import finish
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.job import check_free, check_settings, is_trained, make_checked_plan
from ctxdeploy.indexing.plan import IndexingPlan, make_plan
from ctxdeploy.indexing.report import IndexingReport

if TYPE_CHECKING:
    from ctxdeploy.cluster.worker import Reply
    from ctxdeploy.runtime.sources import PhotoList

# Photos of a list of the sample that trains a codebook: it is small, and all workers are to have some of it.
_SAMPLE_LIST = 100


class ClusterJob:
    """One run that takes the photos of a place into an archive, new or not, with the machines of a cluster.

    Args:
        archive: its folder, under a path that all machines see.
        model: folder of the bundle, of an archive that is new or has none.
        config: as of a run on one machine.
        cluster: which one, and how its machines are used.
        spec: what workers need to know; paths and codebook are filled in.
        display: where progress and remarks go.
    """

    def __init__(
        self,
        archive: Path,
        model: Path | None,
        config: IndexingConfig,
        cluster: ClusterConfig,
        spec: WorkerSpec,
        display: Display,
    ) -> None:
        self._archive, self._config, self._cluster = archive.resolve(), config, cluster
        self._parts = self._archive.with_name(self._archive.name + ".parts")
        self._display, self._spec = display, spec
        own = has_model(self._archive) and model is None
        self._bundle = open_model(self._archive) if own or model is None else open_bundle(model)
        if config.for_archive(self._bundle).needs_quantiser:
            raise ConfigError(
                "--global pq and --global-cells train on photos, which --cluster does not do: index some of them on "
                "one machine, and go on with --cluster on that archive, without these"
            )
        self._training = self._archive.with_name(self._archive.name + ".training")
        self._report = IndexingReport()
        self._reasons: Counter[str] = Counter()
        self._tried = 0

    @property
    def bundle(self) -> Bundle:
        """The model."""
        return self._bundle

    def run(self, photos: "PhotoList") -> IndexingReport:
        """Index the photos of a place: what is new or changed.

        Raises:
            As ``IndexingJob.place``; ``ConfigError`` without a cluster, or a codebook.
        """
        start = time.monotonic()
        if not is_archive(self._archive):
            check_free(self._archive)
        make_folder(self._parts, advice="choose another -o")
        self._publish()  # what an earlier run has finished
        segment = self._segment_config(photos)
        destination = destination_of(segment, self._bundle)
        plan = self._plan(photos)
        lists = name_lists(photos, plan, self._cluster.list_size)
        if lists:
            self._extract(lists, self._filled(segment, destination))
        self._finish(photos, plan)
        self._report.seconds = time.monotonic() - start
        return self._report

    def _segment_config(self, photos: "PhotoList") -> SegmentConfig:
        config, limit = self._config, self._config.failure_limit
        given = self._archive if is_archive(self._archive) else config.codebook
        if given is None and is_trained(config, self._bundle):
            given = self._trained(photos)
        return SegmentConfig(
            codebook=given,
            geometry=config.geometry,
            global_vectors=config.global_vectors,
            boxes=None if config.boxes is None else config.boxes.resolve(),
            failure_limit=replace(limit, share=None),  # a share is one of all photos
            commit_seconds=config.commit_seconds,
        )

    def _trained(self, photos: "PhotoList") -> Path:
        """Return the file of a codebook that is trained on a sample, which the workers extract; once."""
        config = self._config
        training = TrainingConfig(words=config.words, max_photos=config.training_photos, seed=config.seed)
        key = {"model": self._bundle.model_id, "preprocessing": self._bundle.preprocessing.hash, **asdict(training)}
        file = self._parts / f"trained-{settings_sha256(key)[:32]}.safetensors"
        if file.exists():
            return file
        sample, cache = draw_sample(photos.photos, training), training_cache(self._training, self._bundle)
        lists = cut_lists(sorted(photo.name for photo in sample), min(self._cluster.list_size, _SAMPLE_LIST))
        with cache.locked():
            failed = self._describe(lists)
            limit, dim = self._spec.extraction.memory_limit, self._bundle.extraction.dim
            codebook = train_codebook(cache, sample, failed, training, self._display, memory_limit=limit, dim=dim)
        codebook.save(file)
        self._report.codebook = codebook.metadata()
        return file

    def _describe(self, lists: list[NameList]) -> set[str]:
        """Let the workers extract the descriptors of a sample; return the names that could not be read."""
        store_model_beside(self._parts, self._bundle)
        model = model_path(self._parts, self._bundle.model_id, self._bundle.preprocessing.hash)
        spec = replace(self._spec, parts=self._parts, model=model, training=self._training)
        failed: set[str] = set()
        pool, reasons, tried = RayPool(self._cluster, spec, self._display), Counter[str](), 0
        try:
            with self._display.progress("extracting for the codebook", sum(len(one.names) for one in lists)) as bar:
                for reply in pool.run(lists, method="describe"):
                    failed.update(reply.failed)
                    reasons.update(reply.reasons or {})
                    done = (reply.described or 0) + len(reply.failed)
                    tried += done
                    bar.advance(done, failed=len(reply.failed))
                    self._config.failure_limit.check(reasons, tried)
        finally:
            pool.close()
        return failed

    def _filled(self, segment: SegmentConfig, destination: Destination) -> WorkerSpec:
        """Return what workers need to know, with model and codebook where all machines see them."""
        store_shared(self._parts, destination, self._bundle)
        if segment.codebook != self._archive and destination.codebook is not None:
            segment = replace(segment, codebook=codebook_path(self._parts, destination.codebook.id))
        model = model_path(self._parts, self._bundle.model_id, self._bundle.preprocessing.hash)
        return replace(self._spec, parts=self._parts, model=model, segment=segment, training=self._training)

    def _plan(self, photos: "PhotoList") -> IndexingPlan:
        from ctxdeploy.index import Index

        report = self._report
        if is_archive(self._archive):
            with Index.open(self._archive) as index:
                check_settings(index, self._archive, self._config)
                plan = make_checked_plan(index, self._archive, photos, self._config)
        else:
            plan = make_plan(None, photos)
        report.found, report.left_out = len(photos.photos), photos.left_out.metadata()
        # What an interrupted run had finished counts as done by this one.
        report.unchanged = plan.unchanged - report.indexed - report.replaced
        report.changed, report.given_up = len(plan.changed), len(plan.given_up)
        for line in photos.left_out.lines():
            self._display.say(line)
        return plan

    def _extract(self, lists: list[NameList], spec: WorkerSpec) -> None:
        sizes = {one.part.number: len(one.names) for one in lists}
        pool = RayPool(self._cluster, spec, self._display)
        try:
            with self._display.progress("indexing", sum(sizes.values())) as bar:
                for reply in pool.run(lists):
                    bar.advance(sizes[reply.part.number], failed=0 if reply.receipt is None else reply.receipt.failed)
                    self._count(reply)
        finally:  # Ctrl-C too: what is finished is kept, and seen
            pool.close()
            self._publish()

    def _count(self, reply: "Reply") -> None:
        if reply.receipt is not None and reply.receipt.is_new:
            self._reasons.update(reply.reasons or {})
            self._tried += reply.receipt.photos
            self._config.failure_limit.check(self._reasons, self._tried)

    def _publish(self) -> None:
        """Take in what is finished."""
        if not finished_in(self._parts):
            return
        found = find_segments([self._parts])
        receipt = publish(self._archive, found.segments, self._display, moved=self._config.moved)
        self._report.indexed += receipt.totals["added"]
        self._report.replaced += receipt.totals["replaced"]

    def _finish(self, photos: "PhotoList", plan: IndexingPlan) -> None:
        """Do what concerns the archive as a whole; its parts are not needed any more."""
        from ctxdeploy.index import Index

        report = self._report
        with Index.open(self._archive, writable=True) as index:
            index.forget_failures(plan.settled)
            gone = [name for name in plan.gone if photos.is_gone(name)]
            if self._config.sync:
                report.removed = index.remove(gone)
            else:
                report.missing = len(gone)
            index.commit()
            tried = {*plan.new, *plan.changed, *(failure.name for failure in (*plan.refused, *photos.unreadable))}
            report.failures = [failure for failure in index.failures() if failure["name"] in tried]
            report.failed = len(report.failures)
            finish(index, report, self._display, collect=self._config.collect_garbage)
        training_cache(self._training, self._bundle).remove()
        remove_folder(self._parts)


def name_lists(photos: "PhotoList", plan: IndexingPlan, size: int) -> list[NameList]:
    """Return what is to be done, in lists that are cut from all names: after an interruption they are the same ones.

    Args:
        photos: of the place.
        plan: what of them is to be done.
        size: photos of a list at most.
    """
    todo = {*plan.new, *plan.changed, *(failure.name for failure in plan.refused)}
    whole = cut_lists([photo.name for photo in photos.photos], size)
    lists = [replace(one, names=[name for name in one.names if name in todo]) for one in whole]
    lists[0] = replace(lists[0], unlisted=photos.unreadable)
    return [one for one in lists if one.names or one.unlisted]


def cut_lists(names: Sequence[str], size: int) -> list[NameList]:
    """Return names, which are sorted, in lists of so many; one at least."""
    count = max(-(-len(names) // size), 1)
    return [
        NameList(part=Part(number=number, count=count), names=names[(number - 1) * size : number * size])
        for number in range(1, count + 1)
    ]
