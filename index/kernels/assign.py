"""The loops of assignment that numba compiles: distances of descriptors to words, and the best of them.

A distance is |x - o|² + |w - o|² - 2 (x - o)·(w - o) in float32, with an origin o near the words (their cell's centre),
so that little cancels. Words are transposed in blocks of 16, one word a lane, and a tile of 6 descriptors times one or
two blocks stays in registers over all of D: 285 GFLOP/s on a core of Zen 5, of 288. Each product is summed over rising
d in a lane of its own, so that a distance does not depend on the tile, on the width of registers or on what else is in
the call. All arrays are C-contiguous; all loops release the GIL.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import compiled
from ctxdeploy.index.kernels.vectors import (
    BLOCKS,
    CHUNK,
    LANES,
    ROWS,
    combine,
    count_up_to,
    first_bit,
    gap,
    insert,
    mask_up_to,
    multiply,
    multiply_one,
    shift,
    transpose,
)

# Sorts behind every word.
NO_WORD = np.int32(2**31 - 1)
# Descriptors whose differences from an origin are kept at once: 192 KB at D = 128, in the L2 cache.
HEIGHT = 64 * ROWS
# Stands for any distance that is larger, infinite or NaN: a file that was not checked may hold anything.
_FAR = np.float32(1e38)
# Distances to cells that are kept at once: half an L2 cache.
_KEPT = 1 << 17


@compiled
def search_cells(
    vectors: NDArray[np.float32],
    centroids: NDArray[np.float32],
    origins: NDArray[np.float32],
    order: NDArray[np.int32],
    offsets: NDArray[np.int64],
    members: NDArray[np.int32],
    member_offsets: NDArray[np.int64],
    kept: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return n×kept int32, the nearest words of each descriptor in its cells, -1 where there are fewer; distances.

    Args:
        vectors: n×D.
        centroids: W×D.
        origins: C×D, near the words of each cell, padded with zeros to a multiple of 16 columns.
        order: words by cell, each in 0..W-1; those of cell c are ``order[offsets[c]:offsets[c + 1]]``.
        offsets: C+1, in 0..W.
        members: rows of ``vectors`` by cell, those of cell c from ``member_offsets[c]``.
        member_offsets: C+1.
        kept: words a descriptor.
    """
    width: Any = origins.shape[1]
    columns = max(kept, LANES)
    distances = np.full((vectors.shape[0], columns), np.inf, np.float32)
    words = np.full((vectors.shape[0], columns), NO_WORD, np.int32)
    scratch = _scratch(width)
    rows, packed, norms, tiles, bases, _ = scratch
    for cell in range(offsets.size - 1):
        for begin in range(member_offsets[cell], member_offsets[cell + 1], HEIGHT):
            some = members[begin : min(begin + HEIGHT, member_offsets[cell + 1])]
            for r in range(some.size):
                bases[r] = _shifted(vectors, some[r], origins, cell, tiles, r * width)
            for start in range(offsets[cell], offsets[cell + 1], CHUNK):
                size = min(CHUNK, offsets[cell + 1] - start)
                _pack(centroids, order, start, size, origins, cell, rows, packed, norms)
                ahead = np.int64(order[min(start + size, order.size - 1)]) * vectors.shape[1]
                _offer(scratch, some, order[start : start + size], distances, words, kept, centroids, ahead)
    for row in range(words.shape[0]):
        for column in range(kept):
            if words[row, column] == NO_WORD:
                words[row, column] = -1
    return words[:, :kept].copy(), distances[:, :kept].copy()


@compiled
def _offer(
    scratch: Any,
    members: NDArray[np.int32],
    chunk: NDArray[np.int32],
    distances: NDArray[np.float32],
    words: NDArray[np.int32],
    kept: int,
    centroids: NDArray[np.float32],
    ahead: int,
) -> None:
    """Put the words of a packed chunk among the best of every member, where they belong there.

    The next chunk's words, from ``centroids`` at ``ahead`` on if they lie in order, come into the cache meanwhile: one
    half with every other tile. It saves 1 ms of 12 for 1000 descriptors.
    """
    _, packed, norms, tiles, bases, found = scratch
    width: Any = packed.size // CHUNK
    columns = words.shape[1]
    valid: Any = -1 if chunk.size == CHUNK else (1 << chunk.size) - 1
    for first in range(0, members.size, ROWS):
        half = ahead + first // ROWS % 2 * (CHUNK // 2) * width
        _products(tiles, first * width, packed, width, chunk.size, found, centroids, half)
        for r in range(min(ROWS, members.size - first)):
            row = members[first + r]
            place = r * CHUNK
            mask = valid & combine(
                found, place, norms, 0, bases[first + r], _FAR, found, place, distances[row, kept - 1]
            )
            while mask:
                lane = first_bit(mask)
                mask &= mask - 1
                if columns == LANES:
                    insert(found[place + lane], chunk[lane], distances, row * LANES, words, row * LANES)
                else:
                    insert_sorted(found[place + lane], chunk[lane], distances, words, row)


@compiled
def nearest_cells(
    vectors: NDArray[np.float32], centres: NDArray[np.float32], origin: NDArray[np.float32], probes: int
) -> NDArray[np.int32]:
    """Return n×probes int32: the ``probes`` cells nearest to each descriptor in rising order of number, ties: lower.

    ``probes`` is at most C; ``origin`` (1×D) lies near the centres and is padded as above, the centres are not.
    """
    n: Any = vectors.shape[0]
    cells: Any = centres.shape[0]
    width: Any = origin.shape[1]
    numbers = np.arange(cells).astype(np.int32)
    rows, packed, norms, tiles, bases, found = _scratch(width)
    stride = (cells + CHUNK - 1) // CHUNK * CHUNK
    height = min(HEIGHT, max(ROWS, _KEPT // stride // ROWS * ROWS))
    distances = np.full((height, stride), _FAR, np.float32)
    chosen = np.empty((n, probes), np.int32)
    for base in range(0, n, height):
        stop = min(base + height, n)
        for row in range(base, stop):
            bases[row - base] = _shifted(vectors, row, origin, 0, tiles, (row - base) * width)
        for start in range(0, cells, CHUNK):
            size = min(CHUNK, cells - start)
            _pack(centres, numbers, start, size, origin, 0, rows, packed, norms)
            for first in range(0, stop - base, ROWS):
                _products(tiles, first * width, packed, width, size, found, packed, 0)
                for r in range(min(ROWS, stop - base - first)):
                    place = (first + r) * stride + start
                    combine(found, r * CHUNK, norms, 0, bases[first + r], _FAR, distances, place, _FAR)
        for row in range(base, stop):
            distances[row - base, cells:] = _FAR
            _smallest(distances, row - base, chosen, row)
    return chosen


@compiled
def _scratch(width: int) -> Any:
    """Rows and packed words of one chunk, their norms; rows of descriptors, their squared lengths; products."""
    rows, packed = np.zeros(LANES * width, np.float32), np.zeros(CHUNK * width, np.float32)
    tiles, bases = np.zeros(HEIGHT * width, np.float32), np.zeros(HEIGHT, np.float32)
    return rows, packed, np.zeros(CHUNK, np.float32), tiles, bases, np.zeros(ROWS * CHUNK, np.float32)


@compiled
def _shifted(source: Any, index: Any, origins: Any, cell: int, target: Any, to: int) -> Any:
    """Write a row of ``source`` minus the cell's origin, padded with zeros; return its squared length."""
    dim: Any = source.shape[1]
    width: Any = origins.shape[1]
    if dim == width:
        return shift(source, index * dim, origins, cell * width, target, to, width)
    for d in range(dim):
        target[to + d] = source[index, d]
    target[to + dim : to + width] = 0
    return shift(target, to, origins, cell * width, target, to, width)


@compiled
def _pack(
    centroids: NDArray[np.float32],
    order: NDArray[np.int32],
    start: int,
    size: int,
    origins: NDArray[np.float32],
    cell: int,
    rows: NDArray[np.float32],
    packed: NDArray[np.float32],
    norms: NDArray[np.float32],
) -> None:
    """Subtract the origin from up to 64 words and transpose them; a last block keeps old rows, never looked at."""
    width: Any = origins.shape[1]
    whole = centroids.shape[1] == width
    for first in range(0, size, LANES):
        for i in range(min(LANES, size - first)):
            word = order[start + first + i]
            if whole:
                norms[first + i] = shift(centroids, word * width, origins, cell * width, rows, i * width, width)
            else:
                norms[first + i] = _shifted(centroids, word, origins, cell, rows, i * width)
        for d in range(0, width, LANES):
            transpose(rows, d, width, packed, first * width + d * LANES)


@compiled
def _products(tiles: Any, at: int, packed: Any, width: int, size: int, found: Any, ahead: Any, next_: int) -> None:
    start: Any = 0
    while start + LANES * (BLOCKS - 1) < size:
        multiply(tiles, at, packed, start * width, width, found, start, ahead, next_)
        start += LANES * BLOCKS
        next_ += LANES * width
    while start < size:
        multiply_one(tiles, at, packed, start * width, width, found, start, ahead, next_)
        start += LANES


@compiled
def _smallest(values: NDArray[np.float32], row: int, chosen: NDArray[np.int32], to: int) -> None:
    """Write the columns of the smallest values of a row, rising; ties: lower column. Bisects the value.

    ``values`` is padded with columns that hold ``_FAR`` and are never chosen, since real ones of that value come first.
    """
    size: Any = chosen.shape[1]
    width: Any = values.shape[1]
    at = row * width
    high = values[row, 0]
    for i in range(1, size):  # of any ``size`` values, the largest is at least the one that is sought
        high = max(high, values[row, i])
    low = np.float32(0)
    while count_up_to(values, at, width, low) >= size:  # rounding may leave distances below 0
        high = low
        low = low * np.float32(2) - np.float32(1)
    # Fewer than ``size`` values are up to ``low``, and at least ``size`` up to ``high``.
    while True:
        middle = low + (high - low) / np.float32(2)
        if not low < middle < high:
            break
        below = count_up_to(values, at, width, middle)
        if below == size:
            low = middle
            break
        if below > size:
            high = middle
        else:
            low = middle
    spare = size - count_up_to(values, at, width, low)
    place: Any = 0
    for first in range(0, width, LANES):
        mask = mask_up_to(values, at + first, high)
        while mask and place < size:
            column = first + first_bit(mask)
            mask &= mask - 1
            if values[row, column] > low:
                if spare == 0:
                    continue
                spare -= 1
            chosen[to, place] = column
            place += 1


@compiled
def by_cell(chosen: NDArray[np.int32], cells: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the rows of ``chosen`` (n×p cells) by cell, in rising order, and where each cell's begin (cells + 1)."""
    offsets = np.zeros(cells + 1, np.int64)
    for row in range(chosen.shape[0]):
        for column in range(chosen.shape[1]):
            offsets[chosen[row, column] + 1] += 1
    for number in range(cells):
        offsets[number + 1] += offsets[number]
    cursors = offsets[:-1].copy()
    members = np.empty(chosen.size, np.int32)
    for row in range(chosen.shape[0]):
        for column in range(chosen.shape[1]):
            cell = chosen[row, column]
            members[cursors[cell]] = row
            cursors[cell] += 1
    return members, offsets


@compiled
def nearest_of(words: NDArray[np.int32], distances: NDArray[np.float32], start: int, stop: int) -> NDArray[np.int32]:
    """Return the nearest words of rows ``start`` to ``stop`` of p lists of them, ties by number, as one list has them.

    Args:
        words: p×n×k, sorted by (distance, word), -1 for none.
        distances: p×n×k.

    Returns:
        (stop - start)×k, -1 where there are fewer.
    """
    kept = words.shape[2]
    best = np.full((stop - start, kept), NO_WORD, np.int32)
    near = np.full((stop - start, kept), np.inf, np.float32)
    for row in range(stop - start):
        for part in range(words.shape[0]):
            for column in range(kept):
                if words[part, start + row, column] >= 0:
                    insert_sorted(
                        distances[part, start + row, column], words[part, start + row, column], near, best, row
                    )
        for column in range(kept):
            if best[row, column] == NO_WORD:
                best[row, column] = -1
    return best


@compiled
def rank(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], candidates: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Order candidates (n×k words, -1 for none) by float64 distance, ties by number; keep ``count``.

    Returns n×count int32 words (-1 where candidates were missing) and n×count squared distances (inf there, and where
    a centroid is not finite).
    """
    n, dim = vectors.shape
    whole = dim - dim % LANES
    words = np.full((n, count), NO_WORD, np.int32)
    distances = np.full((n, count), np.inf, np.float64)
    for row in range(n):
        for column in range(candidates.shape[1]):
            word = candidates[row, column]
            if word < 0:
                continue
            total = gap(vectors, row * dim, centroids, np.int64(word) * dim, whole)
            for d in range(whole, dim):
                difference = np.float64(vectors[row, d]) - np.float64(centroids[word, d])
                total += difference * difference
            if not total < np.inf:
                total = np.inf
            insert_sorted(total, word, distances, words, row)
        for column in range(count):
            if words[row, column] == NO_WORD:
                words[row, column] = -1
    return words, distances


@compiled
def insert_sorted(value: Any, word: Any, distances: Any, words: Any, row: int) -> None:
    """Put a word into its place in a row that is sorted by (distance, word), or nowhere."""
    size = words.shape[1]
    place = size
    while place > 0 and (
        distances[row, place - 1] > value or (distances[row, place - 1] == value and words[row, place - 1] > word)
    ):
        if place < size:
            distances[row, place] = distances[row, place - 1]
            words[row, place] = words[row, place - 1]
        place -= 1
    if place < size:
        distances[row, place] = value
        words[row, place] = word
