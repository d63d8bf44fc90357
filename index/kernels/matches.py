"""The loops that match the features of two photos.

Descriptors are compared by their cosine, in whole numbers: unit vectors in steps of 1/32,000, whose products are exact
in int32, so that the nearest is the same on every processor. Of 20,018 matches in float32, 20,002 are the same; in int8
(a step for each vector) 97 % would be.
"""

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import compiled, popcount
from ctxdeploy.index.kernels.products import BLOCKS, LANES, ROWS, dots
from ctxdeploy.index.kernels.vectors import gap
from ctxdeploy.index.kernels.verification import FULL

# Squares of it, and sums of two of them, fit into int32.
LENGTH = 32000.0
# Photos are padded to a multiple of so many features, and by what ``dots`` reads of rows at once.
SIDE = BLOCKS * LANES


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
        m×2 features, and their weights: ``FULL``, and 1 more for each bit by which the codes differ less than they may.
    """
    size = 0
    matches = np.empty((2 * max(len(query), len(photo)), 2), np.int32)
    weights = np.empty(len(matches), np.int32)
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
                                weights = np.concatenate((weights, np.empty_like(weights)))
                            matches[size, 0], matches[size, 1] = q, p
                            weights[size] = FULL + furthest - differing
                            size += 1
            i, j = end, stop
    return matches[:size], weights[:size]


@compiled
def quantised(vectors: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return vectors (n×D) as ``mutual`` takes them: of length ``LENGTH``, whole numbers, padded with zeros.

    A vector without a length, or with one that is not finite, is all zeros.
    """
    count, dim = vectors.shape
    whole = dim - dim % LANES
    zeros = np.zeros(LANES if whole == 0 else whole, np.float32)
    result = np.zeros((-(-(count + ROWS - 1) // SIDE) * SIDE, dim + dim % 2), np.int16)
    for row in range(count):
        total = gap(vectors, row * dim, zeros, 0, whole)
        for d in range(whole, dim):
            total += np.float64(vectors[row, d]) * np.float64(vectors[row, d])
        if 0.0 < total < np.inf:
            factor = np.float32(LENGTH / np.sqrt(total))
            for d in range(dim):
                result[row, d] = np.int16(np.rint(vectors[row, d] * factor))
    return result


@compiled
def packed(numbers: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return what ``quantised`` made as the right side of ``mutual``: 16 rows side by side, two numbers of each."""
    rows, dim = numbers.shape
    result = np.empty((rows // LANES, dim // 2, LANES, 2), np.int16)
    for block in range(rows // LANES):
        for pair in range(dim // 2):
            for lane in range(LANES):
                for k in range(2):
                    result[block, pair, lane, k] = numbers[block * LANES + lane, 2 * pair + k]
    return result


@compiled
def mutual(
    left: NDArray[np.int16], count: int, right: NDArray[np.int16], size: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the pairs that are each the other's most similar, by rising left number.

    A pair's product is the largest of its row and of its column; of equal ones a column takes the first row, and a row
    the first column that took it.

    Args:
        left: of ``quantised``.
        count: its vectors that count.
        right: of ``packed``.
        size: its vectors that count.

    Returns:
        m×2 numbers, and their weights, cosine⁸ · ``FULL``: 0.5 counts a 256th, for most such matches are chance.
    """
    dim = left.shape[1]
    wide = right.shape[0] * LANES
    products = np.empty((ROWS, wide), np.int32)
    row_most = np.zeros(count, np.int32)
    most = np.full(wide, 0, np.int32)
    nearest = np.full(wide, -1, np.int32)
    for first in range(0, count, ROWS):
        for column in range(0, wide, LANES * BLOCKS):
            dots(left, first * dim, right, column * dim, dim // 2, products, column, wide)
        for row in range(first, min(first + ROWS, count)):
            here = products[row - first]
            largest = np.int32(0)
            number = np.int32(row)
            for column in range(wide):
                value = here[column]
                largest = max(largest, value)
                nearest[column] = number if value > most[column] else nearest[column]
                most[column] = max(value, most[column])
            row_most[row] = largest
    partner = np.full(count, -1, np.int32)
    found = 0
    for column in range(size):
        row = nearest[column]
        if row >= 0 and most[column] == row_most[row] and partner[row] < 0:
            partner[row] = column
            found += 1
    matches = np.empty((found, 2), np.int32)
    weights = np.empty(found, np.int32)
    at = 0
    for row in range(count):
        if partner[row] >= 0:
            matches[at, 0], matches[at, 1] = row, partner[row]
            cosine = row_most[row] / (LENGTH * LENGTH)
            fourth = cosine * cosine * cosine * cosine
            weights[at] = max(int(fourth * fourth * FULL), 1)
            at += 1
    return matches, weights
