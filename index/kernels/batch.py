"""The loop of many queries over codes of two columns: each word's postings are read once for all of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import (
    LANES,
    compiled,
    has_wide_popcount,
    inlined,
    keep_lanes,
    popcount,
    prefetch,
)

BLOCK = 1024
# What a query may keep before it goes into its scores: 64 KB beside scores of 128 KB. Half of it is up to 6% slower.
KEPT = 16384
# Besides, there is place for what one block adds: its head, its postings, and the lanes that a store overruns.
SPARE = 2 + BLOCK + LANES
# Words between the postings that are compared and those that are fetched, and the postings fetched per sixteen at most.
_LATER = 2
_MAX_FETCHED = 32
# Postings that are added, and scores (two cache lines at most) that are fetched meanwhile.
_ADDED = 8
_LINE = 16
_SHIFT = np.uint32(16)
_DISTANCE = np.uint32(0xFFFF)


@inlined
def _append_plain(
    left: NDArray[np.uint64],
    right: NDArray[np.uint64],
    images: NDArray[np.uint16],
    begin: int,
    end: int,
    owners: NDArray[np.int64],
    query: NDArray[np.uint64],
    first: int,
    count: int,
    low: int,
    mask: int,
    limit: int,
    kept: NDArray[np.uint32],
    sizes: NDArray[np.int64],
) -> None:
    a, b, numbers = left[begin:end], right[begin:end], images[begin:end]
    for entry in range(first, first + count):
        size = sizes[owners[entry]]
        target = kept[size : size + a.size]
        for i in range(a.size):
            column = np.uint32((np.int64(numbers[i]) - low) & mask)
            distance = np.uint32(popcount(a[i] ^ query[entry, 0]) + popcount(b[i] ^ query[entry, 1]))
            target[i] = column << _SHIFT | distance
        sizes[owners[entry]] = size + a.size


@inlined
def _append_wide(
    left: NDArray[np.uint64],
    right: NDArray[np.uint64],
    images: NDArray[np.uint16],
    begin: int,
    end: int,
    owners: NDArray[np.int64],
    query: NDArray[np.uint64],
    first: int,
    count: int,
    low: int,
    mask: int,
    limit: int,
    kept: NDArray[np.uint32],
    sizes: NDArray[np.int64],
) -> None:
    # Sixteen are read at a time, so the last list of a shard must not end within fifteen of the arrays' end.
    if begin + LANES > images.size:
        _append_plain(left, right, images, begin, end, owners, query, first, count, low, mask, limit, kept, sizes)
    else:
        inside = (1 << (end - begin)) - 1
        keep_lanes(left, right, images, begin, owners, query, first, count, low, mask, inside, limit, kept, sizes)


# Both give the same scores: what the first leaves out would add 0.
_append: Any = _append_wide if has_wide_popcount() else _append_plain


@compiled
def score_pairs_of_many(
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    starts: NDArray[np.int64],
    owners: NDArray[np.int64],
    query: NDArray[np.uint64],
    weights: NDArray[np.float32],
    table: NDArray[np.float32],
    low: int,
    kept: NDArray[np.uint32],
    scores: NDArray[np.float32],
) -> None:
    """Add weight · table[Hamming] to the column (photo - ``low``) of ``scores`` for every posting; codes 2×P.

    The scores of 64 queries do not fit the L2 cache, and a posting touches a line of each query that has the word. So
    what a query's postings add first goes into its own part of ``kept`` (KEPT + SPARE a query), in order: weights of
    0, half of all, are left out where the processor can. When a part is full, all queries are scored in turn.

    Sixteen postings at a time are compared with all queries of their word; the postings of the word after the next are
    fetched meanwhile, a few lines at a time, since a burst of fetches stops the processor until they are done.
    """
    left, right = codes[0], codes[1]
    factors = kept.view(np.float32)
    stride = KEPT + SPARE
    mask = scores.shape[1] - 1
    limit: Any = table.size
    while limit > 0 and table[limit - 1] == np.float32(0):
        limit -= 1
    sizes = np.arange(scores.shape[0]) * stride
    heads = np.full(scores.shape[0], -1, np.int64)
    for word in range(begins.size):
        following = min(word + _LATER, begins.size - 1)
        ahead: Any = begins[following]
        vectors = max((ends[word] - begins[word] + LANES - 1) // LANES, 1)
        step = min((ends[following] - ahead) // vectors + 1, _MAX_FETCHED)
        first, count = starts[word], starts[word + 1] - starts[word]
        for begin in range(begins[word], ends[word], BLOCK):
            end = min(begin + BLOCK, ends[word])
            full = False
            for entry in range(first, first + count):
                full |= sizes[owners[entry]] > owners[entry] * stride + KEPT
            if full:
                _spend(kept, factors, sizes, heads, table, scores)
            for entry in range(first, first + count):
                owner = owners[entry]
                head, size = heads[owner], sizes[owner]
                if head < 0 or factors[head + 1] != weights[entry]:
                    if head >= 0:
                        kept[head] = np.uint32(size - head - 2)
                    factors[size + 1] = weights[entry]
                    heads[owner], sizes[owner] = size, size + 2
            for place in range(begin, end, LANES):
                for i in range(0, step, LANES // 2):
                    prefetch(left, ahead + i)
                    prefetch(right, ahead + i)
                prefetch(images, ahead)
                ahead += step
                stop = min(place + LANES, end)
                _append(left, right, images, place, stop, owners, query, first, count, low, mask, limit, kept, sizes)
    _spend(kept, factors, sizes, heads, table, scores)


@compiled
def _spend(
    kept: NDArray[np.uint32],
    factors: NDArray[np.float32],
    sizes: NDArray[np.int64],
    heads: NDArray[np.int64],
    table: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    """Add what is kept of all queries and forget it: runs of a count, a weight, and as many postings.

    The scores of the next query are fetched evenly meanwhile: without that, 8 of 62 ms are spent waiting for them.
    """
    stride = KEPT + SPARE
    for owner in range(scores.shape[0]):
        row, after = scores[owner], scores[(owner + 1) % scores.shape[0]]
        head: Any = owner * stride
        step = min(after.size * _ADDED // (sizes[owner] - head + 1) + 1, 2 * _LINE)
        ahead: Any = np.int64(0)
        if heads[owner] >= 0:
            kept[heads[owner]] = np.uint32(sizes[owner] - heads[owner] - 2)
        while head < sizes[owner]:
            part = kept[head + 2 : head + 2 + np.int64(kept[head])]
            weight = factors[head + 1]
            whole = part.size - part.size % _ADDED
            for i in range(0, whole, _ADDED):
                prefetch(after, ahead)
                prefetch(after, ahead + _LINE)
                ahead += step
                for j in range(_ADDED):
                    row[part[i + j] >> _SHIFT] += table[part[i + j] & _DISTANCE] * weight
            for i in range(whole, part.size):
                row[part[i] >> _SHIFT] += table[part[i] & _DISTANCE] * weight
            head += 2 + part.size
        sizes[owner], heads[owner] = owner * stride, -1
