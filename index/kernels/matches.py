"""The loops that match the features of two photos."""

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import compiled, popcount


@compiled
def of_words(
    query: NDArray[np.int32],
    photo: NDArray[np.int32],
    query_codes: NDArray[np.uint64],
    photo_codes: NDArray[np.uint64],
    furthest: int,
    limit: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the pairs of features of one word whose codes differ little, by rising query feature.

    Args:
        query: n rising words.
        photo: n' rising words.
        query_codes: n×C, or n×0 to compare no codes.
        photo_codes: n'×C.
        furthest: bits that may differ.
        limit: pairs that a word may have; more of them say nothing about where.

    Returns:
        m×2 features, and m strengths, ``furthest`` - differing bits.
    """
    size = 0
    matches = np.empty((max(len(query), len(photo)), 2), np.int32)
    strengths = np.empty(len(matches), np.int32)
    i = j = 0
    while i < len(query) and j < len(photo):
        if query[i] < photo[j]:
            i += 1
        elif query[i] > photo[j]:
            j += 1
        else:
            end, stop = i, j
            while end < len(query) and query[end] == query[i]:
                end += 1
            while stop < len(photo) and photo[stop] == photo[j]:
                stop += 1
            if (end - i) * (stop - j) <= limit:
                for q in range(i, end):
                    for p in range(j, stop):
                        differing = 0
                        for column in range(query_codes.shape[1]):
                            differing += int(popcount(query_codes[q, column] ^ photo_codes[p, column]))
                        if differing <= furthest:
                            if size == len(matches):
                                matches = np.concatenate((matches, np.empty_like(matches)))
                                strengths = np.concatenate((strengths, np.empty_like(strengths)))
                            matches[size, 0], matches[size, 1] = q, p
                            strengths[size] = furthest - differing
                            size += 1
            i, j = end, stop
    return matches[:size], strengths[:size]


@compiled
def mutual(similarities: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the pairs that are each the other's most similar, ties by number, and how similar in millionths.

    Args:
        similarities: n×n' cosines.
    """
    rows, columns = similarities.shape
    nearest = np.zeros(columns, np.int32)
    most = np.full(columns, -np.inf, np.float32)
    first = np.zeros(rows, np.int32)
    for row in range(rows):
        best = np.float32(-np.inf)
        for column in range(columns):
            value = similarities[row, column]
            if value > best:
                best, first[row] = value, column
            if value > most[column]:
                most[column], nearest[column] = value, row
    matches = np.empty((rows, 2), np.int32)
    strengths = np.empty(rows, np.int32)
    size = 0
    for row in range(rows):
        if columns and nearest[first[row]] == row:
            matches[size, 0], matches[size, 1] = row, first[row]
            strengths[size] = int(similarities[row, first[row]] * 1e6)
            size += 1
    return matches[:size], strengths[:size]
