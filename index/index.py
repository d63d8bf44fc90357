"""The archive of photos: create, open, add, replace, remove, commit, compact, merge."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.files import WriterLock
from ctxdeploy.index.codebook.aggregate import Aggregated, aggregate, check_aggregated
from ctxdeploy.index.codebook.codebook import Codebook
from ctxdeploy.index.config import DescriptorSource, IndexConfig
from ctxdeploy.index.inputs import Photo, as_photo, as_vectors, check_file
from ctxdeploy.index.maintenance.compact import is_worth_it
from ctxdeploy.index.maintenance.merge import Merged, merge
from ctxdeploy.index.maintenance.repair import Repaired, repair
from ctxdeploy.index.maintenance.snapshots import SnapshotInfo, create_snapshot, pin_state
from ctxdeploy.index.reader import PathLike, Reader
from ctxdeploy.index.search import Searcher
from ctxdeploy.index.storage.builder import Pending
from ctxdeploy.index.storage.creation import create
from ctxdeploy.index.storage.geometry import Packed, pack
from ctxdeploy.index.storage.manifest import manifest_numbers, read_pointer
from ctxdeploy.index.storage.pins import Pin, pin_current
from ctxdeploy.index.storage.state import Snapshot, open_snapshot
from ctxdeploy.index.threads import checked_threads
from ctxdeploy.index.writer import Progress, Writer

# Photos whose descriptors are assigned in one call: assignment is fastest from some ten thousand descriptors on.
_TOGETHER = 32


class Index(Reader):
    """An archive, opened by ``Index.create`` or ``Index.open``; a context manager.

    A reader keeps the state that it opened, whatever others commit meanwhile. A writer's changes become visible to
    others, all at once, with ``commit``, which leaving the ``with`` block without an exception calls. Searching may
    happen in several threads at once; changing in one.
    """

    def __init__(self, path: Path, snapshot: Snapshot, pin: Pin | None, writer: Writer | None, threads: int) -> None:
        self._writer = writer
        super().__init__(path, snapshot, pin, threads)

    @classmethod
    def create(
        cls,
        path: PathLike,
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
            ConfigError: geometry with more than 65,536 words.
            StorageError: it cannot be written.
        """
        folder = Path(path)
        count = checked_threads(threads)
        lock, snapshot = create(folder, codebook, config or IndexConfig(), source)
        return cls(folder, snapshot, None, Writer(folder, lock, snapshot, snapshot.manifest.number), count)

    @classmethod
    def open(
        cls, path: PathLike, *, writable: bool = False, at: str | int | None = None, threads: int | None = None
    ) -> Self:
        """Open an archive; reads the manifest, headers and offsets, but no postings.

        Args:
            path: the folder.
            writable: hold the lock of the one writer, until ``close``.
            at: a snapshot's name, or the number of a manifest that is still there; None for the state in force.
            threads: of a search; None for the processors this process may use.

        Raises:
            ArchiveError: no archive, damaged, of a newer format, or being written by another process.
            ConfigError: no such snapshot, or ``at`` together with ``writable``.
            StorageError: ``writable``, but the folder cannot be written.
        """
        folder = Path(path)
        count = checked_threads(threads)
        if writable:
            if at is not None:
                raise ConfigError(f"the state {at!r} of {folder} can only be read: leave out writable or at")
            return cls._open_for_writing(folder, count)
        pin = pin_state(folder, at)
        try:
            return cls(folder, open_snapshot(folder, pin), pin, None, count)
        except BaseException:
            pin.release()
            raise

    @classmethod
    def _open_for_writing(cls, folder: Path, threads: int) -> Self:
        read_pointer(folder)  # no lock file in a folder that is no archive
        lock = WriterLock(folder)
        try:
            pin = pin_current(folder)
            try:
                snapshot = open_snapshot(folder, pin, check=True)
            finally:
                pin.release()
            number = max(manifest_numbers(folder))
            return cls(folder, snapshot, None, Writer(folder, lock, snapshot, number), threads)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def repair(path: PathLike) -> Repaired:
        """Make a damaged archive whole: drop what is damaged, and say which photos went with it; see ``repair``.

        Raises:
            ArchiveError: no archive, being written, no sound manifest left, or the codebook is damaged.
            StorageError: the folder cannot be written.
        """
        return repair(Path(path))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._writer is not None and not self._closed:
                self.commit()
        finally:
            self.close()

    def close(self) -> None:
        """Release threads and the writer's lock; changes that were not committed are lost. May be called twice."""
        super().close()
        if self._writer is not None:
            self._writer.close()

    def add(
        self,
        name: str,
        vectors: Any,
        *,
        positions: Any = None,
        scales: Any = None,
        size: int = -1,
        mtime_ns: int = -1,
        replace: bool = False,
    ) -> None:
        """Add a photo, or replace the one of that name; visible to others after ``commit``.

        Args:
            name, vectors, positions, scales, size, mtime_ns: see ``Photo``.
            replace: take the place of a photo of the same name, if there is one.

        Raises:
            ConfigError: the name is there already, or the descriptors do not fit the codebook; nothing was added.
            StorageError: a full shard could not be written.
        """
        photo = Photo(name=name, vectors=vectors, positions=positions, scales=scales, size=size, mtime_ns=mtime_ns)
        if not replace:
            self._check_new(name)
        self._add([photo], replace)

    def add_many(self, photos: Iterable[Photo | tuple[str, Any]], *, replace: bool = False) -> int:
        """Add photos from a stream, 32 at a time, which assigns faster than one by one; return how many.

        Args:
            photos: ``Photo`` or (name, vectors).
            replace: take the place of photos of the same names.

        Raises:
            ConfigError, StorageError: as ``add``; the photos before the one in question may be added, 32 being checked
                before the first of them is added.
        """
        stream = iter(photos)
        count = 0
        while group := [as_photo(item) for item in islice(stream, _TOGETHER)]:
            count += self._add(group, replace)
        return count

    def add_aggregated(
        self, name: str, photo: Aggregated, *, size: int = -1, mtime_ns: int = -1, replace: bool = False
    ) -> None:
        """Add a photo whose words and codes were computed elsewhere, such as on another machine (``aggregate``).

        Raises:
            ConfigError: as ``add``, or words or codes that no aggregation makes; or the archive keeps geometry.
            StorageError: a full shard could not be written.
        """
        check_aggregated(photo, words=len(self.codebook), dim=self.codebook.dim, binary=self.config.binary, name=name)
        if self.config.geometry:
            raise ConfigError(f"{name!r}: the archive keeps geometry: add descriptors with positions")
        check_file(name, size, mtime_ns)
        with self._mutex:
            pending = Pending(name=name, photo=photo, size=int(size), mtime_ns=int(mtime_ns))
            self._writing().add(pending, replacing=replace)

    def _add(self, photos: Sequence[Photo], replace: bool) -> int:
        self._writing()
        for photo in photos:
            check_file(photo.name, photo.size, photo.mtime_ns)
        arrays = [as_vectors(photo.vectors, self.codebook.dim, photo.name) for photo in photos]
        ends = np.cumsum([len(array) for array in arrays])
        joined = np.concatenate(arrays)
        assigned = self.codebook.assign(joined, self.config.assignment, threads=self._threads)
        for photo, array, words in zip(photos, arrays, np.split(assigned, ends[:-1]), strict=True):
            aggregated = aggregate(array, words, self.codebook.centroids, binary=self.config.binary)
            pending = Pending(
                name=photo.name,
                photo=aggregated,
                size=int(photo.size),
                mtime_ns=int(photo.mtime_ns),
                geometry=self._geometry(photo, words),
            )
            with self._mutex:
                self._writing().add(pending, replacing=replace)
        return len(photos)

    def _geometry(self, photo: Photo, words: Any) -> Packed | None:
        if not self.config.geometry:
            return None
        positions = getattr(photo.vectors, "positions", None) if photo.positions is None else photo.positions
        scales = getattr(photo.vectors, "scales", None) if photo.scales is None else photo.scales
        return pack(words[:, 0], positions, scales, photo.name)

    def _check_new(self, name: str) -> None:
        with self._mutex:
            if name in self._writing():
                raise ConfigError(f"{name!r} is in the archive already: leave it out, or replace it (replace=True)")

    def remove(self, names: str | Iterable[str]) -> int:
        """Remove photos by name; return how many there were. Gone for others after ``commit``.

        Their postings stay on disk until a compaction; ``compact(purge=True)`` and ``collect_garbage`` take them away.
        """
        with self._mutex:
            return self._writing().remove([names] if isinstance(names, str) else names)

    def merge(self, other: PathLike, *, conflicts: str = "error") -> Merged:
        """Take the photos of another archive with the same codebook; visible to others after ``commit``.

        Args:
            other: its folder; it stays as it is.
            conflicts: for names in both: "error", "keep" this archive's photo, or "replace" it.

        Raises:
            ConfigError: names in both and ``conflicts`` is "error".
            MismatchError: another codebook, model, preprocessing or way of aggregating.
            ArchiveError: the other archive is damaged.
            StorageError: this one cannot be written.
        """
        with self._mutex, Index.open(other) as opened:
            if opened.path.resolve() == self._path.resolve():
                raise ConfigError(f"{other} cannot be merged into itself")
            return merge(self._writing(), self._path, opened._snapshot, conflicts)

    def compact(self, *, purge: bool = False, progress: Progress | None = None) -> int:
        """Merge small shards, and those with many removed photos, into large ones; return how many were merged.

        Commits. The files of the old shards stay until ``collect_garbage``. Memory: about 1.2 GB for full shards.

        Args:
            purge: rewrite every shard with a removed photo, so that nothing of it is left after garbage collection.
            progress: called with photos written, and of how many.

        Raises:
            ArchiveError: one of those shards is damaged: a merge would hide it.
            StorageError: no room for the new shards.
        """
        with self._mutex:
            merged = self._writing().compact(purge=purge, progress=progress)
            self._use(self._writing().snapshot)
            return merged

    def compact_if_worth_it(self, progress: Progress | None = None) -> int:
        """Compact if eight shards could be merged, or a shard has lost a fifth of its photos; else return 0."""
        self.commit()
        if not is_worth_it(self._snapshot.manifest.shards, self.config.shard_images):
            return 0
        return self.compact(progress=progress)

    def commit(self) -> None:
        """Make all changes durable and visible, or none: files first, then the manifest that names them.

        Raises:
            StorageError: it cannot be written; the state before stays in force (or the new one already is, where only
                the last sync of the folder failed), and a later commit may succeed.
        """
        with self._mutex:
            snapshot = self._writing().commit()
            if snapshot is not self._snapshot:
                self._use(snapshot)

    def snapshot(self, name: str) -> SnapshotInfo:
        """See ``Reader.snapshot``."""
        if self._writer is None:
            return super().snapshot(name)
        with self._mutex:
            self.commit()
            pin = pin_current(self._path)
            try:
                return create_snapshot(self._path, name, pin)
            finally:
                pin.release()

    def _current(self) -> tuple[Searcher, Snapshot]:
        if self._writer is not None:
            with self._mutex:
                self.commit()
        return super()._current()

    def __len__(self) -> int:
        if self._writer is None:
            return super().__len__()
        with self._mutex:
            return len(self._writer)

    def __contains__(self, name: object) -> bool:
        if self._writer is None:
            return super().__contains__(name)
        with self._mutex:
            return name in self._writer

    def names(self) -> Iterator[str]:
        """Yield the names of all photos, those of this writer included, in the order of the shards."""
        if self._writer is None:
            yield from super().names()
        else:
            yield from self.known()

    def known(self) -> dict[str, tuple[int, int]]:
        """Return size and time of change (ns) of each photo's file by name, -1 if unknown, for change detection."""
        if self._writer is None:
            return super().known()
        with self._mutex:
            return dict(self._writer.known())

    def record_failures(self, failures: Iterable[Mapping[str, Any]]) -> None:
        """Remember photos that could not be read: texts ``name``, ``reason``, ``stage``; numbers ``seconds``, and
        ``size`` and ``mtime_ns`` of the file, where they are known. Durable with ``commit``.

        A photo that is added later drops out of the list.
        """
        with self._mutex:
            self._writing().record_failures(failures)

    def forget_failures(self, names: Iterable[str]) -> None:
        """Drop photos from the list of failures, such as those whose files are gone. Durable with ``commit``."""
        with self._mutex:
            self._writing().forget_failures(names)

    def failures(self) -> list[dict[str, Any]]:
        """Return the photos that could not be read, as they were recorded."""
        if self._writer is None:
            return super().failures()
        return [dict(record) for record in self._writer.failures.values()]

    def collect_garbage(self) -> list[str]:
        """Remove files of interrupted and former states that no snapshot and no reader needs; return their paths."""
        with self._mutex:
            return self._writing().collect_garbage()

    def _writing(self) -> Writer:
        self._check_open()
        if self._writer is None:
            raise ConfigError(f"{self._path} is open for reading: open it with writable=True")
        return self._writer
