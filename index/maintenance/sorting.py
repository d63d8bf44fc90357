"""Photos by their names, in shards as full as they go: archives of the same photos become the same bytes."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.config import Progress
from ctxdeploy.index.maintenance import compact as compaction
from ctxdeploy.index.storage.names import encode_name
from ctxdeploy.index.storage.shard import HeldShard, Shard, not_empty
from ctxdeploy.index.writer import Writer


def sort_photos(writer: Writer, progress: Progress | None) -> int:
    """Commit; write all shards anew, the photos by the bytes of their names; commit.

    How the archive came about does not show any more: in which order photos were added, replaced and removed, on how
    many machines, in which batches. What was written so already stays.

    Memory: about 150 bytes a photo, and 60 a posting of the largest shard, below 3 GB.

    Args:
        writer: of the archive.
        progress: called with photos written, 0 at first, and of how many.

    Returns:
        The shards that there were, if they were written anew; else 0.

    Raises:
        ArchiveError: a shard is damaged; what was committed before stays.
        StorageError: no room for all shards once more.
    """
    writer.commit()
    held = not_empty(writer.shards)
    shards = [one.shard for one in held]
    config = writer.state.manifest.config
    shard, number = _order(shards)
    sizes = _sizes(writer, shards)
    cuts = list(_cuts(np.array([sizes[s][n] for s, n in zip(shard, number, strict=True)]), config.shard_images))
    if not len(shard) or _is_sorted(held, shard, number, cuts):
        return 0
    for one in held:
        for file in (one.entry, one.entry.vectors):
            compaction.check_whole(writer.folder, file)
    if progress is not None:
        progress(0, len(shard))
    written = []
    for begin, end in cuts:
        parts, numbers = _chosen(shards, shard[begin:end], number[begin:end])
        tensors = compaction.merged_tensors(writer.layout, parts, numbers)
        written.append(writer.write_shard(tensors, compaction.merged_vectors(config, parts, numbers)))
        if progress is not None:
            progress(end, len(shard))
    writer.replace_shards(written)
    writer.commit()
    return len(held)


def _order(shards: Sequence[Shard]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return shard and number of every live photo, by the bytes of the names."""
    places = [(i, int(n)) for i, shard in enumerate(shards) for n in np.flatnonzero(shard.live[: len(shard)])]
    names = [encode_name(name) for shard in shards for name in shard.live_names()]
    order = sorted(range(len(names)), key=names.__getitem__)
    found = np.array([places[i] for i in order], np.int64).reshape(len(order), 2)
    return found[:, 0], found[:, 1]


def _sizes(writer: Writer, shards: Sequence[Shard]) -> list[NDArray[np.int64]]:
    """Return about how many bytes each photo of each shard takes."""
    config, dim = writer.state.manifest.config, writer.layout.dim
    found = []
    for shard in shards:
        size = shard.counts.astype(np.int64) * writer.state.posting_bytes + config.global_bytes
        if shard.geometry_offsets is not None:
            features = shard.geometry_offsets.astype(np.int64)
            size += (features[1:] - features[:-1]) * config.feature_bytes(dim)
        found.append(size)
    return found


def _cuts(sizes: NDArray[np.int64], shard_images: int) -> Iterator[tuple[int, int]]:
    """Yield where each shard begins and ends among the photos: as many as fit by number and by bytes, one at least."""
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(sizes):
        before = int(ends[begin - 1]) if begin else 0
        fits = int(np.searchsorted(ends, before + compaction.MAX_BYTES, side="right"))
        end = min(max(fits, begin + 1), begin + shard_images, len(sizes))
        yield begin, end
        begin = end


def _is_sorted(
    held: Sequence[HeldShard],
    shard: NDArray[np.int64],
    number: NDArray[np.int64],
    cuts: Sequence[tuple[int, int]],
) -> bool:
    """Return whether the shards are those that would be written."""
    if len(cuts) != len(held) or any(len(one.shard.removed) for one in held):
        return False
    return all(
        end - begin == len(one.shard)
        and bool((shard[begin:end] == i).all())
        and bool((number[begin:end] == np.arange(end - begin)).all())
        for i, (one, (begin, end)) in enumerate(zip(held, cuts, strict=True))
    )


def _chosen(
    shards: Sequence[Shard], shard: NDArray[np.int64], number: NDArray[np.int64]
) -> tuple[list[Shard], NDArray[np.int64]]:
    """Return the shards with these photos alone, and their numbers in the new shard, for ``merged_tensors``."""
    parts, numbers = [], []
    for i in np.unique(shard).tolist():
        here = np.flatnonzero(shard == i)
        others = np.ones(len(shards[i]), np.bool_)
        others[number[here]] = False
        parts.append(shards[i].without(np.flatnonzero(others)))
        numbers.append(here[np.argsort(number[here])])
    return parts, np.concatenate(numbers)
