"""The archive of photos: open, add, commit, search."""

import operator
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ctxdeploy.errors import ArchiveError, ConfigError, MismatchError
from ctxdeploy.index.aggregate import Aggregated, aggregate
from ctxdeploy.index.codebook import Codebook
from ctxdeploy.index.config import DescriptorSource, Hit, IndexConfig
from ctxdeploy.index.creation import create
from ctxdeploy.index.lock import WriterLock
from ctxdeploy.index.manifest import FORMAT_VERSION, read_current
from ctxdeploy.index.search import Searcher
from ctxdeploy.index.snapshot import Snapshot, open_snapshot
from ctxdeploy.index.threads import SearchThreads, checked_threads
from ctxdeploy.index.vectors import as_vectors
from ctxdeploy.index.verify import verify
from ctxdeploy.index.writer import Writer

_PathLike = str | os.PathLike[str]


class Index:
    """An archive, opened by ``Index.create`` or ``Index.open``; a context manager.

    A reader keeps the state that it opened, whatever others commit meanwhile. A writer's additions become visible to
    others, all at once, with ``commit``, which leaving the ``with`` block without an exception calls. Searching may
    happen in several threads at once; adding in one.
    """

    def __init__(self, path: Path, snapshot: Snapshot, writer: Writer | None, threads: int | None) -> None:
        self._path = path
        self._writer = writer
        self._threads = SearchThreads(checked_threads(threads))
        # Guards the writer and what a commit replaces; a search holds it only while it commits.
        self._mutex = threading.RLock()
        self._closed = False
        self._use(snapshot)

    def _use(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._searcher = Searcher(snapshot)
        self._known: dict[str, tuple[int, int]] | None = None

    @classmethod
    def create(
        cls,
        path: _PathLike,
        codebook: Codebook,
        *,
        config: IndexConfig | None = None,
        source: DescriptorSource | None = None,
        threads: int | None = None,
    ) -> Self:
        """Make an empty archive in a new folder, open for writing.

        Args:
            path: the folder, new or empty.
            codebook: copied into it.
            config: how to aggregate and compare; the defaults are those of HOW.
            source: where the descriptors will come from, for ``check_source``.
            threads: of a search; None for the processors this process may use.

        Raises:
            ArchiveError: there is an archive already, or other files.
            StorageError: it cannot be written.
        """
        folder = Path(path)
        checked_threads(threads)
        lock, snapshot = create(folder, codebook, config or IndexConfig(), source)
        return cls(folder, snapshot, Writer(folder, lock, snapshot), threads)

    @classmethod
    def open(cls, path: _PathLike, *, writable: bool = False, threads: int | None = None) -> Self:
        """Open an archive; reads the manifest, the codebook and the shards' offsets, but no postings.

        Args:
            path: the folder.
            writable: hold the lock of the one writer, until ``close``.
            threads: of a search; None for the processors this process may use.

        Raises:
            ArchiveError: no archive, damaged, of a newer format, or being written by another process.
            StorageError: ``writable``, but the folder cannot be written.
        """
        folder = Path(path)
        checked_threads(threads)
        if not writable:
            return cls(folder, open_snapshot(folder), None, threads)
        read_current(folder)  # no lock file in a folder that is no archive
        lock = WriterLock(folder)
        try:
            snapshot = open_snapshot(folder)
            return cls(folder, snapshot, Writer(folder, lock, snapshot), threads)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._writer is not None and not self._closed:
                self.commit()
        finally:
            self.close()

    def close(self) -> None:
        """Release threads and the writer's lock; additions that were not committed are lost. May be called twice."""
        self._closed = True
        self._threads.close()
        if self._writer is not None:
            self._writer.close()

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

    def add(self, name: str, vectors: Any, *, size: int = -1, mtime_ns: int = -1) -> None:
        """Add a photo; visible to others after ``commit``.

        Args:
            name: any text, new to the archive.
            vectors: n×D descriptors, or anything with an attribute ``vectors``; n = 0 is indexed and never found.
            size, mtime_ns: of the photo's file, for ``known``; -1 if unknown.

        Raises:
            ConfigError: the name is there already, or the descriptors do not fit the codebook; nothing was added.
            StorageError: a full shard could not be written.
        """
        self._writing().check_new(name)
        for value in (size, mtime_ns):
            if not -1 <= value < 1 << 63:
                raise ConfigError(f"size or mtime_ns {value} of {name!r} is outside -1..2^63")
        array = as_vectors(vectors, self.codebook.dim, name)
        words = self.codebook.assign(array, self.config.assignment)
        photo = aggregate(array, words, self.codebook.centroids, binary=self.config.binary)
        with self._mutex:
            self._writing().add(name, photo, int(size), int(mtime_ns))

    def commit(self) -> None:
        """Make all additions durable and visible, or none: files first, then the manifest that names them.

        Raises:
            StorageError: it cannot be written; the state before stays in force (or the new one already is, where only
                the last sync of the folder failed), and a later commit may succeed.
        """
        with self._mutex:
            snapshot = self._writing().commit()
            if snapshot is not self._snapshot:
                self._use(snapshot)

    def search(
        self,
        vectors: Any,
        top: int = 10,
        *,
        idf: bool | None = None,
        alpha: float | None = None,
        threshold: float | None = None,
    ) -> list[Hit]:
        """Return the best photos for a query, by falling score; equal scores: the photo added earlier first.

        Args:
            vectors: n×D descriptors, or anything with an attribute ``vectors``.
            top: hits at most; only photos with a score above 0 are hits.
            idf: weigh words by rarity; None for the archive's setting.
            alpha, threshold: of the selectivity s^alpha where s ≥ threshold, else 0; None for the archive's settings.

        A writer's additions are committed first. Without descriptors there are no hits.
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
        """As ``search`` for several queries, whose hits are the same as if searched one by one."""
        try:
            wanted = operator.index(top)
        except TypeError as error:
            raise ConfigError(f"{top!r} hits are wanted: give --top as a whole number") from error
        if isinstance(top, bool) or wanted < 1:
            raise ConfigError(f"{top} hits are wanted: give --top of at least 1")
        scoring = self.config.scoring(idf=idf, alpha=alpha, threshold=threshold)
        self._check_open()
        with self._mutex:
            if self._writer is not None:
                self.commit()
            searcher, snapshot = self._searcher, self._snapshot
        aggregated = self._aggregate([as_vectors(query, self.codebook.dim, "query") for query in queries])
        executor = self._threads.executor_for(len(snapshot.shards) * len(aggregated))
        return searcher.search(aggregated, min(wanted, max(len(snapshot), 1)), scoring=scoring, executor=executor)

    def prepare(self) -> None:
        """Load what a search needs (numba's loops, faiss: 0.5 s), so that the first query is as fast as the others.

        May run in a thread of its own, beside the extraction of the first query.
        """
        self._aggregate([self.codebook.centroids[:1]])
        if self._writer is None:
            self.search(self.codebook.centroids[:1], 1)

    def _aggregate(self, queries: list[Any]) -> list[Aggregated]:
        if not queries:
            return []
        words = self.codebook.assign(np.concatenate(queries), self.config.query_assignment)
        ends = np.cumsum([len(query) for query in queries])
        return [
            aggregate(query, part, self.codebook.centroids, binary=self.config.binary)
            for query, part in zip(queries, np.split(words, ends[:-1]), strict=True)
        ]

    def __len__(self) -> int:
        return len(self._facts())

    def __contains__(self, name: object) -> bool:
        return name in self._facts()

    def names(self) -> Iterator[str]:
        """Yield the names of all photos in order of addition, those of this writer included."""
        yield from list(self._facts())

    def known(self) -> dict[str, tuple[int, int]]:
        """Return size and time of change (ns) of each photo's file by name, -1 if unknown, for change detection."""
        return dict(self._facts())

    def _facts(self) -> dict[str, tuple[int, int]]:
        if self._writer is not None:
            return self._writer.known
        if self._known is None:
            self._known = self._snapshot.known()
        return self._known

    def record_failures(self, failures: Iterable[Mapping[str, Any]]) -> None:
        """Remember photos that could not be read: texts ``name``, ``reason``, ``stage``. Durable with ``commit``.

        A photo that is added later drops out of the list.
        """
        with self._mutex:
            self._writing().record_failures(failures)

    def forget_failures(self, names: Iterable[str]) -> None:
        """Drop photos from the list of failures, such as those whose files are gone. Durable with ``commit``."""
        with self._mutex:
            self._writing().forget_failures(names)

    def failures(self) -> list[dict[str, str]]:
        """Return the photos that could not be read, as they were recorded."""
        if self._writer is not None:
            return [dict(record) for record in self._writer.failures.values()]
        return [dict(record) for record in self._snapshot.failures.values()]

    def info(self) -> dict[str, Any]:
        """Return what the committed state holds: counts, bytes, codebook, settings and source; JSON-serialisable."""
        manifest = self._snapshot.manifest
        postings = sum(entry.postings for entry in manifest.shards)
        return {
            "path": str(self._path),
            "format_version": FORMAT_VERSION,
            "manifest": manifest.number,
            "images": manifest.images,
            "shards": len(manifest.shards),
            "postings": postings,
            "words_per_image": postings / manifest.images if manifest.images else 0.0,
            "bytes": sum(entry.bytes for entry in manifest.files),
            "codebook": self.codebook.metadata(),
            "config": manifest.config.metadata(),
            "source": None if manifest.source is None else manifest.source.metadata(),
            "failures": len(self.failures()),
        }

    def verify(self) -> list[str]:
        """Read every byte of the state in force on disk; return one line for each problem, none for a sound archive."""
        return verify(self._path)

    def collect_garbage(self) -> list[str]:
        """Remove files of interrupted and of former states; return their paths in the archive. Needs a writer."""
        with self._mutex:
            return self._writing().collect_garbage()

    def _writing(self) -> Writer:
        self._check_open()
        if self._writer is None:
            raise ConfigError(f"{self._path} is open for reading: open it with writable=True")
        return self._writer

    def _check_open(self) -> None:
        if self._closed:
            raise ArchiveError(f"{self._path} is closed: open it again")
