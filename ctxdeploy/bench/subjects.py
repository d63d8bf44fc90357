"""What a worker process measures: one class per kind of case, made from settings that fit into JSON."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ctxdeploy.bench.inputs import draw_queries
from ctxdeploy.bench.machine import GpuMemory
from ctxdeploy.bench.stages import PhotoStages, Sample, SearchStages
from ctxdeploy.bench.statistics import timed
from ctxdeploy.core.errors import ConfigError


class Subject(Protocol):
    """What is measured.

    Attributes:
        items: photos, queries or pieces of work that a window goes through.
        facts: what really runs; JSON-serialisable.
        gpu: memory of a GPU that it uses; None where it uses none.
    """

    items: int
    facts: dict[str, Any]
    gpu: GpuMemory | None

    def warm(self) -> None:
        """Do what only the first run of a process has to do."""

    def run(self, items: Sequence[int]) -> list[Sample]:
        """Measure items in order."""


@dataclass(frozen=True, kw_only=True)
class PhotoSettings:
    """Photos through a bundle.

    Attributes:
        bundle: its folder.
        photos: files.
        backend, precision, threads, device: as ``BackendConfig``.
        batch: photos at once; above 1 the network alone is measured.
    """

    bundle: str
    photos: Sequence[str]
    backend: str = "auto"
    precision: str = "fp32"
    threads: int | None = None
    device: str = "auto"
    batch: int = 1

    def open(self) -> PhotoStages:
        """Load the bundle and the photos."""
        from ctxdeploy.core import bundle
        from ctxdeploy.runtime import BackendConfig

        config = BackendConfig(name=self.backend, precision=self.precision, device=self.device, threads=self.threads)
        opened = bundle.open(self.bundle, check_hashes=False)
        return PhotoStages(opened, config, [Path(photo) for photo in self.photos])


class PhotoSubject:
    """Photos one at a time through all stages, or batches through the network."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = PhotoSettings(**settings)
        self._stages = self._settings.open()
        self.gpu = self._stages.gpu
        self.items = len(self._settings.photos)
        self.facts = _engine_facts(self._stages)
        low, high = 1, self._settings.batch
        if not low <= high <= 1024:
            raise ConfigError(f"a batch of {high} photos is outside 1..1024: give another --batch-sizes")

    def warm(self) -> None:
        """Run a photo of each shape, which engines prepare for."""
        shapes: dict[tuple[int, ...], int] = {}
        for number, pixels in enumerate(self._stages.pixels):
            shapes.setdefault(pixels.shape, number)
        self.run(list(shapes.values()))

    def run(self, items: Sequence[int]) -> list[Sample]:
        """As ``Subject.run``."""
        if self._settings.batch > 1:
            return [self._stages.batch(number, self._settings.batch) for number in items]
        return [self._stages.extract(number)[0] for number in items]


class SearchSubject:
    """Queries of synthetic descriptors against an archive.

    Settings: archive, at (a snapshot or None), threads, queries, descriptors, seed, top, batch.
    """

    gpu = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from ctxdeploy.index import Index

        self._batch, self._top = int(settings["batch"]), int(settings["top"])
        opened, index = timed(lambda: Index.open(settings["archive"], at=settings["at"], threads=settings["threads"]))
        prepared, _ = timed(index.prepare)
        self._stages = SearchStages(index, settings["threads"], self._top)
        self._queries = draw_queries(index, settings["queries"], settings["descriptors"], settings["seed"])
        self.items = len(self._queries)
        self.facts = {
            "photos": len(index),
            "postings": index.info()["postings"],
            "bytes": index.info()["bytes"],
            "search": self._stages.place.metadata(),
            "open_seconds": opened,
            "prepare_seconds": prepared,
            "query_words": float(np.median([len(self._stages.query(query).words) for query in self._queries])),
            "bytes_read": [self._stages.bytes_read(query) for query in self._queries],
        }

    def warm(self) -> None:
        """Ask every query: a service that has run for a while has all of its postings mapped."""
        self.run(range(self.items))

    def run(self, items: Sequence[int]) -> list[Sample]:
        """As ``Subject.run``; a batch begins with its item."""
        if self._batch == 1:
            return [self._stages.search(self._queries[number])[0] for number in items]
        return [self._together(number) for number in items]

    def _together(self, number: int) -> Sample:
        queries = [self._queries[(number + i) % self.items] for i in range(self._batch)]
        seconds, _ = timed(lambda: self._stages.index.search_batch(queries, self._top))
        return Sample(seconds=seconds, stages={})


class IndexingSubject:
    """Indexing as a whole, as ``PhotoIndex.add`` does it: a folder, with a codebook that is there.

    It has one item; its seconds are those of a photo.

    Settings: those of ``PhotoSettings``, folder, codebook, work.
    """

    gpu = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from ctxdeploy.core import bundle
        from ctxdeploy.runtime import BackendConfig, Extractor

        config = BackendConfig(
            name=settings["backend"],
            precision=settings["precision"],
            device=settings.get("device", "auto"),
            threads=settings["threads"],
        )
        self._extractor = Extractor(bundle.open(settings["bundle"], check_hashes=False), backend=config)
        self._folder, self._codebook = settings["folder"], Path(settings["codebook"])
        self._work = settings["work"]
        self.items = 1
        self.facts = self._extractor.description()

    def warm(self) -> None:
        """Index once."""
        self.run([0])

    def run(self, items: Sequence[int]) -> list[Sample]:
        """As ``Subject.run``; stages are those of ``StageTimes``, a photo, beside each other."""
        return [self._once() for _ in items]

    def _once(self) -> Sample:
        from ctxdeploy.indexing.config import IndexingConfig
        from ctxdeploy.photo_index import PhotoIndex

        folder = Path(tempfile.mkdtemp(dir=self._work, prefix="archive-"))
        try:
            config = IndexingConfig(codebook=self._codebook)
            with PhotoIndex.create(folder / "a.ctxindex", config=config, extractor=self._extractor) as made:
                report = made.add(self._folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if report.failed or not report.indexed:
            raise ConfigError(f"{report.failed} of {report.found} photos cannot be read: bench with others")
        stages = {name: seconds / report.indexed for name, seconds in vars(report.stages).items() if name != "limit"}
        return Sample(seconds=report.seconds / report.indexed, stages=stages)


class AddingSubject:
    """Photos one at a time into an archive, every stage by itself: read to network, assign, aggregate, write.

    Settings: those of ``PhotoSettings``, codebook, work. What is written is committed after each turn.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from ctxdeploy.index import Codebook

        own = {"codebook", "work"}
        self._settings = PhotoSettings(**{key: value for key, value in settings.items() if key not in own})
        self._stages = self._settings.open()
        self._codebook, self._work = Codebook.load(settings["codebook"]), settings["work"]
        self.gpu = self._stages.gpu
        self.items = len(self._settings.photos)
        self.facts = _engine_facts(self._stages)

    def warm(self) -> None:
        """Add all photos once."""
        self.run(range(self.items))

    def run(self, items: Sequence[int]) -> list[Sample]:
        """As ``Subject.run``."""
        from ctxdeploy.index import Index
        from ctxdeploy.index.codebook import aggregate

        folder = Path(tempfile.mkdtemp(dir=self._work, prefix="archive-"))
        samples = []
        try:
            with Index.create(folder / "a.ctxindex", self._codebook) as index:
                for number in items:
                    sample, vectors = self._stages.extract(number)
                    assigned, words = timed(partial(self._codebook.assign, vectors, index.config.assignment))
                    spent, photo = timed(partial(aggregate, vectors, words, self._codebook.centroids, binary=True))
                    added, _ = timed(partial(index.add_aggregated, f"{number}", photo))
                    samples.append((sample, {"assign": assigned, "aggregate": spent, "write": added}))
                committed, _ = timed(index.commit)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        share = committed / len(samples)
        return [_extended(sample, {**rest, "write": rest["write"] + share}) for sample, rest in samples]


class QuerySubject:
    """Query photos to hits, every stage by itself: read, decode, scale, network, assign, aggregate, scan, top-k.

    Settings: those of ``PhotoSettings``, archive, search_threads, top.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from ctxdeploy.index import Index

        own = {"archive", "search_threads", "top"}
        self._photos = PhotoSettings(**{key: value for key, value in settings.items() if key not in own}).open()
        threads = settings["search_threads"]
        index = Index.open(settings["archive"], threads=threads)
        index.prepare()
        self._search = SearchStages(index, threads, settings["top"])
        self.gpu = self._photos.gpu
        self.items = len(settings["photos"])
        self.facts = {
            **_engine_facts(self._photos),
            "photos": len(index),
            "search": self._search.place.metadata(),
        }

    def warm(self) -> None:
        """Ask every photo once."""
        self.run(range(self.items))

    def run(self, items: Sequence[int]) -> list[Sample]:
        """As ``Subject.run``."""
        samples = []
        for number in items:
            sample, vectors = self._photos.extract(number)
            found, _ = self._search.search(vectors)
            samples.append(_extended(sample, found.stages))
        return samples


def _extended(sample: Sample, stages: dict[str, float]) -> Sample:
    return Sample(seconds=sample.seconds + sum(stages.values()), stages={**sample.stages, **stages})


def _engine_facts(stages: PhotoStages) -> dict[str, Any]:
    backend = stages.backend
    return {
        "backend": backend.name,
        "backend_version": backend.version,
        "device": backend.device,
        "precision": backend.precision,
        "threads": backend.threads,
        "shapes": [list(pixels.shape[:2]) for pixels in stages.pixels],
    }
