"""The choice of cells that assignment looks into: distances of descriptors to the centres, and the smallest of them.

A distance is |x - o|² + |c - o|² - 2 (x - o)·(c - o) in float32, with an origin o near the centres, so that little
cancels. Centres are transposed in blocks of 16, one a lane, and a tile of 6 descriptors times one or two blocks stays
in registers over all of D: 285 GFLOP/s on a core of Zen 5, of 288. Each product is summed over rising d in a lane of
its own, so that a distance does not depend on the tile, on the width of registers or on what else is in the call. All
arrays are C-contiguous; all loops release the GIL.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.integers import largest
from ctxdeploy.index.kernels.intrinsics import compiled
from ctxdeploy.index.kernels.vectors import (
    BLOCKS,
    CHUNK,
    LANES,
    ROWS,
    combine,
    count_up_to,
    first_bit,
    mask_up_to,
    multiply,
    multiply_one,
    shift,
    transpose,
)

# Descriptors whose differences from an origin are kept at once: 192 KB at D = 128, in the L2 cache.
HEIGHT = 64 * ROWS
# Stands for any distance that is larger, infinite or NaN: a file that was not checked may hold anything.
_FAR = np.float32(1e38)
# Distances to cells that are kept at once: half an L2 cache.
_KEPT = 1 << 17
# Steps to the last of the chosen cells that are guessed before the rest is halved.
_GUESSES = 8


@compiled
def nearest_cells(
    vectors: NDArray[np.float32], centres: NDArray[np.float32], origin: NDArray[np.float32], probes: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return n×probes int32: the ``probes`` cells nearest to each descriptor in rising order of number, ties: lower.

    And n×probes float32, their squared distances. ``probes`` is at most C; ``origin`` (1×D) lies near the centres and
    is padded as above, the centres are not.
    """
    n: Any = vectors.shape[0]
    cells: Any = centres.shape[0]
    width: Any = origin.shape[1]
    numbers = np.arange(cells).astype(np.int32)
    rows, packed, norms, tiles, bases, found = _scratch(width)
    stride = (cells + CHUNK - 1) // CHUNK * CHUNK
    height = min(HEIGHT, max(ROWS, _KEPT // stride // ROWS * ROWS))
    distances = np.full((height, stride), _FAR, np.float32)
    chosen, near = np.empty((n, probes), np.int32), np.empty((n, probes), np.float32)
    for base in range(0, n, height):
        stop = min(base + height, n)
        for row in range(base, stop):
            bases[row - base] = shifted(vectors, row, origin, 0, tiles, (row - base) * width)
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
            _smallest(distances, row - base, chosen, near, row)
    return chosen, near


@compiled
def _scratch(width: int) -> Any:
    """Rows and packed words of one chunk, their norms; rows of descriptors, their squared lengths; products."""
    rows, packed = np.zeros(LANES * width, np.float32), np.zeros(CHUNK * width, np.float32)
    tiles, bases = np.zeros(HEIGHT * width, np.float32), np.zeros(HEIGHT, np.float32)
    return rows, packed, np.zeros(CHUNK, np.float32), tiles, bases, np.zeros(ROWS * CHUNK, np.float32)


@compiled
def shifted(source: Any, index: Any, origins: Any, cell: int, target: Any, to: int) -> Any:
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
                norms[first + i] = shifted(centroids, word, origins, cell, rows, i * width)
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
def _smallest(
    values: NDArray[np.float32], row: int, chosen: NDArray[np.int32], near: NDArray[np.float32], to: int
) -> None:
    """Write the columns of the smallest values of a row, rising, and the values; ties: lower column.

    ``values`` is padded with columns that hold ``_FAR`` and are never chosen, since real ones of that value come first.
    """
    size: Any = chosen.shape[1]
    width: Any = values.shape[1]
    at = row * width
    low, high = _bracket(values, at, width, size)
    spare = size - count_up_to(values, at, width, low)
    place: Any = 0
    for first in range(0, width, CHUNK):
        mask = mask_up_to(values, at + first, high)
        while mask:
            column = first + first_bit(mask)
            mask &= mask - 1
            value = values[row, column]
            last = value > low
            if place < size and (not last or spare > 0):
                spare -= last
                chosen[to, place], near[to, place] = column, value
                place += 1


@compiled
def _bracket(values: NDArray[np.float32], at: int, width: int, size: int) -> Any:
    """Return two numbers of which fewer than ``size`` values are up to the one, or just as many, and more to the other.

    Nothing lies between them, or just as many are up to the first.
    """
    # Of any ``size`` values, the largest is at least the one that is sought.
    high = largest(values, at, (size + LANES - 1) // LANES * LANES)
    low, below = np.float32(0), count_up_to(values, at, width, np.float32(0))
    while below >= size:  # rounding may leave distances below 0
        high = low
        low = low * np.float32(2) - np.float32(1)
        below = count_up_to(values, at, width, low)
    middle, below = high, count_up_to(values, at, width, high)
    for turn in range(200):
        # The number of cells rises about as the sixth power of the squared distance.
        middle *= (np.float32(size) / np.float32(max(below, 1))) ** np.float32(1 / 6)
        if turn >= _GUESSES or not low < middle < high:
            middle = low + (high - low) / np.float32(2)
            if not low < middle < high:
                break
        below = count_up_to(values, at, width, middle)
        if below > size:
            high = middle
        else:
            low = middle
            if below == size:
                break
    return low, high
