"""Postings of shards in the memory of a GPU, as they lie in the shards' files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from ctxdeploy.index.gpu.kernels import Kernels
from ctxdeploy.index.gpu.tiling import Tiling
from ctxdeploy.index.storage.shard import Shard

# Bytes of a piece that is copied at a time, of which two are under way: memory that the system cannot move elsewhere.
PIECE = 32 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Postings of some shards, one after the other.

    Attributes:
        codes: uint64 C×P on the GPU.
        images: uint16 P.
        splits: uint32, where the photos of each range begin in each word's list, shard after shard.
    """

    codes: Any
    images: Any
    splits: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledShard:
    """Where a shard lies in a pool, which stays as long as one of its shards is needed.

    Attributes:
        pool: that holds it.
        first: its first posting there.
        split: its first entry in ``splits``.
        parts: ranges of photos, and so entries from word to word.
        photos: in the shard.
    """

    pool: Pool
    first: int
    split: int
    parts: int
    photos: int

    def ranges(self, number: int, tiling: Tiling) -> NDArray[np.int64]:
        """Return what ``kernels.score`` is told of each range, R×6, where the shard's first photo has this number."""
        part = np.arange(self.parts)
        low = part * tiling.photos
        whole = np.empty((self.parts, 6), np.int64)
        whole[:, 0] = self.split + part
        whole[:, 1] = self.parts
        whole[:, 2] = self.first
        whole[:, 3] = low
        whole[:, 4] = np.minimum(self.photos - low, tiling.photos)
        whole[:, 5] = number + low
        return whole


def parts_of(shard: Shard, tiling: Tiling) -> int:
    """Return into how many ranges the photos of a shard are divided."""
    return -(-len(shard) // tiling.photos)


def pool_bytes(shards: Sequence[Shard], columns: int, tiling: Tiling) -> int:
    """Return what the postings of shards take: 18 bytes each at 128 dimensions, and the table of ranges, 4% of them."""
    postings = sum(len(shard.images) for shard in shards)
    splits = sum((len(shard.word_offsets) - 1) * parts_of(shard, tiling) + 1 for shard in shards)
    return postings * (8 * columns + 2) + 4 * splits


def fill_pool(shards: Sequence[Shard], columns: int, tiling: Tiling, loops: Kernels, stream: Any) -> list[PooledShard]:
    """Copy the postings of shards into a new pool, and return where each lies; the GPU is the current one."""
    postings = sum(len(shard.images) for shard in shards)
    entries = [(len(shard.word_offsets) - 1) * parts_of(shard, tiling) + 1 for shard in shards]
    pool = Pool(
        codes=cuda.device_array((columns, max(postings, 1)), np.uint64, stream=stream),
        images=cuda.device_array(max(postings, 1), np.uint16, stream=stream),
        splits=cuda.device_array(sum(entries), np.uint32, stream=stream),
    )
    sender = _Sender(stream)
    placed: list[PooledShard] = []
    first = split = 0
    for shard, count in zip(shards, entries, strict=True):
        until = first + len(shard.images)
        for column in range(columns):
            sender.send(shard.codes[column], pool.codes[column], first)
        sender.send(shard.images, pool.images, first)
        words, parts = len(shard.word_offsets) - 1, parts_of(shard, tiling)
        offsets = cuda.to_device(np.ascontiguousarray(shard.word_offsets), stream=stream)
        blocks = min(-(-count // tiling.wide), tiling.blocks)
        loops.split_lists[blocks, tiling.wide, stream](
            pool.images, offsets, first, words, parts, tiling.photos, pool.splits, split
        )
        placed.append(PooledShard(pool=pool, first=first, split=split, parts=parts, photos=len(shard)))
        first, split = until, split + count
    stream.synchronize()
    return placed


class _Sender:
    """Copies arrays of mapped files piece by piece: one piece is read from the disk while the one before it is sent."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._pieces = [cuda.pinned_array(PIECE, np.uint8) for _ in range(2)]
        self._sent = [cuda.event() for _ in range(2)]
        self._turn = 0

    def send(self, source: NDArray[Any], target: Any, begin: int) -> None:
        """Copy an array to ``target[begin:]``."""
        count = PIECE // source.dtype.itemsize
        for low in range(0, len(source), count):
            part = source[low : low + count]
            self._turn ^= 1
            piece, sent = self._pieces[self._turn], self._sent[self._turn]
            sent.synchronize()
            staged = piece[: part.nbytes].view(part.dtype)
            np.copyto(staged, part)
            target[begin + low : begin + low + len(part)].copy_to_device(staged, stream=self._stream)
            sent.record(self._stream)
