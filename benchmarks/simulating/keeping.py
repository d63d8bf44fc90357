"""What an archive costs beside extraction and queries: commits and compaction as it grows, and parts that are lost.

Compaction follows the product's own rules: ``choose_groups`` and ``is_worth_it`` decide about made-up shards, each of
so many photos and bytes.
"""

from dataclasses import dataclass

import numpy as np

from ctxdeploy.index.maintenance.compact import choose_groups, is_worth_it
from ctxdeploy.index.storage.manifest import ShardEntry

_HASH = "0" * 64


@dataclass(frozen=True, kw_only=True)
class GrowingConfig:
    """An archive that grows by segments.

    Attributes:
        photos, list_size: of the whole and of a segment.
        portion: segments of a commit.
        compacting: whether it is compacted where that is worth it, after each commit; else once, at the end.
        photo_bytes: of a photo in its shard.
        shard_images: photos of a shard at most.
        commit_seconds, shard_seconds, hash_rate, compact_rate: as ``StorageCosts``.
    """

    photos: int
    list_size: int
    portion: int
    compacting: bool
    photo_bytes: float
    shard_images: int = 65536
    commit_seconds: float = 0.03
    shard_seconds: float = 30e-6
    hash_rate: float = 1e9
    compact_rate: float = 150e6


@dataclass(frozen=True, kw_only=True)
class Grown:
    """What came of it.

    Attributes:
        commits: how many.
        commit_seconds: of all of them, hashing apart.
        hash_seconds: of all files that were taken in.
        compact_seconds: of all merges.
        written: bytes that merges wrote, by the bytes of the archive.
        most_shards: that a query met at any time.
        shards: at the end.
    """

    commits: int
    commit_seconds: float
    hash_seconds: float
    compact_seconds: float
    written: float
    most_shards: int
    shards: int


def grow(config: GrowingConfig) -> Grown:
    """Publish portion after portion; nothing is drawn by chance."""
    entries: list[ShardEntry] = []
    commits, seconds, merged, most = 0, 0.0, 0.0, 0
    segments = -(-config.photos // config.list_size)
    for first in range(0, segments, config.portion):
        for number in range(first, min(first + config.portion, segments)):
            photos = min(config.list_size, config.photos - number * config.list_size)
            entries.append(_shard(photos, config))
        commits += 1
        seconds += config.commit_seconds + len(entries) * config.shard_seconds
        most = max(most, len(entries))
        if config.compacting and is_worth_it(entries, config.shard_images):
            entries, size = _compacted(entries, config)
            merged += size
            seconds += config.commit_seconds + len(entries) * config.shard_seconds
            commits += 1
    if not config.compacting:
        entries, merged = _compacted(entries, config)
    whole = config.photos * config.photo_bytes
    return Grown(
        commits=commits,
        commit_seconds=seconds,
        hash_seconds=whole / config.hash_rate,
        compact_seconds=merged / config.compact_rate,
        written=merged / whole,
        most_shards=most,
        shards=len(entries),
    )


def _shard(photos: int, config: GrowingConfig) -> ShardEntry:
    return ShardEntry(file="", bytes=round(photos * config.photo_bytes), sha256=_HASH, images=photos, postings=0)


def _compacted(entries: list[ShardEntry], config: GrowingConfig) -> tuple[list[ShardEntry], float]:
    """Return the shards after a compaction, and the bytes of those that were made."""
    groups = choose_groups(entries, config.shard_images, purge=False)
    made = {group[0]: _shard(sum(entries[i].live for i in group), config) for group in groups}
    gone = {i for group in groups for i in group[1:]}
    kept = [made.get(i, entry) for i, entry in enumerate(entries) if i not in gone]
    return kept, float(sum(entry.bytes for entry in made.values()))


@dataclass(frozen=True, kw_only=True)
class LosingConfig:
    """Machines that are lost and rebuilt.

    Attributes:
        parts, replicas: of the archive; each copy on a machine of its own.
        machine_days: mean days until a machine is lost.
        rebuild_seconds: until a new one holds its copy.
        years: that are simulated.
    """

    parts: int
    replicas: int
    machine_days: float
    rebuild_seconds: float
    years: float = 50.0


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What came of it.

    Attributes:
        losses: machines, a year.
        missing: share of the photos that queries miss, on average over time.
        incomplete: share of the time in which queries miss any.
    """

    losses: float
    missing: float
    incomplete: float


def lose(config: LosingConfig, seed: int) -> Lost:
    """Lose and rebuild machines for some years.

    A machine works for an exponential time and is rebuilt in a fixed one, again and again; a part is missing while none
    of its copies works.
    """
    rng, day = np.random.default_rng(seed), 86400.0
    end = config.years * 365.25 * day
    losses, missing = 0, []
    for _ in range(config.parts):
        gaps = []
        for _ in range(config.replicas):
            spans = _outages(rng, config, end)
            losses += len(spans)
            gaps.append(spans)
        shared = gaps[0]
        for other in gaps[1:]:
            shared = _intersection(shared, other)
        missing += shared
    total = sum(stop - start for start, stop in missing)
    union, last = 0.0, 0.0
    for start, stop in sorted(missing):
        union += max(stop - max(start, last), 0.0)
        last = max(last, stop)
    return Lost(losses=losses / config.years, missing=total / (end * config.parts), incomplete=union / end)


def _outages(rng: np.random.Generator, config: LosingConfig, end: float) -> list[tuple[float, float]]:
    found, now = [], float(rng.exponential(config.machine_days * 86400.0))
    while now < end:
        found.append((now, min(now + config.rebuild_seconds, end)))
        now += config.rebuild_seconds + float(rng.exponential(config.machine_days * 86400.0))
    return found


def _intersection(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> list[tuple[float, float]]:
    found, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        start, stop = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if start < stop:
            found.append((start, stop))
        if one[i][1] <= other[j][1]:
            i += 1
        else:
            j += 1
    return found
