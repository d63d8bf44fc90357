"""The order of the words that may be nearest: by distance in float64, which no processor rounds otherwise."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import compiled, prefetch
from ctxdeploy.index.kernels.vectors import LANES, gap

# Sorts behind every word.
NO_WORD = np.int32(2**31 - 1)
# Descriptors whose words come into the cache before they are ranked.
_AHEAD = 4


@compiled
def kept(notes: Any, row: int, size: int, high: Any) -> int:
    """Drop the words of a row whose lower bound is above ``high``; return how many are left."""
    left = 0
    for i in range(size):
        notes[row, left, 0], notes[row, left, 1] = notes[row, i, 0], notes[row, i, 1]
        left += notes[row, i, 1] <= high
    return left


@compiled
def rank(
    vectors: NDArray[np.float32],
    centroids: NDArray[np.float32],
    found: Any,
    order: NDArray[np.int32],
    offsets: NDArray[np.int64],
    chosen: NDArray[np.int32],
    count: int,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Order what was noted, or where that was too much all words of the chosen cells, by distance in float64."""
    highs, notes, sizes = found
    n: Any = vectors.shape[0]
    words = np.full((n, count), NO_WORD, np.int32)
    distances = np.full((n, count), np.inf, np.float64)
    for ahead in range(n + _AHEAD):
        if ahead < n and sizes[ahead] > 0:
            sizes[ahead] = kept(notes, ahead, sizes[ahead], highs[ahead, count - 1])
            for i in range(sizes[ahead]):
                for d in range(0, centroids.shape[1], LANES):
                    prefetch(centroids, np.int64(notes[ahead, i, 0]) * centroids.shape[1] + d)
        row = ahead - _AHEAD
        if row < 0:
            continue
        if sizes[row] >= 0:
            for i in range(sizes[row]):
                word = np.int32(notes[row, i, 0])
                _insert(_gap(vectors, row, centroids, word), word, distances, words, row)
        else:
            for column in range(chosen.shape[1]):
                for place in range(offsets[chosen[row, column]], offsets[chosen[row, column] + 1]):
                    _insert(_gap(vectors, row, centroids, order[place]), order[place], distances, words, row)
        for column in range(count):
            if words[row, column] == NO_WORD:
                words[row, column] = -1
    return words, distances


@compiled
def _gap(vectors: NDArray[np.float32], row: int, centroids: NDArray[np.float32], word: int) -> Any:
    """Return the squared distance in float64, infinite instead of NaN."""
    dim: Any = vectors.shape[1]
    whole = dim - dim % LANES
    total = gap(vectors, row * dim, centroids, np.int64(word) * dim, whole)
    for d in range(whole, dim):
        difference = np.float64(vectors[row, d]) - np.float64(centroids[word, d])
        total += difference * difference
    return total if total < np.inf else np.inf


@compiled
def _insert(value: Any, word: Any, distances: Any, words: Any, row: int) -> None:
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
