"""What every opened archive can do: search, and say what it holds."""

import operator
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ctxdeploy.core.errors import ArchiveError, ConfigError, MismatchError
from ctxdeploy.index.codebook.aggregate import Aggregated, aggregate
from ctxdeploy.index.codebook.assignment import Cells
from ctxdeploy.index.codebook.codebook import Codebook
from ctxdeploy.index.config import DescriptorSource, Hit, IndexConfig
from ctxdeploy.index.inputs import as_vectors
from ctxdeploy.index.maintenance.snapshots import SnapshotInfo, create_snapshot, list_snapshots, remove_snapshot
from ctxdeploy.index.maintenance.verify import verify
from ctxdeploy.index.search import Searcher
from ctxdeploy.index.storage.geometry import Geometry
from ctxdeploy.index.storage.manifest import FORMAT_VERSION
from ctxdeploy.index.storage.names import NameIndex
from ctxdeploy.index.storage.pins import Pin
from ctxdeploy.index.storage.shard import Shard
from ctxdeploy.index.storage.state import Snapshot
from ctxdeploy.index.threads import SearchThreads

PathLike = str | os.PathLike[str]


class Reader:
    """An archive as it was when it was opened, whatever others commit meanwhile. Every method may be called in threads.

    Not made directly: see ``Index.open``.
    """

    def __init__(self, path: Path, snapshot: Snapshot, pin: Pin | None, threads: int) -> None:
        self._path = path
        self._pin = pin
        self._threads = SearchThreads(threads)
        # Guards the writer and what a commit replaces; a search holds it only while it commits.
        self._mutex = threading.RLock()
        self._closed = False
        self._use(snapshot)

    def _use(self, snapshot: Snapshot) -> None:
        self._names: NameIndex | None = None
        self._searcher = Searcher(snapshot)
        self._snapshot = snapshot  # last: where an interrupt comes before, the next commit does it all again

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release threads, and the state for garbage collection. May be called twice."""
        self._closed = True
        self._threads.close()
        if self._pin is not None:
            self._pin.release()

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def config(self) -> IndexConfig:
        """How the archive aggregates and compares."""
        return self._snapshot.manifest.config

    @property
    def codebook(self) -> Codebook:
        """The archive's visual words."""
        return self._snapshot.codebook

    @property
    def source(self) -> DescriptorSource | None:
        """Where its descriptors came from; None if its maker did not say."""
        return self._snapshot.manifest.source

    def check_source(self, *, model: str, preprocessing: str) -> None:
        """Raise ``MismatchError`` if descriptors of this model or preprocessing do not belong to those of the archive.

        An archive without a source takes any.
        """
        source = self.source
        if source is None:
            return
        of = f" ({source.description})" if source.description else ""
        for what, mine, other in (
            ("model", source.model, model),
            ("preprocessing", source.preprocessing, preprocessing),
        ):
            if mine != other:
                raise MismatchError(
                    f"{self._path} was made with {what} {mine}{of}, but the descriptors come from {what} {other}: "
                    "query with the right --model, or make a new archive with  ctxdeploy index"
                )

    def search(
        self,
        vectors: Any,
        top: int = 10,
        *,
        idf: bool | None = None,
        alpha: float | None = None,
        threshold: float | None = None,
    ) -> list[Hit]:
        """Return the best photos for a query, by falling score; equal scores: by name (its bytes).

        Args:
            vectors: n×D descriptors, or anything with an attribute ``vectors``.
            top: hits at most; only photos with a score above 0 are hits.
            idf: weigh words by rarity; None for the archive's setting.
            alpha, threshold: of the selectivity s^alpha where s ≥ threshold, else 0; None for the archive's settings.

        A writer's changes are committed first. Without descriptors there are no hits. Scores do not depend on the order
        of addition, on shards, on threads, or on other queries of a batch.
        """
        return self.search_batch([vectors], top, idf=idf, alpha=alpha, threshold=threshold)[0]

    def search_batch(
        self,
        queries: Sequence[Any],
        top: int = 10,
        *,
        idf: bool | None = None,
        alpha: float | None = None,
        threshold: float | None = None,
    ) -> list[list[Hit]]:
        """As ``search`` for several queries, with the same hits; from 32 on, a posting is read once for all of them."""
        scoring = self.config.scoring(idf=idf, alpha=alpha, threshold=threshold)
        wanted = _checked_top(top)
        searcher, snapshot = self._current()
        aggregated = self._aggregate([as_vectors(query, self.codebook.dim, "query") for query in queries])
        top = min(wanted, max(len(snapshot), 1))
        return searcher.search(aggregated, top, scoring=scoring, threads=self._threads)

    def _current(self) -> tuple[Searcher, Snapshot]:
        """Return what a search goes over."""
        self._check_open()
        with self._mutex:
            return self._searcher, self._snapshot

    def prepare(self) -> None:
        """Load what a search needs, so that the first query is as fast as the others; touches a few pages of the files.

        That is numba and its loops, 0.2 s once in a process, and the photos' factors, 2 ms a million. May run in a
        thread of its own, beside the extraction of the first query.
        """
        self._check_open()
        with self._mutex:
            snapshot = self._snapshot
        snapshot.factors(self.config.idf)
        few = self.codebook.centroids[:64]
        number = np.arange(len(few), dtype=np.int32)
        ends = np.array([0, len(few) // 2, len(few)], np.int32)
        cells = None if self.codebook.cells is None else Cells(centres=few[:2], order=number, offsets=ends, probes=2)
        words = Codebook(few, cells=cells).assign(few, self.config.query_assignment, threads=self._threads)
        query = aggregate(few, words, few, binary=self.config.binary)
        part = Snapshot(snapshot.manifest, self.codebook, snapshot.shards[:1])
        Searcher(part).search([query], 1, scoring=self.config.scoring(idf=False))

    def aggregate(self, vectors: Any) -> Aggregated:
        """Return a photo's words and codes as ``Index.add`` computes them, for ``Index.add_aggregated`` elsewhere.

        Args:
            vectors: n×D descriptors, or anything with an attribute ``vectors``.
        """
        array = as_vectors(vectors, self.codebook.dim, "photo")
        words = self.codebook.assign(array, self.config.assignment)
        return aggregate(array, words, self.codebook.centroids, binary=self.config.binary)

    def _aggregate(self, queries: list[Any]) -> list[Aggregated]:
        if not queries:
            return []
        joined = np.concatenate(queries)
        words = self.codebook.assign(joined, self.config.query_assignment, threads=self._threads)
        ends = np.cumsum([len(query) for query in queries])
        return [
            aggregate(query, part, self.codebook.centroids, binary=self.config.binary)
            for query, part in zip(queries, np.split(words, ends[:-1]), strict=True)
        ]

    def __len__(self) -> int:
        return len(self._snapshot)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._place(name) is not None

    def _place(self, name: str) -> tuple[Shard, int] | None:
        """Return shard and number of a photo of the opened state."""
        with self._mutex:  # shards and table of one state, whatever is committed meanwhile
            shards = self._snapshot.shards
            names = self._names = self._names or NameIndex(shards)
        places = (place for place in names.find(name) if shards[place[0]].live[place[1]])
        return next(((shards[shard], number) for shard, number in places), None)

    def names(self) -> Iterator[str]:
        """Yield the names of all photos in the order of the shards."""
        yield from self._snapshot.names()

    def known(self) -> dict[str, tuple[int, int]]:
        """Return size and time of change (ns) of each photo's file by name, -1 if unknown, for change detection."""
        return self._snapshot.known()

    def geometry(self, name: str) -> Geometry | None:
        """Return words, positions and scales of a photo's features; None in an archive that does not keep them.

        A writer's changes are committed first.

        Raises:
            ConfigError: no photo of that name.
        """
        self._current()
        place = self._place(name)
        if place is None:
            raise ConfigError(f"{name!r} is not in {self._path}")
        shard, number = place
        return shard.geometry(number)

    def failures(self) -> list[dict[str, Any]]:
        """Return the photos that could not be read, as they were recorded."""
        return [dict(record) for record in self._snapshot.failures.values()]

    def info(self) -> dict[str, Any]:
        """Return what the opened state holds: counts, bytes, codebook, settings and source; JSON-serialisable."""
        manifest = self._snapshot.manifest
        postings = sum(entry.postings for entry in manifest.shards)
        photos = sum(entry.images for entry in manifest.shards)
        return {
            "path": str(self._path),
            "format_version": FORMAT_VERSION,
            "manifest": manifest.number,
            "images": manifest.images,
            "removed": photos - manifest.images,
            "shards": len(manifest.shards),
            "postings": postings,
            "words_per_image": postings / photos if photos else 0.0,
            "bytes": sum(entry.bytes for entry in manifest.files),
            "codebook": self.codebook.metadata(),
            "config": manifest.config.metadata(),
            "source": None if manifest.source is None else manifest.source.metadata(),
            "snapshots": [info.name for info in list_snapshots(self._path)],
            "failures": len(self.failures()),
        }

    def verify(self) -> list[str]:
        """Read every byte of the state in force on disk, and of the snapshots; return one line for each problem."""
        return verify(self._path)

    def snapshot(self, name: str) -> SnapshotInfo:
        """Keep the opened state under a name: ``Index.open(path, at=name)`` finds it whatever happens later.

        Needs no lock: another process may be writing. A writer's changes are committed first.

        Raises:
            ConfigError: not a valid name (letters, digits, ``.-_``), or one that exists.
            StorageError: the folder cannot be written.
        """
        self._check_open()
        if self._pin is None:
            raise ArchiveError(f"{self._path} is not held: open it again")
        return create_snapshot(self._path, name, self._pin)

    def snapshots(self) -> list[SnapshotInfo]:
        """Return the archive's snapshots, by name."""
        return list_snapshots(self._path)

    def remove_snapshot(self, name: str) -> None:
        """Forget a snapshot; the next garbage collection removes what only it needed."""
        self._check_open()
        remove_snapshot(self._path, name)

    def _check_open(self) -> None:
        if self._closed:
            raise ArchiveError(f"{self._path} is closed: open it again")


def _checked_top(top: Any) -> int:
    try:
        wanted = operator.index(top)
    except TypeError as error:
        raise ConfigError(f"{top!r} hits are wanted: give --top as a whole number") from error
    if isinstance(top, bool) or wanted < 1:
        raise ConfigError(f"{top} hits are wanted: give --top of at least 1")
    return wanted
