"""The loops of training, aggregation and writing that numba compiles; imported on first use, as ``kernels``."""

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import compiled, prefetch

# Words of a photo whose centroids come into the cache before they are needed.
_RUNS_AHEAD = 8


@compiled
def sum_by_word(
    vectors: NDArray[np.float32],
    words: NDArray[np.int32],
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
    first: int,
    end: int,
) -> None:
    """Add every vector of a word from ``first`` to before ``end`` to the row of ``sums`` (W×D) of its word; count it.

    Rows are added in their order, however the words are divided among threads.
    """
    for row in range(vectors.shape[0]):
        word = words[row]
        if word < first or word >= end:
            continue
        counts[word] += 1
        for d in range(vectors.shape[1]):
            sums[word, d] += np.float64(vectors[row, d])


@compiled
def residuals(
    vectors: NDArray[np.float32],
    centroids: NDArray[np.float32],
    words: NDArray[np.int32],
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Sum d - centroid over runs of equal words: ``words`` sorted, ``rows`` of ``vectors``, run i from ``starts[i]``.

    float32 in the order of the rows, as the reference sums. A row that names a word twice counts once. Rows are taken
    out before the inner loop, which the compiler vectorises only then: 0.03 ms for 1000 descriptors instead of 0.23.
    Centroids of the next runs come into the cache meanwhile.
    """
    dim = vectors.shape[1]
    sums = np.zeros((starts.size - 1, dim), np.float32)
    for run in range(starts.size - 1):
        if run + _RUNS_AHEAD < starts.size - 1:
            next_ = np.int64(words[starts[run + _RUNS_AHEAD]]) * dim
            for d in range(0, dim, 16):
                prefetch(centroids, next_ + d)
        target = sums[run]
        centre = centroids[words[starts[run]]]
        for i in range(starts[run], starts[run + 1]):
            if i > starts[run] and rows[i] == rows[i - 1]:
                continue
            source = vectors[rows[i]]
            for d in range(dim):
                target[d] += source[d] - centre[d]
    return sums


@compiled
def pack(sums: NDArray[np.float32], columns: int) -> NDArray[np.uint64]:
    """Return n×columns uint64: bit d % 64 of column d // 64 is set where ``sums[:, d] > 0``; bits from D on are 0.

    Without a branch, which would be mispredicted for half of the bits: 0.02 ms for 400 words instead of 0.19.
    """
    codes = np.zeros((sums.shape[0], columns), np.uint64)
    for row in range(sums.shape[0]):
        line = sums[row]
        for column in range(columns):
            bits = np.uint64(0)
            for d in range(64 * column, min(64 * column + 64, sums.shape[1])):
                bits |= np.uint64(line[d] > np.float32(0)) << np.uint64(d - 64 * column)
            codes[row, column] = bits
    return codes


@compiled
def place_postings(
    words: NDArray[np.int32], images: NDArray[np.uint16], cursors: NDArray[np.int64], target: NDArray[np.uint16]
) -> NDArray[np.int64]:
    """Counting sort by word, stable: write ``images`` to ``target``, return each posting's place; moves ``cursors``."""
    places = np.empty(words.size, np.int64)
    for i in range(words.size):
        place = cursors[words[i]]
        cursors[words[i]] = place + 1
        places[i] = place
        target[place] = images[i]
    return places


@compiled
def hash_names(names: NDArray[np.uint8], offsets: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return n FNV-1a hashes (64 bits) of the names that ``offsets`` (n+1, checked) cut ``names`` into."""
    hashes = np.empty(offsets.size - 1, np.uint64)
    for i in range(hashes.size):
        value = np.uint64(0xCBF29CE484222325)
        for place in range(np.int64(offsets[i]), np.int64(offsets[i + 1])):
            value = (value ^ np.uint64(names[place])) * np.uint64(0x100000001B3)
        hashes[i] = value
    return hashes


@compiled
def count_words(offsets: NDArray[np.uint32], images: NDArray[np.uint16], live: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the postings of every word whose image is live; ``live`` has 65,536 places. Returns W counts."""
    counts = np.zeros(offsets.size - 1, np.int64)
    for word in range(counts.size):
        for p in range(np.int64(offsets[word]), np.int64(offsets[word + 1])):
            counts[word] += live[images[p]]
    return counts


@compiled
def renumber(
    offsets: NDArray[np.uint32],
    images: NDArray[np.uint16],
    live: NDArray[np.bool_],
    numbers: NDArray[np.uint16],
    cursors: NDArray[np.int64],
    target: NDArray[np.uint16],
) -> NDArray[np.int64]:
    """Append every word's live postings to the merged lists; moves ``cursors`` (W, the lists' present ends).

    ``live`` and ``numbers`` (the images' numbers in the merged shard) have 65,536 places. Returns each posting's place
    in the merged lists, -1 for one that is left out. A place beyond ``target`` (a damaged list) is left out too.
    """
    places = np.full(images.size, -1, np.int64)
    for word in range(cursors.size):
        for p in range(np.int64(offsets[word]), np.int64(offsets[word + 1])):
            place = cursors[word]
            if live[images[p]] and place < target.size:
                cursors[word] = place + 1
                target[place] = numbers[images[p]]
                places[p] = place
    return places


@compiled
def scatter_columns(source: NDArray[np.uint64], places: NDArray[np.int64], target: NDArray[np.uint64]) -> None:
    """Copy the columns of ``source`` (C×P) to their places in ``target``, but those with place -1."""
    for column in range(source.shape[0]):
        for p in range(places.size):
            if places[p] >= 0:
                target[column, places[p]] = source[column, p]
