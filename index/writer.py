"""What a writer holds between two commits, and how a commit makes it durable."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.files import WriterLock
from ctxdeploy.index.maintenance.compact import check_whole, choose_groups, merged_tensors
from ctxdeploy.index.maintenance.garbage import collect_garbage
from ctxdeploy.index.storage import statistics
from ctxdeploy.index.storage.builder import Pending, shard_tensors
from ctxdeploy.index.storage.failures import Failures, normalised, write_failures
from ctxdeploy.index.storage.manifest import Manifest, ShardEntry, publish
from ctxdeploy.index.storage.names import NameIndex
from ctxdeploy.index.storage.shard import Layout, Shard, open_shard, write_shard
from ctxdeploy.index.storage.state import Snapshot
from ctxdeploy.index.storage.tombstones import write_tombstones

# Then a shard is written though it is not full: 0.5 GB of postings take 1.5 GB while they are sorted.
MAX_PENDING_BYTES = 1 << 29

Progress = Callable[[int, int], None]


class Part(NamedTuple):
    """A shard as the writer has it: ``shard.removed`` may be more than ``entry`` says."""

    entry: ShardEntry
    shard: Shard


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What the archive holds, with what is not committed: replaced as a whole, so that an interrupt leaves one or
    the other.

    Attributes:
        parts: shards, with those written since the last commit, and with those of which nothing is left.
        pending: photos that are in no shard yet, by name.
    """

    parts: tuple[Part, ...]
    pending: dict[str, Pending]


class Writer:
    """Changes since the last commit. Nothing of them is visible to others before ``commit`` returns.

    Args:
        folder: the archive.
        lock: held by the caller and kept until ``close``.
        snapshot: the state in force.
        number: the highest number of any manifest in the folder.
    """

    def __init__(self, folder: Path, lock: WriterLock, snapshot: Snapshot, number: int) -> None:
        self._folder = folder
        self._lock = lock
        self._number = number
        self._layout = Layout.of(snapshot.manifest)
        self._committed_failures: Failures = dict(snapshot.failures)
        self._failures = dict(self._committed_failures)
        self._use(snapshot)

    def _use(self, snapshot: Snapshot) -> None:
        parts = tuple(map(Part, snapshot.manifest.shards, snapshot.shards))
        self._snapshot = snapshot
        self._names: NameIndex | None = None
        self._pending_bytes = 0
        self._state = State(parts=parts, pending={})

    @property
    def snapshot(self) -> Snapshot:
        """The state in force."""
        return self._snapshot

    @property
    def failures(self) -> Failures:
        """Failures by name, as they will stand after the next commit."""
        return self._failures

    @property
    def dirty(self) -> bool:
        """Whether a commit would change anything."""
        # What is removed, not how much: a merge may bring the file of a shard back with other photos removed.
        now = [(part.entry.file, part.shard.removed.tobytes()) for part in _alive(self._state.parts)]
        entries, shards = self._snapshot.manifest.shards, self._snapshot.shards
        before = [(entry.file, shard.removed.tobytes()) for entry, shard in zip(entries, shards, strict=True)]
        return bool(self._state.pending) or now != before or self._failures != self._committed_failures

    def __len__(self) -> int:
        state = self._state
        live = sum(len(part.shard) - len(part.shard.removed) for part in state.parts)
        return live + sum(photo.replaces is None for photo in state.pending.values())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._state.pending or self.find(name) is not None)

    def find(self, name: str) -> tuple[int, int] | None:
        """Return shard and number of a photo that is in a shard and not removed."""
        parts = self._state.parts
        if self._names is None:
            self._names = NameIndex([part.shard for part in parts])
        for shard, number in self._names.find(name):
            if shard < len(parts) and parts[shard].shard.live[number]:
                return shard, number
        return None

    def clashes(self, shards: Sequence[Shard]) -> Iterator[list[tuple[int, tuple[int, int]]]]:
        """Yield for each shard of another archive: number there, and shard and number here, of photos in both."""
        table = self._names = NameIndex([part.shard for part in self._state.parts])
        for shard in shards:
            numbers = (int(number) for number in table.suspects(shard) if shard.live[number])
            places = ((number, self.find(shard.name(number))) for number in numbers)
            yield [(number, place) for number, place in places if place is not None]

    def known(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield name, and size and time of change of the file, of every photo, those in shards first."""
        state = self._state
        for _, shard in state.parts:
            live = shard.live[: len(shard)]
            facts = zip(shard.sizes[live].tolist(), shard.mtimes[live].tolist(), strict=True)
            for name, fact in zip(shard.live_names(), facts, strict=True):
                if name not in state.pending:
                    yield name, fact
        for name, photo in state.pending.items():
            yield name, (photo.size, photo.mtime_ns)

    def add(self, photo: Pending, *, replacing: bool) -> None:
        """Take a photo; a shard that becomes full is written at once, though not yet committed.

        Raises:
            ConfigError: its name is in the archive, and ``replacing`` is not set.
        """
        former = self._state.pending.get(photo.name)
        replaces = self.find(photo.name) if former is None else former.replaces
        if not replacing and (former is not None or replaces is not None):
            raise ConfigError(f"{photo.name!r} is in the archive already: leave it out, or replace it (replace=True)")
        full = len(self._state.pending) >= self._snapshot.manifest.config.shard_images and former is None
        if full or self._pending_bytes >= MAX_PENDING_BYTES:
            self.flush()
            replaces = self.find(photo.name)
        self._state.pending[photo.name] = replace(photo, replaces=replaces)
        self._pending_bytes += photo.nbytes
        self._failures.pop(photo.name, None)

    def remove(self, names: Iterable[str]) -> int:
        """Remove photos; return how many there were. A name that is not there is no error."""
        places, pending = [], []
        for name in dict.fromkeys(names):
            place = self.find(name)
            if place is not None:
                places.append(place)
            if name in self._state.pending:
                pending.append(name)
            self._failures.pop(name, None)
        kept = self._state.pending
        count = len(places) + sum(kept[name].replaces is None for name in pending)
        if pending:
            gone = set(pending)
            kept = {name: photo for name, photo in kept.items() if name not in gone}
        self._state = State(parts=without(self._state.parts, places), pending=kept)
        return count

    def record_failures(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Merge failures; a later one of the same name replaces the earlier."""
        self._failures.update(normalised(records))

    def forget_failures(self, names: Iterable[str]) -> None:
        """Drop failures by name; unknown names are no error."""
        for name in names:
            self._failures.pop(name, None)

    def flush(self) -> None:
        """Write what is pending into a shard, which the next commit makes visible."""
        state = self._state
        if not state.pending:
            return
        self._lock.check()
        photos = tuple(state.pending.values())
        part = self._written(write_shard(self._folder, self._layout, shard_tensors(self._layout, photos)))
        parts = without(state.parts, [photo.replaces for photo in photos if photo.replaces is not None])
        if self._names is not None:
            # Before the state that has it: a name that is missing here would be added twice.
            self._names.append(len(parts), {photo.name: number for number, photo in enumerate(photos)})
            if self._names.is_stale:
                self._names = None
        self._state = State(parts=(*parts, part), pending={})
        self._pending_bytes = 0

    def _written(self, entry: ShardEntry) -> Part:
        return Part(entry, open_shard(self._folder, entry, self._snapshot.manifest))

    def adopt(self, parts: Sequence[Part], replaced: Iterable[tuple[int, int]]) -> None:
        """Append shards that were written into the folder, and remove the photos that they replace."""
        self.flush()
        # The table first: one that lacks a shard of the state lets its photos be added twice.
        self._names, self._state = None, State(parts=(*without(self._state.parts, replaced), *parts), pending={})

    def compact(self, *, purge: bool, progress: Progress | None) -> int:
        """Commit; merge small shards and those with many removed photos into large ones; commit.

        Args:
            purge: rewrite every shard with a removed photo, so that nothing of it is left after garbage collection.
            progress: called with photos written, 0 at first, and of how many.

        Returns:
            The shards that were merged.

        Raises:
            ArchiveError: one of those shards is damaged; what was committed before stays.
            StorageError: no room.
        """
        self.commit()
        # Without those that became empty before any commit: no commit has left them out.
        parts = tuple(_alive(self._state.parts))
        groups = choose_groups(parts, self._snapshot.manifest.config.shard_images, purge=purge)
        total = sum(parts[i].entry.live for group in groups for i in group)
        done = 0
        merged: dict[int, Part] = {}
        if progress is not None and groups:
            progress(0, total)  # a clock that starts with the first group done has no rate
        for group in groups:
            for i in group:
                check_whole(self._folder, parts[i].entry)
            tensors = merged_tensors(self._layout, [parts[i].shard for i in group])
            merged[group[0]] = self._written(write_shard(self._folder, self._layout, tensors))
            done += len(tensors["counts"])
            if progress is not None:
                progress(done, total)
        gone = {i for group in groups for i in group[1:]}
        kept = tuple(merged.get(i, part) for i, part in enumerate(parts) if i not in gone)
        self._names, self._state = None, State(parts=kept, pending={})
        self.commit()
        return len(merged) + len(gone)

    def commit(self) -> Snapshot:
        """Write what is pending, publish the next manifest, and return the new state.

        Raises:
            StorageError: it cannot be written; a later commit may succeed.
        """
        if not self.dirty:
            return self._snapshot
        self._lock.check()
        self.flush()
        before = self._snapshot.manifest
        # A new number for every attempt: a manifest that may be in force already is never written again.
        self._number = number = self._number + 1
        failures = before.failures
        if self._failures != self._committed_failures:
            failures = write_failures(self._folder, number, self._failures)
        parts = tuple(self._with_tombstones(part) for part in _alive(self._state.parts))
        manifest = replace(
            before, number=number, shards=tuple(part.entry for part in parts), failures=failures, statistics=None
        )
        shards = tuple(part.shard for part in parts)
        snapshot = self._with_statistics(manifest, shards)
        publish(self._folder, snapshot.manifest)
        if len(parts) != len(self._state.parts):
            self._names = None  # numbers of shards have changed
        self._committed_failures = dict(self._failures)
        self._snapshot, self._state = snapshot, State(parts=parts, pending={})
        return snapshot

    def _with_tombstones(self, part: Part) -> Part:
        entry, removed = part.entry, part.shard.removed
        if len(removed) == entry.removed:
            return part
        tombstones = write_tombstones(self._folder, entry, removed)
        return Part(replace(entry, removed=len(removed), tombstones=tombstones), part.shard)

    def _with_statistics(self, manifest: Manifest, shards: tuple[Shard, ...]) -> Snapshot:
        found = None
        if manifest.config.idf:
            found = statistics.compute(shards, manifest.words)
            file = statistics.write_statistics(self._folder, manifest.number, found)
            manifest = replace(manifest, statistics=file)
        return Snapshot(manifest, self._snapshot.codebook, shards, dict(self._failures), found)

    def collect_garbage(self) -> list[str]:
        """Remove files that no state needs: not the one in force, no snapshot, no reader, not this writer."""
        files = {file.file for part in _alive(self._state.parts) for file in part.entry.files}
        return collect_garbage(self._folder, [self._snapshot.manifest], files)

    def close(self) -> None:
        """Forget what is pending and let another writer in."""
        self._lock.release()


def _alive(parts: Iterable[Part]) -> Iterator[Part]:
    return (part for part in parts if len(part.shard.removed) < len(part.shard))


def without(parts: tuple[Part, ...], places: Iterable[tuple[int, int]]) -> tuple[Part, ...]:
    """Return the shards with these photos (shard, number) removed."""
    numbers: dict[int, list[int]] = {}
    for shard, number in places:
        numbers.setdefault(shard, []).append(number)
    return tuple(
        Part(part.entry, part.shard.without(numbers[i])) if i in numbers else part for i, part in enumerate(parts)
    )
