"""The loops that numba compiles: imported on first use, since numba takes 0.5 s to import.

All release the GIL, none uses fast-math, and every sum has a fixed order, so that a result never depends on threads,
on shards or on what else is in a call.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

BLOCK = 1024
LANES = 16


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to cache in: a read-only installation without a home
        return njit(nogil=True, error_model="numpy")(function)


def _count_bits(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


def _touch(typing_context: Any, array: Any, place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(view.data, [args[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(prefetch, [pointer, number(0), number(1), number(1)])  # to read, into the outer caches, data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


_popcount: Any = intrinsic(_count_bits)
# A hint to the processor: it reads nothing into the program and never faults, whatever the place.
_prefetch: Any = intrinsic(_touch)


@_compiled
def nearest(
    vectors: NDArray[np.float32], centres: NDArray[np.float32], candidates: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Order candidates (n×k rows of ``centres``, -1 for none) by float64 distance, ties by number; keep ``count``.

    Returns n×count int32 numbers (-1 where candidates were missing) and n×count squared distances (inf there).
    """
    n, dim = vectors.shape
    numbers = np.full((n, count), -1, np.int32)
    distances = np.full((n, count), np.inf, np.float64)
    for row in range(n):
        for column in range(candidates.shape[1]):
            number = candidates[row, column]
            if number < 0 or number >= centres.shape[0]:
                continue
            total = 0.0
            for d in range(dim):
                difference = np.float64(vectors[row, d]) - np.float64(centres[number, d])
                total += difference * difference
            place = count
            while place > 0:
                other = distances[row, place - 1]
                if other < total or (other == total and 0 <= numbers[row, place - 1] < number):
                    break
                place -= 1
            if place == count:
                continue
            for i in range(count - 1, place, -1):
                distances[row, i] = distances[row, i - 1]
                numbers[row, i] = numbers[row, i - 1]
            distances[row, place] = total
            numbers[row, place] = number
    return numbers, distances


@_compiled
def sum_by_word(
    vectors: NDArray[np.float32], words: NDArray[np.int32], sums: NDArray[np.float64], counts: NDArray[np.int64]
) -> None:
    """Add every vector to the row of ``sums`` (W×D) that its word names, and count it."""
    for row in range(vectors.shape[0]):
        word = words[row]
        counts[word] += 1
        for d in range(vectors.shape[1]):
            sums[word, d] += np.float64(vectors[row, d])


@_compiled
def residuals(
    vectors: NDArray[np.float32],
    centroids: NDArray[np.float32],
    words: NDArray[np.int32],
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Sum d - centroid over runs of equal words: ``words`` sorted, ``rows`` of ``vectors``, run i from ``starts[i]``.

    float32 in the order of the rows, as the reference sums. A row that names a word twice counts once.
    """
    dim = vectors.shape[1]
    sums = np.zeros((starts.size - 1, dim), np.float32)
    for run in range(starts.size - 1):
        for i in range(starts[run], starts[run + 1]):
            if i > starts[run] and rows[i] == rows[i - 1]:
                continue
            for d in range(dim):
                sums[run, d] += vectors[rows[i], d] - centroids[words[i], d]
    return sums


@_compiled
def pack(sums: NDArray[np.float32], columns: int) -> NDArray[np.uint64]:
    """Return n×columns uint64: bit d % 64 of column d // 64 is set where ``sums[:, d] > 0``; bits from D on are 0."""
    codes = np.zeros((sums.shape[0], columns), np.uint64)
    for row in range(sums.shape[0]):
        for d in range(sums.shape[1]):
            if sums[row, d] > np.float32(0):
                codes[row, d >> 6] |= np.uint64(1) << np.uint64(d & 63)
    return codes


@_compiled
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


@_compiled
def score_pairs(
    offsets: NDArray[np.uint32],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    words: NDArray[np.int32],
    query: NDArray[np.uint64],
    weights: NDArray[np.float32],
    table: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    """Add weight · table[Hamming] to ``scores`` (65,536) for every posting of the query's words; codes 2×P.

    Two loops a block: the first is vectorised with popcount, the second scatters (0.6 and 0.7 ns a posting on Zen 5).
    Safe for any image number, since ``scores`` has a place for each of 16 bits, and for any code, since ``table`` has
    129 entries. Fetching the next word's lists ahead takes 2.4 ms a query to 1.9, since each list is a new place.
    """
    distances = np.empty(BLOCK, np.uint8)
    weighted = np.empty(table.size, np.float32)
    for q in range(words.size):
        if q + 1 < words.size:
            ahead: Any = np.int64(offsets[words[q + 1]])
            behind: Any = min(np.int64(offsets[words[q + 1] + 1]), ahead + BLOCK)
            for place in range(ahead, behind, 8):
                _prefetch(codes[0], place)
                _prefetch(codes[1], place)
            for place in range(ahead, behind, 32):
                _prefetch(images, place)
        begin: Any = np.int64(offsets[words[q]])
        end: Any = np.int64(offsets[words[q] + 1])
        first = query[q, 0]
        second = query[q, 1]
        for i in range(table.size):
            weighted[i] = table[i] * weights[q]
        while begin < end:
            size = min(BLOCK, end - begin)
            left = codes[0, begin : begin + size]
            right = codes[1, begin : begin + size]
            numbers = images[begin : begin + size]
            for i in range(size):
                distances[i] = np.uint8(_popcount(left[i] ^ first) + _popcount(right[i] ^ second))
            for i in range(size):
                scores[numbers[i]] += weighted[distances[i]]
            begin += size


@_compiled
def score_codes(
    offsets: NDArray[np.uint32],
    images: NDArray[np.uint16],
    codes: NDArray[np.uint64],
    words: NDArray[np.int32],
    query: NDArray[np.uint64],
    weights: NDArray[np.float32],
    table: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    """As ``score_pairs`` for any number of columns C; ``table`` has 64·C + 1 entries."""
    distances = np.empty(BLOCK, np.uint16)
    weighted = np.empty(table.size, np.float32)
    for q in range(words.size):
        begin: Any = np.int64(offsets[words[q]])
        end: Any = np.int64(offsets[words[q] + 1])
        for i in range(table.size):
            weighted[i] = table[i] * weights[q]
        while begin < end:
            size = min(BLOCK, end - begin)
            numbers = images[begin : begin + size]
            for i in range(size):
                distances[i] = 0
            for column in range(codes.shape[0]):
                part = codes[column, begin : begin + size]
                bits = query[q, column]
                for i in range(size):
                    distances[i] += np.uint16(_popcount(part[i] ^ bits))
            for i in range(size):
                scores[numbers[i]] += weighted[distances[i]]
            begin += size


@_compiled
def score_floats(
    offsets: NDArray[np.uint32],
    images: NDArray[np.uint16],
    residues: NDArray[np.float32],
    words: NDArray[np.int32],
    query: NDArray[np.float32],
    weights: NDArray[np.float32],
    alpha: float,
    threshold: float,
    scores: NDArray[np.float32],
) -> None:
    """Add weight · s^alpha to ``scores`` (65,536) where the dot product s is at least ``threshold``; residues P×D.

    The product is summed in 16 lanes, then over the lanes: vectorised, and of the same order for every posting.
    """
    dim = residues.shape[1]
    whole = dim - dim % LANES
    lanes = np.empty(LANES, np.float32)
    for q in range(words.size):
        for p in range(np.int64(offsets[words[q]]), np.int64(offsets[words[q] + 1])):
            lanes[:] = 0
            for d in range(0, whole, LANES):
                for lane in range(LANES):
                    lanes[lane] += residues[p, d + lane] * query[q, d + lane]
            for d in range(whole, dim):
                lanes[d - whole] += residues[p, d] * query[q, d]
            s = np.float32(0)
            for lane in range(LANES):
                s += lanes[lane]
            if s >= np.float32(threshold):
                power = s * s * s if alpha == 3.0 else s ** np.float32(alpha)
                scores[images[p]] += np.float32(power) * weights[q]


@_compiled
def add_weights(
    offsets: NDArray[np.uint32], images: NDArray[np.uint16], weights: NDArray[np.float64], norms: NDArray[np.float64]
) -> None:
    """Add the weight of every word to ``norms`` (65,536) of the images that have it."""
    for word in range(weights.size):
        for p in range(np.int64(offsets[word]), np.int64(offsets[word + 1])):
            norms[images[p]] += weights[word]


@_compiled
def select(
    scores: NDArray[np.float32], factors: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the ``count`` largest products score · factor above 0 and their places, unordered; ties: lower place.

    A heap whose root is the worst that is kept: one comparison for nearly every image.
    """
    values = np.empty(min(count, factors.size), np.float64)
    places = np.empty(values.size, np.int64)
    size = 0
    for i in range(factors.size):
        value = np.float64(scores[i]) * factors[i]
        if not value > 0.0:
            continue
        if size < values.size:
            child = size
            size += 1
            # Places come in rising order: a newcomer that equals its parent is the worse of the two.
            while child > 0 and values[(child - 1) >> 1] >= value:
                values[child] = values[(child - 1) >> 1]
                places[child] = places[(child - 1) >> 1]
                child = (child - 1) >> 1
        elif size > 0 and value > values[0]:
            child = _sink(values, places, size, value)
        else:
            continue
        values[child] = value
        places[child] = i
    return values[:size], places[:size]


@_compiled
def _sink(values: NDArray[np.float64], places: NDArray[np.int64], size: int, value: float) -> int:
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            return parent
        other = child + 1
        if other < size and (
            values[other] < values[child] or (values[other] == values[child] and places[other] > places[child])
        ):
            child = other
        # A newcomer has the highest place, so among equals it is the worst and stays above them.
        if values[child] >= value:
            return parent
        values[parent] = values[child]
        places[parent] = places[child]
        parent = child
