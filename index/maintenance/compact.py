"""Small shards and shards with many removed photos become large ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index.codebook.aggregation import code_columns
from ctxdeploy.index.config import IndexConfig, Progress, keeps
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.storage.layout import Layout
from ctxdeploy.index.storage.manifest import FileEntry, ShardEntry
from ctxdeploy.index.storage.names import name_tensors
from ctxdeploy.index.storage.positions import feature_tensors
from ctxdeploy.index.storage.shard import PLACES, HeldShard, Shard, not_empty
from ctxdeploy.index.storage.vectors import GlobalVectors, joined
from ctxdeploy.index.writer import Writer

# A merged shard is made in memory: 26M postings of 18 bytes are 0.5 GB.
MAX_BYTES = 1 << 30
# A removed photo is still scanned; from this part on, that costs more than a rewrite once.
_REMOVED = 0.2
# So many shards that could be merged cost a query more than the merge costs the writer.
SMALL_SHARDS = 8


def compact(writer: Writer, *, purge: bool, progress: Progress | None) -> int:
    """Commit; merge small shards and those with many removed photos into large ones; commit.

    Args:
        writer: of the archive.
        purge: rewrite every shard with a removed photo, so that nothing of it is left after garbage collection.
        progress: called with photos written, 0 at first, and of how many.

    Returns:
        The shards that were merged.

    Raises:
        ArchiveError: one of those shards is damaged; what was committed before stays.
        StorageError: no room.
    """
    writer.commit()
    # Without those that became empty before any commit: no commit has left them out.
    shards = not_empty(writer.shards)
    entries = [held.entry for held in shards]
    config = writer.state.manifest.config
    groups = choose_groups(entries, config.shard_images, purge=purge)
    total = sum(entries[i].live for group in groups for i in group)
    done = 0
    merged: dict[int, HeldShard] = {}
    if progress is not None and groups:
        progress(0, total)  # a clock that starts with the first group done has no rate
    for group in groups:
        for i in group:
            for file in (entries[i], entries[i].vectors):
                check_whole(writer.folder, file)
        tensors = merged_tensors(writer.layout, [shards[i].shard for i in group])
        merged[group[0]] = writer.write_shard(tensors, merged_vectors(config, [shards[i].shard for i in group]))
        done += len(tensors["counts"])
        if progress is not None:
            progress(done, total)
    gone = {i for group in groups for i in group[1:]}
    writer.replace_shards(merged.get(i, held) for i, held in enumerate(shards) if i not in gone)
    writer.commit()
    return len(merged) + len(gone)


def choose_groups(entries: Sequence[ShardEntry], shard_images: int, *, purge: bool) -> list[list[int]]:
    """Return groups of shards to merge, each into one, of at most ``shard_images`` photos and 1 GB.

    Args:
        entries: the shards.
        shard_images: photos of a shard at most.
        purge: take every shard with a removed photo, instead of those with a fifth of them removed.

    Candidates are shards that are less than half full (by photos and by bytes), or have removed photos.
    """
    groups: list[list[int]] = []
    images, size = shard_images, 0
    for number, entry in enumerate(entries):
        if not is_candidate(entry, shard_images, purge=purge):
            continue
        if not groups or images + entry.live > shard_images or size + entry.bytes > MAX_BYTES:
            groups.append([])
            images = size = 0
        groups[-1].append(number)
        images += entry.live
        size += entry.bytes
    return [group for group in groups if len(group) > 1 or entries[group[0]].removed]


def is_candidate(entry: ShardEntry, shard_images: int, *, purge: bool = False) -> bool:
    """Return whether merging a shard would help."""
    small = entry.live * 2 < shard_images and entry.bytes * 2 < MAX_BYTES
    return small or entry.removed > (0 if purge else _REMOVED * entry.images)


def is_worth_it(entries: Sequence[ShardEntry], shard_images: int) -> bool:
    """Return whether an archive has eight shards that could be merged, or one with a fifth of its photos removed."""
    candidates = [entry for entry in entries if is_candidate(entry, shard_images)]
    return len(candidates) >= SMALL_SHARDS or any(entry.removed > _REMOVED * entry.images for entry in candidates)


def check_whole(folder: Path, entry: FileEntry | None) -> None:
    """Raise ``ArchiveError`` unless the hash of a file, if there is one, is right: a flipped bit would get a sound one
    in the merged shard, and nobody could find it any more."""
    if entry is None:
        return
    try:
        file_format.check_hash(folder / entry.file, entry.sha256)
    except file_format.NotDamagedError:
        raise
    except ArchiveError as error:
        raise ArchiveError(f"{error}; to go on without it:  ctxdeploy repair {folder}") from error


def merged_tensors(
    layout: Layout, shards: Sequence[Shard], numbers: NDArray[np.int64] | None = None
) -> file_format.Arrays:
    """Return the tensors of one shard with the live photos of several.

    Memory: the new shard, and 8 bytes for each posting of the old ones; 40 bytes a posting where they are numbered.

    Args:
        layout: of the archive.
        shards: at least one.
        numbers: of each live photo in the new shard, shard after shard; None for that order itself.

    Raises:
        ArchiveError: the image numbers of a shard contradict its word counts.
    """
    from ctxdeploy.index.kernels import build as build_kernels

    live = [np.flatnonzero(shard.live[: len(shard)]) for shard in shards]
    chosen = list(zip(shards, live, strict=True))
    old = np.arange(sum(map(len, live))) if numbers is None else np.argsort(numbers)
    counts = _joined([shard.counts[kept] for shard, kept in chosen], np.uint32)[old]
    words = np.zeros(layout.words, np.int64)
    for shard in shards:
        words += build_kernels.count_words(shard.word_offsets, shard.images, shard.live)
    offsets = np.concatenate([[0], np.cumsum(words)])
    if int(offsets[-1]) != int(counts.sum(dtype=np.int64)):
        raise ArchiveError(f"{shards[0].path.parent}: images and counts of a shard contradict: see  ctxdeploy verify")
    images, codes = _merged_postings(layout, chosen, offsets, np.argsort(old), is_sorted=numbers is None)
    names = [name for shard in shards for name in shard.live_names()]
    facts = {
        "codes": codes,
        "images": images,
        "word_offsets": offsets.astype(np.uint32),
        "counts": counts,
        "sizes": _joined([shard.sizes[kept] for shard, kept in chosen], np.int64)[old],
        "mtimes": _joined([shard.mtimes[kept] for shard, kept in chosen], np.int64)[old],
        **name_tensors(names[number] for number in old),
    }
    if keeps(layout.geometry, "positions"):
        places = [(shard, int(number)) for shard, kept in chosen for number in kept]
        packed = (places[number][0].packed_features(places[number][1]) for number in old)
        facts |= feature_tensors(packed, layout.geometry, layout.dim)
    return facts


def _merged_postings(
    layout: Layout,
    chosen: Sequence[tuple[Shard, NDArray[np.intp]]],
    offsets: NDArray[np.int64],
    new: NDArray[np.intp],
    *,
    is_sorted: bool,
) -> tuple[NDArray[np.uint16], NDArray[Any]]:
    """Return images and codes of a merged shard.

    Args:
        layout: of the archive.
        chosen: shards, and the rising numbers of their live photos.
        offsets: W+1, of each word in the new shard.
        new: number of each of these photos in the new shard.
        is_sorted: these numbers rise.
    """
    from ctxdeploy.index.kernels import build as build_kernels

    postings = int(offsets[-1])
    images = np.empty(postings, np.uint16)
    codes: NDArray[Any] = (
        np.empty((code_columns(layout.dim), postings), np.uint64)
        if layout.binary
        else np.empty((postings, layout.dim), np.float32)
    )
    cursors, base = offsets[:-1].copy(), 0
    places = []
    for shard, kept in chosen:
        numbers = np.zeros(PLACES, np.uint16)
        numbers[kept] = new[base : base + len(kept)]
        places.append(build_kernels.renumber(shard.word_offsets, shard.images, shard.live, numbers, cursors, images))
        base += len(kept)
    final = None if is_sorted else np.empty(postings, np.int64)
    if final is not None:
        words = np.repeat(np.arange(layout.words, dtype=np.int32), np.diff(offsets))
        by_image = np.lexsort((images, words))
        images = images[by_image]
        final[by_image] = np.arange(postings)
    for (shard, _), here in zip(chosen, places, strict=True):
        at = here if final is None or not postings else np.where(here >= 0, final[here], -1)
        _place_codes(shard, at, codes, layout.binary)
    return images, codes


def merged_vectors(
    config: IndexConfig, shards: Sequence[Shard], numbers: NDArray[np.int64] | None = None
) -> GlobalVectors | None:
    """Return the global vectors of the live photos of several shards, as ``merged_tensors``; None in an archive
    without."""
    if not config.keeps_global:
        return None
    live = [np.flatnonzero(shard.live[: len(shard)]) for shard in shards]
    merged = joined(
        [s.vectors.rows(kept) for s, kept in zip(shards, live, strict=True) if s.vectors is not None], config
    )
    return merged if numbers is None else merged.rows(np.argsort(numbers))


def _place_codes(shard: Shard, places: NDArray[np.int64], codes: NDArray[Any], binary: bool) -> None:
    from ctxdeploy.index.kernels import build as build_kernels

    if binary:
        build_kernels.scatter_columns(shard.codes, places, codes)
    else:
        kept = places >= 0
        codes[places[kept]] = shard.codes[kept]


def _joined(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts])
