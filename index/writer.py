"""Changes to an archive: what a writer holds between two commits, and how a commit makes it durable."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.types import FileState, PhotoDescriptors
from ctxdeploy.index.codebook.aggregation import aggregate
from ctxdeploy.index.storage.failures import Failures, normalised, write_failures
from ctxdeploy.index.storage.format import Arrays
from ctxdeploy.index.storage.layout import Layout
from ctxdeploy.index.storage.lease import WriterLease
from ctxdeploy.index.storage.manifest import CURRENT, Manifest, manifest_numbers, publish, read_pointer
from ctxdeploy.index.storage.names import NameIndex
from ctxdeploy.index.storage.pending import Pending, shard_tensors
from ctxdeploy.index.storage.pins import pin_current
from ctxdeploy.index.storage.positions import check_positions, features_of, pack_features
from ctxdeploy.index.storage.shard import (
    HeldShard,
    Shard,
    not_empty,
    open_shard,
    with_tombstones,
    without,
    write_shard,
)
from ctxdeploy.index.storage.state import State, open_state
from ctxdeploy.index.storage.statistics import with_statistics
from ctxdeploy.index.storage.vectors import GlobalVectors, narrowed, write_vectors
from ctxdeploy.index.threads import SearchThreads

# Then a shard is written though it is not full: 0.5 GB of postings take 1.5 GB while they are sorted.
MAX_PENDING_BYTES = 1 << 29


def open_writer(folder: Path) -> "Writer":
    """Take the lease of an archive's one writer and open the state in force; errors as ``Index.open``."""
    read_pointer(folder)  # no lock file in a folder that is not an archive
    lease = WriterLease(folder)
    try:
        pin = pin_current(folder)
        try:
            state = open_state(folder, pin, check=True)
        finally:
            pin.release()
        return Writer(folder, lease, state, max(manifest_numbers(folder)))
    except BaseException:
        lease.release()
        raise


def make_pending(photos: Sequence[PhotoDescriptors], state: State, threads: SearchThreads) -> Iterator[Pending]:
    """Assign the descriptors of photos, all in one call, then yield each photo aggregated.

    Args:
        photos: at least one; descriptors that ``as_photo`` has checked.
        state: of the archive that they are for.
        threads: that assign.

    Raises:
        ConfigError: the archive keeps geometry, and a photo has no positions that it can hold.
    """
    config = state.manifest.config
    if state.manifest.codebook is None:
        no_vectors, no_words = np.empty((0, 0), np.float32), np.empty((0, 1), np.int32)
        nothing = aggregate(no_vectors, no_words, no_vectors, binary=config.binary)
        for photo in photos:
            yield Pending(name=photo.name, photo=nothing, file=photo.file, vector=vector_of(photo))
        return
    codebook = state.codebook
    ends = np.cumsum([len(photo.descriptors) for photo in photos])
    joined = np.concatenate([photo.descriptors.vectors for photo in photos])
    assigned = codebook.assign(joined, config.assignment, threads=threads)
    for photo, words in zip(photos, np.split(assigned, ends[:-1]), strict=True):
        packed = None
        if config.keeps("positions"):
            check_positions(photo.descriptors, photo.name)
            features = features_of(photo.descriptors, words[:, 0], codebook.centroids, size=photo.size)
            packed = pack_features(features, config.geometry)
        yield Pending(
            name=photo.name,
            photo=aggregate(photo.descriptors.vectors, words, codebook.centroids, binary=config.binary),
            file=photo.file,
            features=packed,
            vector=vector_of(photo),
        )


def vector_of(photo: PhotoDescriptors) -> NDArray[np.float32] | None:
    """Return a photo's global vector, None if it has none."""
    return None if photo.global_descriptor is None else photo.global_descriptor.vector


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """What the archive will hold after the next commit: replaced as a whole, so that an interrupt leaves one or the
    other.

    Attributes:
        shards: with those written since the last commit, and with those of which nothing is left.
        pending: photos that are in no shard yet, by name.
    """

    shards: tuple[HeldShard, ...]
    pending: dict[str, Pending]


class Writer:
    """The changes since the last commit. Nothing of them is visible to others before ``commit`` returns.

    One thread at a time may call it.

    Attributes:
        folder: the archive.
        layout: of its shards.
        lease: the right to write it.

    Args:
        folder: the archive.
        lease: held by the caller and kept until ``close``.
        state: the state in force.
        number: the highest number of any manifest in the folder.
    """

    def __init__(self, folder: Path, lease: WriterLease, state: State, number: int) -> None:
        self.folder = folder
        self.layout = Layout.of(state.manifest)
        self.lease = lease
        # What CURRENT may hold: what it held, and what a commit of ours that failed at its end may have put there.
        self._pointers = {read_pointer(folder)}
        self._number = number
        self._committed_failures: Failures = dict(state.failures)
        self._failures = dict(self._committed_failures)
        self._state = state
        self._contents = Contents(shards=tuple(map(HeldShard, state.manifest.shards, state.shards)), pending={})
        self._pending_bytes = 0
        self._names: NameIndex | None = None

    @property
    def state(self) -> State:
        """The state in force."""
        return self._state

    @property
    def shards(self) -> tuple[HeldShard, ...]:
        """The shards, without what is pending."""
        return self._contents.shards

    @property
    def failures(self) -> Failures:
        """Failures by name, as they will stand after the next commit."""
        return self._failures

    @property
    def files(self) -> set[str]:
        """The paths in the archive that the next commit may need."""
        return {file.file for held in not_empty(self.shards) for file in held.entry.files}

    @property
    def dirty(self) -> bool:
        """Whether a commit would change anything."""
        # What is removed, not how much: a merge may bring the file of a shard back with other photos removed.
        # The vectors too: without a codebook, photos of the same names and files have the same shard.
        now = [(held.entry.file, held.entry.vectors, held.shard.removed.tobytes()) for held in not_empty(self.shards)]
        entries, shards = self._state.manifest.shards, self._state.shards
        before = [
            (entry.file, entry.vectors, shard.removed.tobytes()) for entry, shard in zip(entries, shards, strict=True)
        ]
        return bool(self._contents.pending) or now != before or self._failures != self._committed_failures

    def __len__(self) -> int:
        contents = self._contents
        live = sum(len(held.shard) - len(held.shard.removed) for held in contents.shards)
        return live + sum(photo.replaces is None for photo in contents.pending.values())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._contents.pending or self.find(name) is not None)

    def find(self, name: str) -> tuple[int, int] | None:
        """Return shard and number of a photo that is in a shard and not removed."""
        shards = self.shards
        if self._names is None:
            self._names = NameIndex([held.shard for held in shards])
        for shard, number in self._names.find(name):
            if shard < len(shards) and shards[shard].shard.live[number]:
                return shard, number
        return None

    def clashes(self, shards: Sequence[Shard]) -> Iterator[list[tuple[int, tuple[int, int]]]]:
        """Yield for each shard of another archive: number there, and shard and number here, of photos in both."""
        table = self._names = NameIndex([held.shard for held in self.shards])
        for shard in shards:
            numbers = (int(number) for number in table.suspects(shard) if shard.live[number])
            places = ((number, self.find(shard.name(number))) for number in numbers)
            yield [(number, place) for number, place in places if place is not None]

    def known(self) -> Iterator[tuple[str, FileState | None]]:
        """Yield the name of every photo and the state of its file, None if it is not known; those in shards first."""
        pending = self._contents.pending
        for held in self.shards:
            yield from ((name, file) for name, file in held.shard.known() if name not in pending)
        yield from ((name, photo.file) for name, photo in pending.items())

    def names(self) -> Iterator[str]:
        """Yield the name of every photo, those in shards first."""
        pending = self._contents.pending
        for held in self.shards:
            yield from (name for name in held.shard.live_names() if name not in pending)
        yield from pending

    def add(self, photo: Pending, *, replacing: bool) -> None:
        """Take a photo; a shard that becomes full is written at once, though not yet committed.

        Raises:
            ConfigError: its name is in the archive, and ``replacing`` is not set.
        """
        former = self._contents.pending.get(photo.name)
        replaces = self.find(photo.name) if former is None else former.replaces
        if not replacing and (former is not None or replaces is not None):
            raise ConfigError(f"{photo.name!r} is in the archive already: leave it out, or replace it (replace=True)")
        full = len(self._contents.pending) >= self._state.manifest.config.shard_images and former is None
        if full or self._pending_bytes >= MAX_PENDING_BYTES:
            self.flush()
            replaces = self.find(photo.name)
        self._contents.pending[photo.name] = replace(photo, replaces=replaces)
        self._pending_bytes += photo.nbytes
        self._failures.pop(photo.name, None)

    def remove(self, names: Iterable[str]) -> int:
        """Remove photos; return how many there were. A name that is not there is no error."""
        places, pending = [], []
        for name in dict.fromkeys(names):
            place = self.find(name)
            if place is not None:
                places.append(place)
            if name in self._contents.pending:
                pending.append(name)
            self._failures.pop(name, None)
        kept = self._contents.pending
        count = len(places) + sum(kept[name].replaces is None for name in pending)
        if pending:
            gone = set(pending)
            kept = {name: photo for name, photo in kept.items() if name not in gone}
        self._contents = Contents(shards=without(self.shards, places), pending=kept)
        return count

    def record_failures(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Merge failures; a later one of the same name replaces the earlier."""
        self._failures.update(normalised(records))

    def forget_failures(self, names: Iterable[str]) -> None:
        """Drop failures by name; unknown names are ignored."""
        for name in names:
            self._failures.pop(name, None)

    def flush(self) -> None:
        """Write what is pending into a shard, which the next commit makes visible."""
        pending = self._contents.pending
        if not pending:
            return
        self.lease.check()
        photos = tuple(pending.values())
        config, vectors = self._state.manifest.config, None
        if config.keeps_global:
            rows = np.stack([photo.vector for photo in photos if photo.vector is not None])
            vectors = narrowed(rows, config, self._state.quantiser)
        written = self.write_shard(shard_tensors(self.layout, photos), vectors)
        shards = without(self.shards, [photo.replaces for photo in photos if photo.replaces is not None])
        if self._names is not None:
            # Before the contents that have it: a name that is missing here would be added twice.
            self._names.append(len(shards), {photo.name: number for number, photo in enumerate(photos)})
            if self._names.is_stale:
                self._names = None
        self._contents = Contents(shards=(*shards, written), pending={})
        self._pending_bytes = 0

    def write_shard(self, tensors: Arrays, vectors: GlobalVectors | None) -> HeldShard:
        """Write a shard and its global vectors into the folder, and open them; the archive does not hold them yet."""
        with self.lease.fenced():
            entry = write_shard(self.folder, self.layout, tensors)
            if vectors is not None:
                file = write_vectors(self.folder, entry.sha256, vectors, self._state.manifest)
                entry = replace(entry, vectors=file)
        return HeldShard(entry, open_shard(self.folder, entry, self._state.manifest))

    def replace_shards(self, shards: Iterable[HeldShard]) -> None:
        """Hold these shards, which are in the folder, instead of those there were; nothing may be pending."""
        # The table first: one that lacks a shard of the contents lets its photos be added twice.
        self._names, self._contents = None, Contents(shards=tuple(shards), pending={})

    def commit(self) -> State:
        """Write what is pending, publish the next manifest, and return the new state.

        Raises:
            StorageError: it cannot be written; a later commit may succeed.
            LeaseLostError: another process has taken the archive; none will succeed.
            ArchiveError: a process that knows no leases has committed.
        """
        if not self.dirty:
            return self._state
        self.flush()
        with self.lease.fenced() as through:
            return self._commit(through)

    def _commit(self, through: Path | None) -> State:
        before = self._state.manifest
        # A new number for every attempt: a manifest that may be in force already is never written again.
        self._number = number = self._number + 1
        failures = before.failures
        if self._failures != self._committed_failures:
            failures = write_failures(self.folder, number, self._failures, through)
        kept = tuple(HeldShard(with_tombstones(self.folder, held), held.shard) for held in not_empty(self.shards))
        shards = tuple(held.shard for held in kept)
        entries = tuple(held.entry for held in kept)
        manifest = replace(before, number=number, shards=entries, failures=failures, statistics=None)
        manifest, statistics = with_statistics(self.folder, manifest, shards, through)
        state = self._state.over(manifest, shards, dict(self._failures), statistics)
        self._publish(manifest, through)
        if len(kept) != len(self.shards):
            self._names = None  # numbers of shards have changed
        self._committed_failures = dict(self._failures)
        self._state, self._contents = state, Contents(shards=kept, pending={})
        return state

    def _publish(self, manifest: Manifest, through: Path | None) -> None:
        if read_pointer(self.folder) not in self._pointers:
            raise ArchiveError(
                f"{self.folder / CURRENT} was changed by a process that does not know leases (ctxdeploy before 0.2, or "
                "a copy): nothing was committed; see that none writes this archive, and run it again"
            )
        publish(self.folder, manifest, through, self._pointers)

    def close(self) -> None:
        """Forget what is pending and let another writer in."""
        self.lease.release()
