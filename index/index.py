"""The archive as people hold it: create and open; ``Reader`` reads its state, ``Writer`` holds the changes."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.device import CUDA, Device
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import FileState, PhotoDescriptors
from ctxdeploy.index.codebook.aggregation import Aggregated, check_aggregated
from ctxdeploy.index.codebook.codebook import Codebook
from ctxdeploy.index.codebook.quantiser import GlobalQuantiser
from ctxdeploy.index.config import DescriptorSource, IndexConfig, Progress
from ctxdeploy.index.folder import ArchiveFolder
from ctxdeploy.index.inputs import Item, as_names, as_photos, check_file, make_photo, with_global
from ctxdeploy.index.maintenance.compact import compact, is_worth_it
from ctxdeploy.index.maintenance.garbage import collect_garbage
from ctxdeploy.index.maintenance.merge import Merged, merge
from ctxdeploy.index.maintenance.segments import Published, publish_segments
from ctxdeploy.index.maintenance.snapshots import SnapshotInfo, create_snapshot, pin_state, remove_snapshot
from ctxdeploy.index.maintenance.sorting import sort_photos
from ctxdeploy.index.reader import Reader
from ctxdeploy.index.search import Searcher
from ctxdeploy.index.storage.pending import Pending
from ctxdeploy.index.storage.pins import Pin, pin_current
from ctxdeploy.index.storage.state import State, create_state, open_state
from ctxdeploy.index.writer import Writer, make_pending, open_writer

PathLike = str | os.PathLike[str]
# Photos whose descriptors are assigned in one call: assignment is fastest from some ten thousand descriptors on.
_TOGETHER = 32


class Index(Reader, ArchiveFolder):
    """An archive, opened by ``Index.create`` or ``Index.open``; a context manager.

    Opened for reading, it keeps the state that it opened. Opened for writing, its changes become visible to others, all
    at once, with ``commit``, which leaving the ``with`` block without an exception calls. Several threads may search.
    """

    def __init__(self, folder: Path, state: State, threads: int, *, pin: Pin | None, writer: Writer | None) -> None:
        super().__init__(folder, state, threads)
        self._pin = pin
        self._writer = writer
        # Guards the writer and what a commit replaces; a search holds it only while it commits.
        self._mutex = threading.RLock()

    @classmethod
    def create(
        cls,
        path: PathLike,
        codebook: Codebook | None,
        *,
        config: IndexConfig | None = None,
        source: DescriptorSource | None = None,
        quantiser: GlobalQuantiser | None = None,
        threads: int | None = None,
    ) -> Self:
        """Make an empty archive in a new folder, open for writing.

        Args:
            path: the folder, new or empty.
            codebook: copied into it; None for an archive of global vectors alone, which ``config`` then keeps.
            config: how to aggregate and compare; the defaults are those of HOW.
            source: where the descriptors will come from, for ``check_source``.
            quantiser: of global vectors kept as "pq" or searched by "ivf"; copied into it.
            threads: of a search; None for the processors this process may use.

        Raises:
            ArchiveError: there is an archive already, or other files.
            ConfigError: geometry with more than 65,536 words; neither a codebook nor global vectors.
            StorageError: it cannot be written.
        """
        folder = Path(path)
        count = checked_threads(threads)
        lease, state = create_state(folder, codebook, config or IndexConfig(), source, quantiser)
        return cls(folder, state, count, pin=None, writer=Writer(folder, lease, state, state.manifest.number))

    @classmethod
    def open(
        cls,
        path: PathLike,
        *,
        writable: bool = False,
        at: str | int | None = None,
        threads: int | None = None,
        device: str = "cpu",
    ) -> Self:
        """Open an archive; reads the manifest, headers and offsets, but no postings.

        Args:
            path: the folder.
            writable: hold the lock of the one writer, until ``close``.
            at: a snapshot's name, or the number of a manifest that is still there; None for the state in force.
            threads: of a search; None for the processors this process may use.
            device: where postings are searched: "cpu", or "cuda:0" for the first GPU (``search_on``).

        Raises:
            ArchiveError: not an archive, damaged, of a newer format, or being written by another process.
            ConfigError: no such snapshot, or ``at`` or a GPU together with ``writable``; and as ``search_on``.
            StorageError: ``writable``, but the folder cannot be written.
            BackendError, MissingExtraError: as ``search_on``.
        """
        folder = Path(path)
        count = checked_threads(threads)
        where = Device.parse(device, "--search-device")
        if writable:
            if at is not None:
                raise ConfigError(f"the state {at!r} of {folder} can only be read: leave out writable or at")
            if where.kind == CUDA:
                raise ConfigError(f"{folder} is searched on the CPU while it is written: leave out writable or device")
            writer = open_writer(folder)
            return cls(folder, writer.state, count, pin=None, writer=writer)
        pin = pin_state(folder, at)
        try:
            opened = cls(folder, open_state(folder, pin), count, pin=pin, writer=None)
            opened.search_on(where)
            return opened
        except BaseException:
            pin.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._writer is not None and not self._closed:
                self.commit()
        finally:
            self.close()

    def close(self) -> None:
        """Release threads, the state for garbage collection, and the writer's lock; may be called twice.

        Changes that were not committed are lost.
        """
        super().close()
        if self._pin is not None:
            self._pin.release()
        if self._writer is not None:
            self._writer.close()

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
        """Yield the names of all photos, those that are not committed included, in the order of the shards."""
        if self._writer is None:
            return super().names()
        with self._mutex:
            return iter(list(self._writer.names()))

    def known(self) -> dict[str, FileState | None]:
        """Return the state of each photo's file by name, None if it is not known, for change detection."""
        if self._writer is None:
            return super().known()
        with self._mutex:
            return dict(self._writer.known())

    def failures(self) -> list[dict[str, Any]]:
        """Return the photos that could not be read, as they were recorded."""
        if self._writer is None:
            return super().failures()
        with self._mutex:
            return [dict(record) for record in self._writer.failures.values()]

    def snapshot(self, name: str) -> SnapshotInfo:
        """Keep the opened state under a name: ``Index.open(path, at=name)`` finds it whatever happens later.

        Needs no lock: another process may be writing. A writer's changes are committed first.

        Raises:
            ConfigError: not a valid name (letters, digits, ``.-_``), or one that exists.
            StorageError: the folder cannot be written.
        """
        with self._mutex:
            self._committed()
            if self._pin is not None:
                return create_snapshot(self._folder, name, self._pin)
            pin = pin_current(self._folder)
            try:
                return create_snapshot(self._folder, name, pin)
            finally:
                pin.release()

    def remove_snapshot(self, name: str) -> None:
        """Forget a snapshot; the next garbage collection removes what only it needed."""
        self._check_open()
        remove_snapshot(self._folder, name)

    def add(
        self,
        name: str,
        vectors: Any,
        *,
        global_descriptor: Any = None,
        positions: Any = None,
        scales: Any = None,
        size: tuple[int, int] | None = None,
        file: FileState | None = None,
        replace: bool = False,
    ) -> None:
        """Add a photo, or replace the one of that name; visible to others after ``commit``.

        Args:
            name: any text.
            vectors: n×D descriptors, or anything with an attribute ``vectors``; n = 0 is indexed and never found. An
                archive without a codebook leaves them out, so that None does, too.
            global_descriptor: a ``GlobalDescriptor`` or D' numbers, of length 1 or all 0, for an archive that keeps
                global vectors, and for none else.
            positions: n×2, x and y, for archives with geometry; by default the attribute of ``vectors``.
            scales: n, as ``positions``; 1 if there are none.
            size: (width, height) of the photo in pixels, which archives with codes keep.
            file: state of the photo's file, for ``known``.
            replace: take the place of a photo of the same name, if there is one.

        Raises:
            ConfigError: the name is there already, or the descriptors do not fit the codebook; nothing was added.
            StorageError: a full shard could not be written.
        """
        if not replace and name in self:
            raise ConfigError(f"{name!r} is in the archive already: leave it out, or replace it (replace=True)")
        dim = self.state.manifest.dim
        photo = make_photo(name, vectors, dim, positions=positions, scales=scales, size=size, file=file)
        self._add([with_global(photo, global_descriptor, self.config)], replace)

    def add_many(
        self,
        photos: Iterable[Item],
        *,
        replace: bool = False,
        refused: Callable[[Item, ConfigError], None] | None = None,
    ) -> int:
        """Add photos from a stream, 32 at a time, which assigns faster than one by one; return how many.

        Args:
            photos: what an extractor gives, or pairs of name and vectors, as ``add`` takes them; ``LocalDescriptors``
                for vectors with positions and scales.
            replace: take the place of photos of the same names.
            refused: called with a photo that the archive cannot hold and why, which is then left out: NaN, another
                dimension, positions out of range, a name of lone surrogates. None to raise that.

        Raises:
            ConfigError, StorageError: as ``add``; the photos before the one in question may be added, 32 being checked
                before the first of them is added.
        """
        stream = iter(photos)
        count = 0
        while items := list(islice(stream, _TOGETHER)):
            group = as_photos(items, self.state.manifest.dim, self.config, refused=refused)
            count += self._add(group, replace) if group else 0
        return count

    def add_aggregated(
        self, name: str, photo: Aggregated, *, file: FileState | None = None, replace: bool = False
    ) -> None:
        """Add a photo whose words and codes were computed elsewhere, such as on another machine (``aggregate``).

        Raises:
            ConfigError: as ``add``, or words or codes that no aggregation makes; or the archive keeps geometry.
            StorageError: a full shard could not be written.
        """
        check_aggregated(photo, words=len(self.codebook), dim=self.codebook.dim, binary=self.config.binary, name=name)
        if self.config.keeps("positions"):
            raise ConfigError(f"{name!r}: the archive keeps geometry: add descriptors with positions")
        if self.config.keeps_global:
            raise ConfigError(f"{name!r}: the archive keeps global vectors: add descriptors with global_descriptor")
        check_file(name, file)
        with self._mutex:
            self._writing().add(Pending(name=name, photo=photo, file=file), replacing=replace)

    def _add(self, photos: Sequence[PhotoDescriptors], replace: bool) -> int:
        self._writing()
        for pending in make_pending(photos, self.state, self._threads):
            with self._mutex:
                self._writing().add(pending, replacing=replace)
        return len(photos)

    def remove(self, names: str | Iterable[str]) -> int:
        """Remove photos by name; return how many there were. Gone for others after ``commit``.

        A name that is not there is ignored; ``ConfigError`` for what is not a name. Their postings stay on disk until a
        compaction; ``compact(purge=True)`` and ``collect_garbage`` take them away.
        """
        with self._mutex:
            return self._writing().remove(as_names(names))

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
            self._writing().forget_failures(as_names(names))

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
        with self._mutex, self._writing().lease.fenced(), Index.open(other) as opened:
            if opened.path.resolve() == self._folder.resolve():
                raise ConfigError(f"{other} cannot be merged into itself")
            return merge(self._writing(), opened.state, conflicts)

    def publish(self, segments: Iterable[PathLike]) -> list[Published]:
        """Take the photos of segments in and commit, all or none; return what each brought (``publish_segments``)."""
        with self._mutex, self._writing().lease.fenced():
            published = publish_segments(self._writing(), [Path(path) for path in segments])
            self.commit()
            return published

    def commit(self) -> None:
        """Make all changes durable and visible, or none: files first, then the manifest that names them.

        Raises:
            StorageError: it cannot be written; the state before stays in force (or the new one already is, where only
                the last sync of the folder failed), and a later commit may succeed.
        """
        with self._mutex:
            self._show(self._writing().commit())

    def compact(self, *, purge: bool = False, by_name: bool = False, progress: Progress | None = None) -> int:
        """Merge small shards, and those with many removed photos, into large ones; return how many were merged.

        Commits. The files of the old shards stay until ``collect_garbage``. Memory: about 1.2 GB for full shards.

        Args:
            purge: rewrite every shard with a removed photo, so that nothing of it is left after garbage collection.
            by_name: rewrite all, photos by their names: archives of the same photos then have the same shards.
            progress: called with photos written, and of how many.

        Raises:
            ArchiveError: one of those shards is damaged: a merge would hide it.
            StorageError: no room for the new shards.
        """
        with self._mutex:
            writer = self._writing()
            merged = sort_photos(writer, progress) if by_name else compact(writer, purge=purge, progress=progress)
            self._show(writer.state)
            return merged

    def compact_if_worth_it(self, progress: Progress | None = None) -> int:
        """Compact if eight shards could be merged, or a shard has lost a fifth of its photos; else return 0."""
        self.commit()
        if not is_worth_it(self.state.manifest.shards, self.config.shard_images):
            return 0
        return self.compact(progress=progress)

    def collect_garbage(self) -> list[str]:
        """Remove files of interrupted and former states that no snapshot and no reader needs; return their paths."""
        with self._mutex:
            writer = self._writing()
            return collect_garbage(self._folder, [writer.state.manifest], writer.files, writer.lease)

    def _committed(self) -> Searcher:
        self._check_open()
        with self._mutex:
            if self._writer is not None:
                self.commit()
            return self._searcher

    def _show(self, state: State) -> None:
        # One assignment: where an interrupt comes before it, the next commit does it again.
        if state is not self.state:
            self._searcher = Searcher(state)

    def _writing(self) -> Writer:
        self._check_open()
        if self._writer is None:
            raise ConfigError(f"{self._folder} is open for reading: open it with writable=True")
        return self._writer
