"""Photos of a place to an archive, extracted on a cluster: lists go out, segments come back, one commit takes them in.

What is finished lies beside the archive, in ``<archive>.parts``: a run that was interrupted goes on from there.
"""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.archive import has_model, is_archive, open_model
from ctxdeploy.cluster.config import ClusterConfig, SegmentConfig
from ctxdeploy.cluster.destination import Destination, destination_of
from ctxdeploy.cluster.lists import NameList, name_lists, todo_count
from ctxdeploy.cluster.progress import ClusterProgress, forget_progress
from ctxdeploy.cluster.publish import publish
from ctxdeploy.cluster.ray_pool import RayPool
from ctxdeploy.cluster.segment import (
    codebook_path,
    find_segments,
    finished_in,
    holds_work,
    model_path,
    store_model_beside,
    store_shared,
)
from ctxdeploy.cluster.training import ClusterTraining
from ctxdeploy.cluster.worker import WorkerSpec
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.bundle import open as open_bundle
from ctxdeploy.core.files import make_folder, remove_folder
from ctxdeploy.core.locks import WriterLock
from ctxdeploy.core.progress import Display
from ctxdeploy.indexing.commit import finish
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.job import check_free, check_settings, is_trained, make_checked_plan
from ctxdeploy.indexing.plan import IndexingPlan, make_plan
from ctxdeploy.indexing.report import IndexingReport

if TYPE_CHECKING:
    from ctxdeploy.cluster.unit import Receipt
    from ctxdeploy.runtime.sources import PhotoList


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
        self._descriptors = self._archive.with_name(self._archive.name + ".training")
        self._training = ClusterTraining(self._parts, self._descriptors, self._bundle, config, display)
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
        # Of one driver. Without locks two would do the same lists twice: segments and archive have leases of their own.
        lock = WriterLock(self._parts, needed=False)
        try:
            forget_progress(self._parts)
            self._publish()  # what an earlier run has finished
            segment = self._segment_config(photos)
            destination = destination_of(segment, self._bundle)
            plan = self._plan(photos)
            if todo_count(plan) or photos.unreadable:
                lists = name_lists(photos, plan, self._cluster.list_size)
                self._extract(lists, todo_count(plan), self._filled(segment, destination))
            self._finish(photos, plan)
        finally:
            if not holds_work(self._parts):
                remove_folder(self._parts)
            lock.release()
        self._report.seconds = time.monotonic() - start
        return self._report

    def _segment_config(self, photos: "PhotoList") -> SegmentConfig:
        config, limit = self._config, self._config.failure_limit
        given = self._archive if is_archive(self._archive) else config.codebook
        if given != self._archive and is_trained(config, self._bundle):
            given = self._training.archive(photos, self._describe, self._report, self._spec.extraction.memory_limit)
        return SegmentConfig(
            codebook=given,
            geometry=config.geometry,
            global_vectors=config.global_vectors,
            boxes=None if config.boxes is None else config.boxes.resolve(),
            failure_limit=replace(limit, share=None),  # a share is one of all photos
            commit_seconds=config.commit_seconds,
        )

    def _describe(self, lists: list[NameList]) -> set[str]:
        """Let the workers extract the descriptors of a sample; return the names that could not be read."""
        store_model_beside(self._parts, self._bundle)
        spec = replace(self._spec, parts=self._parts, model=self._model, training=self._descriptors)
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
        given = segment.codebook
        if (given is None or not is_archive(given)) and destination.codebook is not None:
            segment = replace(segment, codebook=codebook_path(self._parts, destination.codebook.id))
        return replace(self._spec, parts=self._parts, model=self._model, segment=segment, training=self._descriptors)

    @property
    def _model(self) -> Path:
        """Where all machines see the model."""
        return model_path(self._parts, self._bundle.model_id, self._bundle.preprocessing.hash)

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
        report.take_plan(plan)
        report.unchanged -= report.indexed + report.replaced
        for line in photos.left_out.lines():
            self._display.say(line)
        return plan

    def _extract(self, lists: Iterable[NameList], total: int, spec: WorkerSpec) -> None:
        pool = RayPool(self._cluster, spec, self._display)
        try:
            with self._display.progress("indexing", total) as bar:
                shown = ClusterProgress(bar, self._parts, self._report.stages)
                for reply in pool.run(lists, look=lambda: shown.look(pool.running)):
                    if reply.receipt is not None:
                        shown.take(reply.part.number, reply.receipt)
                        self._count(reply.receipt, reply.reasons or Counter())
        finally:  # Ctrl-C too: what is finished is kept, and seen
            pool.close()
            self._publish()

    def _count(self, receipt: "Receipt", reasons: Counter[str]) -> None:
        # Not new is a segment whose worker was lost before it could say so; it is of this run as well.
        self._reasons.update(reasons)
        self._tried += receipt.photos
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
            other = {failure.name for failure in (*plan.refused, *photos.unreadable)}
            report.failures = [
                failure for failure in index.failures() if plan.is_todo(failure["name"]) or failure["name"] in other
            ]
            report.failed = len(report.failures)
            finish(index, report, self._display, collect=self._config.collect_garbage)
        self._training.forget()
        remove_folder(self._parts)
