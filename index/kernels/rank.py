"""Which descriptors look into which cell, and the order of candidates: loops of assignment that numba compiles."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.scores import compiled
from ctxdeploy.index.kernels.vectors import LANES, gap

# Sorts behind every word.
NO_WORD = np.int32(2**31 - 1)


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
