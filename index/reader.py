"""Reading an archive: searches in one of its states, and what that state holds."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.device import CUDA, Device
from ctxdeploy.core.errors import ArchiveError, ConfigError, MismatchError, MissingExtraError
from ctxdeploy.core.extras import require
from ctxdeploy.core.part import Part
from ctxdeploy.core.text import printed_names
from ctxdeploy.core.types import FileState, LocalDescriptors
from ctxdeploy.index.codebook.aggregation import Aggregated, aggregate
from ctxdeploy.index.codebook.codebook import Codebook
from ctxdeploy.index.config import DescriptorSource, IndexConfig
from ctxdeploy.index.global_index import search_global
from ctxdeploy.index.inputs import as_vectors, make_photo
from ctxdeploy.index.maintenance.snapshots import SnapshotInfo, list_snapshots
from ctxdeploy.index.maintenance.verify import verify
from ctxdeploy.index.search import Searcher
from ctxdeploy.index.search_device import SearchPlace
from ctxdeploy.index.searches import Searches
from ctxdeploy.index.storage.manifest import CODEBOOK, Manifest
from ctxdeploy.index.storage.positions import Features, check_positions, features_of
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.stored import by_shard
from ctxdeploy.index.subset import Subset, select

Result = TypeVar("Result")


class Reader(Searches):
    """An opened state of an archive. Several threads may call every method at once.

    Args:
        folder: the archive.
        state: opened.
        threads: of a search, the calling one included.
    """

    def __init__(self, folder: Path, state: State, threads: int) -> None:
        super().__init__(folder, state, threads)
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the threads, and the memory of a GPU; may be called twice."""
        self._closed = True
        self._threads.close()
        self._searcher.close()

    def search_on(self, device: Device) -> None:
        """Search on a GPU from now on, to which all postings are copied: 7 GB a million photos.

        Hits and scores stay those of the CPU, bit by bit. So do searches among photos, for all pairs and by several
        queries; ``scores``, ``common_words`` and ``search_global`` run on the CPU.

        Args:
            device: ``cuda``; with another kind nothing changes.

        Raises:
            MissingExtraError: numba-cuda is not installed.
            BackendError: there is no such GPU, numba-cuda cannot use it, or the postings do not fit.
            ConfigError: an archive without postings, or with float residuals.
        """
        self._check_open()
        if device.kind == CUDA:
            try:
                require("numba.cuda", "cuda")
            except MissingExtraError:
                raise MissingExtraError("numba-cuda", "cuda") from None
            from ctxdeploy.index.gpu.searcher import open_gpu

            self._searcher = open_gpu(device, self.state)

    @property
    def device(self) -> str:
        """Where the postings are searched: ``cpu``, or such as ``cuda:0``; the CPU too once a GPU has failed."""
        return self._searcher.device

    @property
    def search_place(self) -> SearchPlace:
        """Where a search runs now: the device, and threads of the CPU."""
        return SearchPlace.of(self.device, self._threads.count)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder

    @property
    def state(self) -> State:
        """The state that is read, a writer's as of its last commit: for measurements."""
        return self._searcher.state

    @property
    def manifest(self) -> Manifest:
        """What was committed as this state: its number, files and settings."""
        return self.state.manifest

    @property
    def config(self) -> IndexConfig:
        """How the archive aggregates and compares."""
        return self.state.manifest.config

    @property
    def codebook(self) -> Codebook:
        """The archive's visual words; ``ConfigError`` in an archive of global vectors alone."""
        return self.state.codebook

    @property
    def keeps_local(self) -> bool:
        """Whether there are a codebook and postings; else there are global vectors alone."""
        return self.state.manifest.codebook is not None

    @property
    def global_cells(self) -> int:
        """Cells that its global vectors are partitioned into; 0 where every search compares all photos."""
        quantiser = self.state.quantiser
        return 0 if quantiser is None or quantiser.cells is None else len(quantiser.cells)

    @property
    def codebook_path(self) -> Path:
        """The file of the archive's codebook; ``ConfigError`` in an archive of global vectors alone."""
        self.state.check_local()
        return self._folder / CODEBOOK

    @property
    def source(self) -> DescriptorSource | None:
        """Where its descriptors came from; None if its maker did not say."""
        return self.state.manifest.source

    def check_source(self, *, model: str, preprocessing: str) -> None:
        """Raise ``MismatchError`` if descriptors of this model or preprocessing do not belong to those of the archive.

        An archive without a source takes any.
        """
        source = self.source
        if source is None:
            return
        of = f" ({source.description})" if source.description else ""
        pairs = (("model", source.model, model), ("preprocessing", source.preprocessing, preprocessing))
        for what, mine, other in pairs:
            if mine != other:
                raise MismatchError(
                    f"{self._folder} was made with {what} {mine}{of}, but the descriptors come from {what} {other}: "
                    "query with the right --model, or make a new archive with  ctxdeploy index"
                )

    def prepare(self) -> None:
        """Load what a search needs, so that the first query is as fast as the others; touches few pages of shards.

        That is numba and its loops, 0.2 s once in a process, the words in int8, 15 ms at 65,536 words, the photos'
        factors, 2 ms a million, and where each name is, 0.1 s a million.
        """
        self._check_open()
        state = self.state
        state.find("")
        if self.config.keeps_global:
            first = by_shard(state, [(0, int(np.argmax(state.shards[0].live)))] if state.shards else [])
            search_global(state, np.zeros((1, self.config.global_dim), np.float32), 1, among=first)
        if not self.keeps_local:
            return
        state.factors(self.config.idf and not state.needs_counts)
        few = self.codebook.centroids[:64]
        words = self.codebook.assign(few, self.config.query_assignment, threads=self._threads)
        query = aggregate(few, words, self.codebook.centroids, binary=self.config.binary)
        self._searcher.prepare(query)
        if state.shards:
            select(state.over(state.manifest, state.shards[:1]), [""], [state.shards[0].name(0)])

    def for_query(self, deadline: Deadline | None = None) -> Self:
        """Return what one query asks: an archive that is here, itself; see ``QueriedIndex``."""
        return self

    def settled(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns; see ``QueriedIndex``."""
        return work()

    def is_ready(self) -> bool:
        """Return whether a query can be asked now; see ``QueriedIndex``."""
        return True

    @property
    def missing(self) -> tuple[Part, ...]:
        """Parts of the archive that are not searched: none of one that is here."""
        return ()

    def reached(self, among: Subset | None) -> int:
        """Return how many photos a search goes over: those of ``among``, or all."""
        return len(self) if among is None else len(among)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Prepare in a thread of its own while the block runs, which may load a network."""

        def work() -> None:
            with suppress(Exception):  # a search raises it again
                self.prepare()

        # A daemon, for which an interrupted process does not wait: it may be inside a library that is being loaded.
        thread = threading.Thread(target=work, name="ctxdeploy-prepare", daemon=True)
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def aggregate(self, vectors: Any) -> Aggregated:
        """Return a photo's words and codes as ``add`` computes them, for ``add_aggregated`` elsewhere.

        Args:
            vectors: n×D descriptors, or anything with an attribute ``vectors``.
        """
        array = as_vectors(vectors, self.codebook.dim, "photo")
        words = self.codebook.assign(array, self.config.assignment)
        return aggregate(array, words, self.codebook.centroids, binary=self.config.binary)

    def __len__(self) -> int:
        return len(self.state)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.state.find(name) is not None

    def names(self) -> Iterator[str]:
        """Yield the names of all photos, a writer's included, in the order of the shards."""
        return self.state.names()

    def held_names(self, names: Sequence[str]) -> set[str]:
        """Return those of some names that photos have."""
        return {name for name in names if name in self}

    def printed_name(self, text: str) -> str:
        """Return the one name that is printed so, if it is a text that stands for another; else the text itself."""
        return printed_names([text], self.state.unprintable if "\\" in text else ()).get(text, text)

    def known(self) -> dict[str, FileState | None]:
        """Return the state of each photo's file by name, None if it is not known, for change detection."""
        return dict(self.state.known())

    def file_of(self, name: str) -> FileState | None:
        """Return the state of a photo's file as it was indexed, None if it is not known.

        Raises:
            ConfigError: there is no photo of that name.
        """
        state = self.state
        place = state.find(name)
        if place is None:
            raise self.no_photo(name)
        return state.shards[place[0]].file(place[1])

    def failures(self) -> list[dict[str, Any]]:
        """Return the photos that could not be read, as they were recorded."""
        return [dict(record) for record in self.state.failures.values()]

    def features(self, query: str | LocalDescriptors, *, size: tuple[int, int] | None = None) -> Features | None:
        """Return the features of a photo, by rising word: what geometric verification compares.

        Args:
            query: the name of a photo of the archive, or descriptors with positions.
            size: (width, height) in pixels of the photo whose descriptors are given.

        Returns:
            Of a name: what the archive keeps (``config.geometry``); None in an archive that keeps no geometry. Of
            descriptors: words, codes and vectors as well, whatever the archive keeps.

        A writer's changes are committed first.

        Raises:
            ConfigError: no photo of that name, or descriptors that do not fit, or without positions.
        """
        self._check_open()
        if not isinstance(query, str):
            given = make_photo("query", query, self.codebook.dim).descriptors
            check_positions(given, "query")
            words = self.codebook.assign(given.vectors, 1, threads=self._threads)[:, 0]
            return features_of(given, words, self.codebook.centroids, size=size)
        return self.stored_features([query])[query]

    def stored_features(self, names: Sequence[str]) -> dict[str, Features | None]:
        """Return ``features`` of each of some photos of the archive."""
        state = self._committed().state
        places = self._places(state, names)
        return {name: state.shards[shard].features(n) for name, (shard, n) in zip(names, places, strict=True)}

    def photo_size(self, name: str) -> tuple[int, int] | None:
        """Return (width, height) of a photo in pixels; None without geometry, or if there is no such photo.

        A writer's changes are committed first.
        """
        return self.photo_sizes([name])[name]

    def photo_sizes(self, names: Sequence[str]) -> dict[str, tuple[int, int] | None]:
        """Return ``photo_size`` of each of some photos."""
        state = self._committed().state
        places = {name: state.find(name) for name in names}
        return {name: None if place is None else self._size_at(place) for name, place in places.items()}

    def _size_at(self, place: tuple[int, int]) -> tuple[int, int] | None:
        shard, number = place
        sizes = self.state.shards[shard].geometry_sizes
        if sizes is None:
            return None
        width, height = map(int, sizes[number])
        return (width, height) if width and height else None

    def check_keeps(self, geometry: str, what: str, *, otherwise: str = "") -> None:
        """Raise ``ConfigError`` unless the archive keeps enough of its features.

        Args:
            geometry: what is needed of them: "positions", "codes" or "descriptors".
            what: that needs it, such as "--verify", for the text.
            otherwise: what can be done instead of making another archive, for the text.
        """
        if not self.config.keeps(geometry):
            raise self.keeps_too_little(geometry, what, otherwise=otherwise)

    def keeps_too_little(self, geometry: str, what: str, *, otherwise: str = "") -> ConfigError:
        """Return the error of an archive that keeps too little of its features; see ``check_keeps``."""
        kept = self.config.geometry
        has = "nothing of its photos' features" if kept == "none" else f"no {geometry} of its photos' features"
        value = " descriptors" if geometry == "descriptors" else ""
        return ConfigError(
            f"{self._folder} keeps {has}, but {what} compares their {geometry}: index the photos into a new archive:  "
            f"ctxdeploy index PLACE -o NEW --geometry{value}{f'  ; or {otherwise}' if otherwise else ''}"
        )

    def info(self) -> dict[str, Any]:
        """Return what the opened state holds: counts, bytes, codebook, settings and source; JSON-serialisable."""
        manifest = self.state.manifest
        postings = sum(entry.postings for entry in manifest.shards)
        photos = sum(entry.images for entry in manifest.shards)
        return {
            "path": str(self._folder),
            "format_version": manifest.format_version,
            "manifest": manifest.number,
            "images": manifest.images,
            "removed": photos - manifest.images,
            "shards": len(manifest.shards),
            "postings": postings,
            "words_per_image": postings / photos if photos else 0.0,
            "bytes": sum(entry.bytes for entry in manifest.files),
            "codebook": self.codebook.metadata() if self.keeps_local else None,
            "config": manifest.config.metadata(),
            "source": None if self.source is None else self.source.metadata(),
            "snapshots": [info.name for info in list_snapshots(self._folder)],
            "failures": len(self.failures()),
            "features": self._features_info(),
            "global": self._global_info(),
        }

    def _global_info(self) -> dict[str, Any]:
        """Return how global vectors are kept and searched, their dimension, bytes of one, and cells."""
        config = self.config
        facts = {"kept": config.global_vectors, "dim": config.global_dim, "bytes_each": config.global_bytes}
        return {**facts, "search": config.global_search, "cells": self.global_cells}

    def _features_info(self) -> dict[str, Any]:
        """Return what is kept of features: the setting, how many there are, and bytes of one, without its posting."""
        offsets = (shard.geometry_offsets for shard in self.state.shards)
        return {
            "kept": self.config.geometry,
            "count": sum(int(ends[-1]) for ends in offsets if ends is not None),
            "bytes_each": self.config.feature_bytes(self.state.manifest.dim),
        }

    def verify(self) -> list[str]:
        """Read every byte of the state in force on disk, and of the snapshots; return one line for each problem."""
        return verify(self._folder)

    def snapshots(self) -> list[SnapshotInfo]:
        """Return the archive's snapshots, by name."""
        return list_snapshots(self._folder)

    def _committed(self) -> Searcher:
        self._check_open()
        return self._searcher

    def _check_open(self) -> None:
        if self._closed:
            raise ArchiveError(f"{self._folder} is closed: open it again")
