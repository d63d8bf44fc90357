"""Segments: a finished archive becomes one, and archives take them in, as files: no posting is read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.core.errors import ArchiveError, MismatchError
from ctxdeploy.core.files import link_file, make_folder, new_folder
from ctxdeploy.core.types import FileState
from ctxdeploy.index.maintenance.merge import difference
from ctxdeploy.index.storage.failures import Failures, read_failures, write_failures
from ctxdeploy.index.storage.format import NotDamagedError, check_hash, map_bytes
from ctxdeploy.index.storage.manifest import FileEntry, ShardEntry, store
from ctxdeploy.index.storage.names import NameIndex
from ctxdeploy.index.storage.segment import Segment, open_segment, write_facts
from ctxdeploy.index.storage.shard import HeldShard, Shard, open_shard, without
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.writer import Writer


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a segment brought, in photos; as if segments had been taken one after the other.

    Attributes:
        added: new names.
        replaced: names that were there, in another state of their file.
        unchanged: names that were there in the same state of their file, and stay as they were.
        older: names that were there in a later state of their file, and stay as they were.
        failed: photos of it that could not be read.
    """

    added: int
    replaced: int
    unchanged: int
    older: int
    failed: int


def write_segment(state: State, folder: Path, target: Path, identity: str, facts: Mapping[str, Any]) -> Segment:
    """Make a segment of all photos of an archive; whole under its name, or not at all.

    Args:
        state: of the archive; without removed photos (``compact(purge=True)``).
        folder: of the archive.
        target: a folder that does not exist yet.
        identity: hex sha256 of what it was made from.
        facts: about it, any JSON.

    Raises:
        ArchiveError: photos of the archive were removed from shards that hold them still.
        StorageError: it cannot be written, or ``target`` is there.
    """
    entries = state.manifest.shards
    if any(entry.removed for entry in entries):
        raise ArchiveError(f"{folder} holds removed photos: compact it with purge=True before it becomes a segment")
    with new_folder(target) as partial:
        for file in (file for entry in entries for file in entry.files):
            check_hash(folder / file.file, file.sha256)
            _bring(folder, file, partial)
        failures = write_failures(partial, 0, state.failures)
        manifest = replace(state.manifest, number=0, failures=failures, statistics=None)
        segment = Segment(path=target, id=identity, facts=facts, manifest=manifest)
        write_facts(partial, segment)
    return segment


def publish_segments(writer: Writer, paths: Sequence[Path]) -> list[Published]:
    """Take the photos and failures of segments; durable and visible with the next commit of the writer, all at once.

    A name that is there twice, in the archive and a segment or in two segments: the photo whose file was changed last
    is kept, in the same state the one that is there. A file of which no time is known counts as the oldest.

    Args:
        writer: of the archive.
        paths: of the segments, in order.

    Returns:
        What each of them brought.

    Raises:
        MismatchError: a segment of another codebook, model, preprocessing or setting; both are named.
        ArchiveError: a segment, or a file of one, is damaged.
        StorageError: the archive cannot be written.
    """
    segments = [open_segment(path) for path in paths]
    for segment in segments:
        _check_same(segments[0], segment)
        _check_alike(writer, segment)
    writer.flush()
    held = writer.shards
    _check_files(segments, {file.sha256 for one in held for file in one.entry.files})
    found = [(number, entry) for number, segment in enumerate(segments) for entry in segment.manifest.shards]
    opened = [open_shard(segments[number].path, entry, segments[number].manifest) for number, entry in found]
    conflicts = Conflicts([*(one.shard for one in held), *opened])
    lost = conflicts.lost()
    taken: list[HeldShard] = []
    for place, ((number, entry), shard) in enumerate(zip(found, opened, strict=True), len(held)):
        removed = lost.get(place, [])
        if len(removed) < len(shard):
            taken.append(_taken(writer, segments[number].path, entry, removed))
    mine = [(place, number) for place in range(len(held)) for number in lost.get(place, ())]
    writer.replace_shards((*without(held, mine), *taken))
    brought = [read_failures(segment.path, segment.manifest.failures) for segment in segments]
    _merge_failures(writer, brought, taken)
    return [
        conflicts.published(places, len(failures))
        for places, failures in zip(_places(found, len(held), len(segments)), brought, strict=True)
    ]


class Conflicts:
    """Which photos of shards, in order, give way to others of the same name.

    Memory: 16 bytes a photo, and a list for each name that is there more than once.

    Args:
        shards: of the archive, then of the segments.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._lost: dict[int, list[int]] = {}
        self._counts = [{"replaced": 0, "unchanged": 0, "older": 0} for _ in shards]
        for places in self._doubled():
            kept = places[0]
            for place in places[1:]:
                outcome = _outcome(self._file(kept), self._file(place))
                self._counts[place[0]][outcome] += 1
                loser, kept = (kept, place) if outcome == "replaced" else (place, kept)
                self._lost.setdefault(loser[0], []).append(loser[1])

    def lost(self) -> dict[int, list[int]]:
        """Return the numbers of the photos that give way, by the place of their shard."""
        return self._lost

    def published(self, places: Sequence[int], failed: int) -> Published:
        """Return what the shards of one segment bring, which has so many failures."""
        counts = {name: sum(self._counts[place][name] for place in places) for name in self._counts[0] if places}
        counts = counts or {"replaced": 0, "unchanged": 0, "older": 0}
        photos = sum(len(self._shards[place]) for place in places)
        return Published(**counts, added=photos - sum(counts.values()), failed=failed)

    def _doubled(self) -> Iterator[list[tuple[int, int]]]:
        bases = np.cumsum([0, *map(len, self._shards)], dtype=np.int64)
        groups: dict[str, list[tuple[int, int]]] = {}
        for place in NameIndex(self._shards).likely_doubled().tolist():
            shard = int(np.searchsorted(bases, place, side="right")) - 1
            number = place - int(bases[shard])
            if self._shards[shard].live[number]:
                groups.setdefault(self._shards[shard].name(number), []).append((shard, number))
        return (places for places in groups.values() if len(places) > 1)

    def _file(self, place: tuple[int, int]) -> FileState | None:
        shard, number = self._shards[place[0]], place[1]
        size = int(shard.sizes[number])
        return None if size < 0 else FileState(size=size, mtime_ns=int(shard.mtimes[number]))


def _outcome(here: FileState | None, there: FileState | None) -> str:
    if here == there:
        return "unchanged"
    return "older" if _age(there) < _age(here) else "replaced"


def _age(file: FileState | None) -> tuple[int, int]:
    """Return what rises with the time of change. Sizes decide between equal times: in any order, published any number
    of times, the same photo is kept."""
    return (-1, -1) if file is None else (file.mtime_ns, file.size)


def _places(found: Sequence[tuple[int, ShardEntry]], first: int, segments: int) -> list[list[int]]:
    """Return the places of each segment's shards."""
    places: list[list[int]] = [[] for _ in range(segments)]
    for place, (number, _) in enumerate(found, first):
        places[number].append(place)
    return places


def _check_same(first: Segment, segment: Segment) -> None:
    different = difference(first.manifest, segment.manifest)
    if different is not None:
        name, here, there = different
        raise MismatchError(
            f"the segments {first.path} and {segment.path} are not for one archive: {name} is {here} and {there}; "
            "publish them into archives of their own"
        )


def _check_alike(writer: Writer, segment: Segment) -> None:
    different = difference(writer.state.manifest, segment.manifest)
    if different is not None:
        name, here, there = different
        raise MismatchError(
            f"the segment {segment.path} is not for {writer.folder}: {name} is {there} there and {here} here; extract "
            "it anew for this archive (ctxdeploy extract --codebook ARCHIVE), or publish it into another"
        )


def _check_files(segments: Sequence[Segment], known: set[str]) -> None:
    """Compare the files of segments with their hashes, but for those that the archive has: names and times in them
    decide which photos give way."""
    try:
        for segment in segments:
            for file in (file for entry in segment.manifest.shards for file in entry.files):
                if file.sha256 not in known:
                    check_hash(segment.path / file.file, file.sha256)
    except NotDamagedError:
        raise
    except ArchiveError as error:
        raise ArchiveError(f"{error}; delete the segment, and extract it anew") from error


def _taken(writer: Writer, source: Path, entry: ShardEntry, removed: Sequence[int]) -> HeldShard:
    """Bring the files of a shard into the archive, and open it without those photos that give way."""
    for file in entry.files:
        _bring(source, file, writer.folder)
    opened = open_shard(writer.folder, entry, writer.state.manifest)
    return HeldShard(entry, opened.without(removed) if removed else opened)


def _bring(source: Path, entry: FileEntry, folder: Path) -> None:
    """Put a file into another folder, where it has the same name: as a hard link, or as a copy where there are none."""
    path, target = source / entry.file, folder / entry.file
    if not target.parent.is_dir():
        make_folder(target.parent)
    if not link_file(path, target):
        store(folder, f"{target.parent.name}/{{}}{target.suffix}", [np.frombuffer(map_bytes(path), np.uint8)])


def _merge_failures(writer: Writer, brought: Sequence[Failures], taken: Sequence[HeldShard]) -> None:
    """List the failures of segments, and drop those of photos that are there in the state that failed, or a later one.

    Args:
        writer: that holds the photos of the segments.
        brought: the failures of each segment.
        taken: the shards of the segments.
    """
    concerned: set[str] = set().union(*brought)
    if writer.failures:
        concerned |= {name for held in taken for name in set(held.shard.live_names()).intersection(writer.failures)}
    for failures in brought:
        writer.record_failures(failures.values())
    settled = []
    for name in concerned:
        place = writer.find(name)
        if place is None:
            continue
        shard, number = writer.shards[place[0]].shard, place[1]
        failure = writer.failures[name]
        failed = (failure.get("mtime_ns", -1), failure.get("size", -1))
        if failed <= (int(shard.mtimes[number]), int(shard.sizes[number])):
            settled.append(name)
    writer.forget_failures(settled)
