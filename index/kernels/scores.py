"""The loops of a search that numba compiles: imported on first use, since numba takes 0.5 s to import.

All release the GIL, none uses fast-math, and every sum has a fixed order, so that a result never depends on threads,
on shards or on what else is in a call.

What the loops over postings have in common: ``begins`` and ``ends`` (int64) bound the postings of each word, within
the arrays of a shard. ``scores`` are float32, as many rows as queries and a power of two of columns: a photo's column
is its number above ``low``, modulo that, so that no number, of a damaged shard either, is out of bounds. Entry e is one
query's code of a word: ``query[e]``, ``weights[e]`` (float32), to be added to row ``owners[e]`` of ``scores``; the
entries of word i are ``starts[i]`` .. ``starts[i + 1]``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import LANES, compiled, popcount, prefetch

# Postings of one step of ``score_pairs``.
PAIR_BLOCK = 1024
# Postings of a cache line of codes.
LINE = 8
# Postings that are compared with all queries of a word while they are in the innermost cache.
CODE_BLOCK = 256
FLOAT_BLOCK = 32


@compiled
def score_pairs(
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    query: NDArray[np.uint64],
    weights: NDArray[np.float32],
    table: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    """Add weight · table[Hamming] to ``scores`` (65,536) for every posting of the query's words; codes 2×P.

    Two loops a block: the first is vectorised with popcount and waits for memory, the second scatters into the L2
    cache and fetches the lists of the next words meanwhile, as many lines as the first has read. Without that, 0.66 G
    postings a second; with the next word's list alone, 1.0; with the stream over all words, 1.15 (Zen 5, one thread).
    Safe for any image number, since ``scores`` has a place for each of 16 bits, and for any code, since ``table`` has
    129 entries.
    """
    left, right = codes[0], codes[1]
    distances = np.empty(PAIR_BLOCK, np.uint8)
    weighted = table.copy()
    last = begins.size - 1
    following: Any = 0
    ahead: Any = np.int64(0)
    for word in range(begins.size):
        if word == 0 or weights[word] != weights[word - 1]:
            for i in range(table.size):
                weighted[i] = table[i] * weights[word]
        # The stream falls behind by the rests of lines; it begins anew before this word's own postings.
        if following <= word:
            following = min(word + 1, last)
            ahead = begins[following]
        begin, end = begins[word], ends[word]
        while begin < end:
            size = min(PAIR_BLOCK, end - begin)
            a, b, numbers = left[begin : begin + size], right[begin : begin + size], images[begin : begin + size]
            for i in range(size):
                distances[i] = np.uint8(popcount(a[i] ^ query[word, 0]) + popcount(b[i] ^ query[word, 1]))
            whole = size - size % LINE
            done: Any = 0
            while done < whole:
                # One line more than the list has: it need not begin with a line.
                length = min(whole - done, max(ends[following] + 2 * LINE - 1 - ahead, LINE) // LINE * LINE)
                near, places = distances[done : done + length], numbers[done : done + length]
                for i in range(0, length, LINE):
                    prefetch(left, ahead + i)
                    prefetch(right, ahead + i)
                    prefetch(images, ahead + i)
                    for j in range(i, i + LINE):
                        scores[places[j]] += weighted[near[j]]
                ahead += length
                done += length
                if ahead >= ends[following] and following < last:
                    following += 1
                    ahead = begins[following]
            for i in range(whole, size):
                scores[numbers[i]] += weighted[distances[i]]
            begin += size


@compiled
def score_codes(
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
    scores: NDArray[np.float32],
) -> None:
    """Add weight · table[Hamming] for every posting; ``codes`` are C×P, ``table`` has 64·C + 1 entries."""
    distances = np.empty(CODE_BLOCK, np.uint16)
    mask = scores.shape[1] - 1
    for word in range(begins.size):
        for begin in range(begins[word], ends[word], CODE_BLOCK):
            size = min(CODE_BLOCK, ends[word] - begin)
            numbers = images[begin : begin + size]
            for entry in range(starts[word], starts[word + 1]):
                row, weight = scores[owners[entry]], weights[entry]
                for i in range(size):
                    distances[i] = 0
                for column in range(codes.shape[0]):
                    part, bits = codes[column, begin : begin + size], query[entry, column]
                    for i in range(size):
                        distances[i] += np.uint16(popcount(part[i] ^ bits))
                for i in range(size):
                    row[(np.int64(numbers[i]) - low) & mask] += table[distances[i]] * weight


@compiled
def score_floats(
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    images: NDArray[np.uint16],
    residues: NDArray[np.float32],
    starts: NDArray[np.int64],
    owners: NDArray[np.int64],
    query: NDArray[np.float32],
    weights: NDArray[np.float32],
    alpha: float,
    threshold: float,
    low: int,
    scores: NDArray[np.float32],
) -> None:
    """Add weight · s^alpha for every posting whose dot product s is at least ``threshold``; ``residues`` are P×D."""
    mask = scores.shape[1] - 1
    lanes = np.empty(LANES, np.float32)
    for word in range(begins.size):
        for begin in range(begins[word], ends[word], FLOAT_BLOCK):
            end = min(begin + FLOAT_BLOCK, ends[word])
            for entry in range(starts[word], starts[word + 1]):
                row, weight = scores[owners[entry]], weights[entry]
                for p in range(begin, end):
                    s = _dot(residues, p, query, entry, lanes)
                    if s >= np.float32(threshold):
                        power = s * s * s if alpha == 3.0 else s ** np.float32(alpha)
                        row[(np.int64(images[p]) - low) & mask] += np.float32(power) * weight


@compiled
def _dot(
    residues: NDArray[np.float32], p: int, query: NDArray[np.float32], entry: int, lanes: NDArray[np.float32]
) -> np.float32:
    """Return the product of two rows, summed in 16 lanes, then over them: vectorised, of one order for all postings."""
    dim = residues.shape[1]
    whole = dim - dim % LANES
    lanes[:] = 0
    for d in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += residues[p, d + lane] * query[entry, d + lane]
    for d in range(whole, dim):
        lanes[d - whole] += residues[p, d] * query[entry, d]
    s = np.float32(0)
    for lane in range(LANES):
        s += lanes[lane]
    return s


@compiled
def add_weights(
    offsets: NDArray[np.uint32], images: NDArray[np.uint16], weights: NDArray[np.float64], norms: NDArray[np.float64]
) -> None:
    """Add the weight of every word to ``norms`` (65,536) of the images that have it."""
    for word in range(weights.size):
        for p in range(np.int64(offsets[word]), np.int64(offsets[word + 1])):
            norms[images[p]] += weights[word]
