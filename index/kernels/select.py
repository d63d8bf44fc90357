"""The loops around a search's postings: where lists are divided, and which photos are the best."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import compiled, prefetch

SELECTED = 256
_AHEAD = 16
_SMALLEST = 5e-324


@compiled
def split_lists(
    offsets: NDArray[np.uint32], images: NDArray[np.uint16], words: NDArray[np.int32], photos: int, bound: int
) -> NDArray[np.int64]:
    """Return for each word the place of its first posting of a photo from ``bound`` on, of ``photos`` in the shard.

    Photos lie evenly in a list, so the search begins where they would put the place, mostly in the right line. Between
    the list's ends whatever the image numbers are; the same place for all who ask.
    """
    places = np.empty(words.size, np.int64)
    for i in range(words.size + _AHEAD):
        if i < words.size:
            begin, end = np.int64(offsets[words[i]]), np.int64(offsets[words[i] + 1])
            places[i] = begin + (end - begin) * bound // photos
            prefetch(images, places[i])
        if i >= _AHEAD:
            word = words[i - _AHEAD]
            begin, end = np.int64(offsets[word]), np.int64(offsets[word + 1])
            places[i - _AHEAD] = first_from(images, begin, end, places[i - _AHEAD], bound)
    return places


@compiled
def first_from(images: NDArray[np.uint16], begin: int, end: int, guess: int, bound: int) -> int:
    """Return the place of the first image from ``bound`` on in a rising list ``begin`` .. ``end``, near ``guess``."""
    low: Any = begin
    high: Any = end
    step: Any = 8
    if guess < end and images[guess] < bound:
        low = guess + 1
        while low + step < end and images[low + step] < bound:
            low += step + 1
            step *= 2
        high = min(low + step, end)
    else:
        high = guess
        while high - step >= begin and images[high - step] >= bound:
            high -= step
            step *= 2
        low = max(high - step + 1, begin)
        if high - step < begin:
            low = begin
    while low < high:
        middle = (low + high) >> 1
        if images[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return int(low)


@compiled
def select(
    scores: NDArray[Any], factors: NDArray[np.float64], scale: float, count: int, least: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the ``count`` largest products score · factor · scale above 0, all that equal the least of them, and their
    places, in order of place. NaN and inf, which codes of a damaged float shard may lead to, are never among them, nor
    is what lies below ``least``, where so many as good are known already.

    A heap of the best values, whose root is the worst of them, then a second look at the blocks that had any as good: a
    block without costs one vectorised count, 20 µs for 65,536 photos instead of 280.
    """
    heap = np.empty(min(count, factors.size), np.float64)
    blocks = np.empty(factors.size // SELECTED + 1, np.int64)
    size = 0
    found = 0
    bar = max(_SMALLEST, least)
    for start in range(0, factors.size, SELECTED):
        end = min(start + SELECTED, factors.size)
        good = 0
        for i in range(start, end):
            good += np.float64(scores[i]) * factors[i] * scale >= bar
        if good == 0:
            continue
        blocks[found] = start
        found += 1
        for i in range(start, end):
            value = np.float64(scores[i]) * factors[i] * scale
            if not bar <= value < np.inf:
                continue
            if size < heap.size:
                _rise(heap, size, value)
                size += 1
            elif value > heap[0]:
                _sink(heap, value)
            if size == heap.size:
                bar = heap[0]
    values, places = _at_least(scores, factors, scale, bar, blocks[:found])
    return values, places


@compiled
def _at_least(
    scores: NDArray[Any], factors: NDArray[np.float64], scale: float, bar: float, blocks: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    total = 0
    for block in blocks:
        for i in range(block, min(block + SELECTED, factors.size)):
            value = np.float64(scores[i]) * factors[i] * scale
            total += (value >= bar) & (value < np.inf)
    values, places = np.empty(total, np.float64), np.empty(total, np.int64)
    size = 0
    for block in blocks:
        for i in range(block, min(block + SELECTED, factors.size)):
            value = np.float64(scores[i]) * factors[i] * scale
            if bar <= value < np.inf:
                values[size] = value
                places[size] = i
                size += 1
    return values, places


@compiled
def _rise(heap: NDArray[np.float64], child: int, value: float) -> None:
    while child > 0 and heap[(child - 1) >> 1] > value:
        heap[child] = heap[(child - 1) >> 1]
        child = (child - 1) >> 1
    heap[child] = value


@compiled
def _sink(heap: NDArray[np.float64], value: float) -> None:
    """Replace the root by a value above it."""
    parent = 0
    while True:
        child = 2 * parent + 1
        if child + 1 < heap.size and heap[child + 1] < heap[child]:
            child += 1
        if child >= heap.size or heap[child] >= value:
            heap[parent] = value
            return
        heap[parent] = heap[child]
        parent = child


@compiled
def select_each(
    scores: NDArray[np.float32], factors: NDArray[np.float64], factor: float, least: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the products score · factor · photo's factor above 0 that reach what each photo has at least, and their
    places; another thread may raise ``least`` meanwhile."""
    blocks = np.empty(scores.size // SELECTED + 1, np.int64)
    found = 0
    total = 0
    for start in range(0, scores.size, SELECTED):
        good = 0
        for i in range(start, min(start + SELECTED, scores.size)):
            value = np.float64(scores[i]) * factor * factors[i]
            good += (value >= least[i]) & (value > 0)
        if good > 0:
            blocks[found] = start
            found += 1
            total += min(SELECTED, scores.size - start)
    values, places = np.empty(total, np.float64), np.empty(total, np.int64)
    size = 0
    for block in blocks[:found]:
        for i in range(block, min(block + SELECTED, scores.size)):
            value = np.float64(scores[i]) * factor * factors[i]
            if value >= least[i] and 0 < value < np.inf:
                values[size] = value
                places[size] = i
                size += 1
    return values[:size], places[:size]


@compiled
def keep_each(
    values: NDArray[np.float64],
    places: NDArray[np.int64],
    number: int,
    ranks: NDArray[np.int32],
    scores: NDArray[np.float64],
    numbers: NDArray[np.int32],
    sizes: NDArray[np.int64],
    least: NDArray[np.float64],
) -> None:
    """Put a photo among the best of each place, which fall by score and then rise by rank, if it is one of them."""
    top = scores.shape[1]
    for i in range(values.size):
        place, value = places[i], values[i]
        at: Any = sizes[place]
        if at == top:
            at = top - 1
            if scores[place, at] > value or (scores[place, at] == value and ranks[numbers[place, at]] < ranks[number]):
                continue
        else:
            sizes[place] = at + 1
        while at > 0 and (
            scores[place, at - 1] < value
            or (scores[place, at - 1] == value and ranks[numbers[place, at - 1]] > ranks[number])
        ):
            scores[place, at], numbers[place, at] = scores[place, at - 1], numbers[place, at - 1]
            at -= 1
        scores[place, at], numbers[place, at] = value, number
        if sizes[place] == top:
            least[place] = scores[place, top - 1]
