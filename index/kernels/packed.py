"""The loops of assignment over words in int8: bounds of every distance, and the exact order of what may be best.

A word w of a cell with centre c is kept as r = w - c in int8, a descriptor x as x - o in int8, with one origin o for
all. Then |x - w|² = |x - c|² + (|w - o|² - |c - o|²) - 2 (x - o)·r. The first term is known from the choice of cells,
the second is kept with the word, and the product of the rounded numbers misses the true one by at most
|x - o| |r - r'| + |x - x'| |r'| (Cauchy and Schwarz), which together with the rounding of float32 bounds each distance
from below and above. A word whose lower bound is above the smallest ``count`` upper bounds is not among the nearest;
of photos' descriptors 8 words are left for 5. These are ranked in float64, so that what is found is what a plain loop
over the probed cells finds, whatever rounds how. All arrays are C-contiguous; all loops release the GIL.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.cells import shifted
from ctxdeploy.index.kernels.integers import BLOCKS, FACTS, GROUP, ROWS, WIDE, largest, round_row, tile, tile_1
from ctxdeploy.index.kernels.intrinsics import compiled, inlined
from ctxdeploy.index.kernels.rank import kept, rank
from ctxdeploy.index.kernels.vectors import LANES, first_bit, insert

# What lies farther from the origin is left to the plain loop: squares stay far below infinity.
_HUGE = np.float32(1e15)
_FAR = np.float32(1e38)
# Before ``count`` upper bounds are known.
_OPEN = np.float32(1e37)
# A smaller step would be infinite when it divides; what it would tell apart is in what is added to bounds.
_STEP = np.float32(1e-25)
# Added to bounds for what underflow takes: at most 2·64·1e-20 of a length, unless the length's part of a bound is more.
_TINY = np.float32(1e-30)
# Norms and lengths are rounded up by this, relatively: more than 4096 sums in float32 lose.
_UP = np.float32(1.001)
# Stands for the number of words of a row that are left to the plain loop.
_PLAIN = np.int32(-1)


@compiled
def pack(
    centroids: NDArray[np.float32],
    centres: NDArray[np.float32],
    origin: NDArray[np.float32],
    order: NDArray[np.int32],
    offsets: NDArray[np.int64],
    blocks: NDArray[np.int64],
    codes: NDArray[np.uint32],
    lanes: NDArray[np.float32],
    numbers: NDArray[np.int32],
    reach: NDArray[np.float32],
    worst: NDArray[np.float32],
) -> bool:
    """Fill the blocks of all cells; return whether their numbers may be searched in int8.

    Args:
        centroids: W×D.
        centres: C×D', padded with zeros to a multiple of 16 columns; or 1×D' for all cells.
        origin: 1×D', near all centres.
        order: words by cell.
        offsets: C+1, in ``order``.
        blocks: C+1, where the blocks of each cell begin.
        codes: B×(D'/4)×16 for B blocks: four numbers plus 128 of each of 16 words.
        lanes: B×3×16: norm, step doubled, length in steps, of each word; of no word infinitely far.
        numbers: B×16, the words, -1 for none.
        reach: C, |c - o| and the longest r of a cell together.
        worst: C, the largest part of its length that rounding took of a word.
    """
    width = origin.shape[1]
    line, facts, bytes_ = np.zeros(width, np.float32), np.zeros(3, np.float32), np.zeros(width, np.int8)
    fours = bytes_.view(np.uint32)
    for cell in range(offsets.size - 1):
        centre = cell if centres.shape[0] > 1 else 0
        middle = shifted(centres, centre, origin, 0, line, 0)
        longest, part = np.float32(0), np.float32(0)
        for block in range(blocks[cell], blocks[cell + 1]):
            for lane in range(LANES):
                place = offsets[cell] + (block - blocks[cell]) * LANES + lane
                if place >= offsets[cell + 1]:
                    lanes[block, 0, lane], lanes[block, 1, lane], lanes[block, 2, lane] = _FAR, 0, 0
                    numbers[block, lane] = -1
                    codes[block, :, lane] = np.uint32(0x80808080)
                    continue
                word = order[place]
                numbers[block, lane] = word
                length = shifted(centroids, word, origin, 0, line, 0)
                if not largest(line, 0, width) < _HUGE:
                    return False
                squared = shifted(centroids, word, centres, centre, line, 0)
                step = max(largest(line, 0, width) / np.float32(127), _STEP)
                round_row(line, 0, width, step, np.float32(1) / step, bytes_, 0, facts, 0)
                lanes[block, 0, lane] = length - middle
                lanes[block, 1, lane] = 2 * step
                size = np.sqrt(facts[1]) * _UP
                lanes[block, 2, lane] = size
                longest = max(longest, np.sqrt(squared) * _UP)
                # float32 loses at most 2^-22 of each number, here and in the difference from the centre.
                lost = np.sqrt(facts[0]) * _UP + np.float32(1e-6) * np.sqrt(squared)
                if size > 0:
                    part = max(part, lost / (size * step))
                for group in range(width // GROUP):
                    codes[block, group, lane] = fours[group] ^ np.uint32(0x80808080)
        reach[cell] = np.sqrt(middle) * _UP + longest
        worst[cell] = part * _UP
        if not reach[cell] < _HUGE:
            return False
    return True


@compiled
def _rounded(vectors: NDArray[np.float32], origin: NDArray[np.float32]) -> Any:
    """Return descriptors less the origin as int8, n×D'; 128 times minus their sums, n int32; n×4 facts.

    The facts: step, length, what rounding took of it, squared length; a step of 0 where a number is too large or NaN.
    """
    n, width = vectors.shape[0], origin.shape[1]
    rows, sums, facts = np.zeros((n, width), np.int8), np.zeros(n, np.int32), np.zeros((n, 4), np.float32)
    line, parts = np.zeros(width, np.float32), np.zeros(3, np.float32)
    for row in range(n):
        squared = shifted(vectors, row, origin, 0, line, 0)
        if not largest(line, 0, width) < _HUGE:
            continue
        step = max(largest(line, 0, width) / np.float32(127), _STEP)
        round_row(line, 0, width, step, np.float32(1) / step, rows, row * width, parts, 0)
        sums[row] = np.int32(-128) * np.int32(parts[2])
        length = np.sqrt(squared) * _UP
        facts[row, 0], facts[row, 1], facts[row, 3] = step, length, squared
        facts[row, 2] = np.sqrt(parts[0]) * _UP + np.float32(1e-6) * length
    return rows, sums, facts


@compiled
def search_cells(
    vectors: NDArray[np.float32],
    centroids: NDArray[np.float32],
    words: Any,
    order: NDArray[np.int32],
    offsets: NDArray[np.int64],
    chosen: NDArray[np.int32],
    near: NDArray[np.float32],
    count: int,
    room: int,
) -> Any:
    """Return the ``count`` words nearest to each descriptor, of its cells, and their squared distances.

    Args:
        vectors: n×D.
        centroids: W×D.
        words: codes, lanes, numbers, blocks, reach and worst as of ``pack``, and the origin; of no cells, where numbers
            are too large for int8.
        order, offsets: words by cell, see ``pack``.
        chosen: n×p, the cells of each descriptor, each once.
        near: n×p, squared distances to the centres of the cells, as ``nearest_cells`` computes them.
        count: at least 1.
        room: words among which the nearest may be that are kept of a descriptor; where more may be, all are compared.

    Returns:
        n×count int32, nearest first by distance in float64, ties by number, -1 where the cells hold fewer; n×count
        float64, infinite there and where a centroid is not finite.
    """
    n = vectors.shape[0]
    blocks = words[3]
    found = _found(n, count, room)
    if blocks.size == 1:
        found[2][:] = _PLAIN
        return rank(vectors, centroids, found, order, offsets, chosen, count)
    rounded = _rounded(vectors, words[6])
    dim = vectors.shape[1]
    # The nearest cell of each comes first: its words leave half as many of the others.
    nearest = np.zeros(n, np.int64)
    for row in range(n):
        for column in range(chosen.shape[1]):
            if near[row, column] < near[row, nearest[row]]:
                nearest[row] = column
    for turn in range(2):
        members, distances, ends = by_cell(chosen, near, nearest, turn == 0, offsets.size - 1)
        _scan(rounded, words, members, distances, ends, dim, count, found)
    return rank(vectors, centroids, found, order, offsets, chosen, count)


@compiled
def by_cell(
    chosen: NDArray[np.int32], near: NDArray[np.float32], nearest: NDArray[np.int64], first: bool, cells: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Return the rows of ``chosen`` (n×p) by cell, rising; their distances; where each cell's begin (cells + 1).

    Either those whose column is the row's ``nearest``, or all others.
    """
    ends = np.zeros(cells + 1, np.int64)
    for row in range(chosen.shape[0]):
        for column in range(chosen.shape[1]):
            ends[chosen[row, column] + 1] += (column == nearest[row]) == first
    for number in range(cells):
        ends[number + 1] += ends[number]
    cursors = ends[:-1].copy()
    members, distances = np.empty(ends[-1], np.int32), np.empty(ends[-1], np.float32)
    for row in range(chosen.shape[0]):
        for column in range(chosen.shape[1]):
            if (column == nearest[row]) == first:
                place = cursors[chosen[row, column]]
                members[place], distances[place] = row, near[row, column]
                cursors[chosen[row, column]] = place + 1
    return members, distances, ends


@compiled
def _found(n: int, count: int, room: int) -> Any:
    """Of n descriptors: the smallest upper bounds, rising; words that may be among the nearest, and how many.

    The bounds are as wide as a register, where that is enough. A word is noted beside its lower bound, in one line of
    the cache, as a float32, which holds every whole number up to 2^24.
    """
    highs = np.full((n, max(count, LANES)), _OPEN, np.float32)
    return highs, np.empty((n, room, 2), np.float32), np.zeros(n, np.int32)


@compiled
def _scan(
    rounded: Any,
    packed: Any,
    members: NDArray[np.int32],
    distances: NDArray[np.float32],
    ends: NDArray[np.int64],
    dim: int,
    count: int,
    found: Any,
) -> None:
    """Bound the distances of all descriptors to the words of their cells; note those that may be among the nearest."""
    rows, sums, facts = rounded
    codes, lanes, _, blocks, reach, worst, _ = packed
    highs = found[0]
    groups: Any = rows.shape[1] // GROUP
    own, errors = np.zeros(3 * ROWS, np.int64), np.zeros(FACTS * ROWS, np.float32)
    slacks, bases = np.zeros(ROWS, np.float32), np.zeros(ROWS, np.float32)
    least = np.zeros(ROWS * WIDE, np.float32)
    loss = np.float32(dim + 64) * np.float32(2.0**-23)
    row: Any = 0
    for row in range(facts.shape[0]):
        if facts[row, 0] == 0:
            found[2][row] = _PLAIN
    for cell in range(blocks.size - 1):
        ahead = blocks[cell + 1] * groups * LANES
        for begin in range(ends[cell], ends[cell + 1], ROWS):
            some = min(ROWS, ends[cell + 1] - begin)
            for r in range(some):
                row = np.int64(members[begin + r])
                away = facts[row, 1] + reach[cell]
                slacks[r] = loss * away * away + _TINY
                bases[r] = distances[begin + r] - slacks[r]
                own[r], own[ROWS + r] = row * rows.shape[1], sums[row]
                errors[FACTS * r], errors[FACTS * r + 1] = facts[row, 0], facts[row, 1] * worst[cell] + facts[row, 2]
            block = blocks[cell]
            while block < blocks[cell + 1]:
                for r in range(some):
                    errors[FACTS * r + 2] = highs[members[begin + r], count - 1] - bases[r]
                at, lane = block * groups * LANES, block * 3 * LANES
                if block + BLOCKS <= blocks[cell + 1]:
                    tile(codes, at, lanes, lane, groups, rows, 0, own, 0, errors, 0, least, 0, codes, ahead)
                    step = BLOCKS
                else:
                    tile_1(codes, at, lanes, lane, groups, rows, 0, own, 0, errors, 0, least, 0, codes, ahead)
                    step = 1
                for r in range(some):
                    mask = own[2 * ROWS + r]
                    if mask:
                        row = np.int64(members[begin + r])
                        bounds = (bases[r], slacks[r], errors[FACTS * r + 1])
                        _note(mask, r, row, block, least, bounds, packed, count, found)
                block += step
                ahead += groups * LANES


@inlined
def _note(
    mask: Any,
    r: int,
    row: int,
    block: int,
    least: NDArray[np.float32],
    own: Any,
    packed: Any,
    count: int,
    found: Any,
) -> None:
    """Note the words of a tile whose bits are set for a descriptor, where their lower bounds are low enough."""
    highs, notes, sizes = found
    _, lanes, numbers, _, _, _, _ = packed
    base, slack, error = own
    room: Any = notes.shape[1]
    while mask:
        lane = first_bit(mask)
        mask &= mask - 1
        low = least[r * WIDE + lane] + base
        if not low <= highs[row, count - 1] or sizes[row] < 0:
            continue
        inside, column = block + lane // LANES, lane % LANES
        high = low + 2 * (error * lanes[inside, 1, column] * lanes[inside, 2, column] + slack)
        if sizes[row] == room:
            sizes[row] = kept(notes, row, room, highs[row, count - 1])
            if sizes[row] == room:
                sizes[row] = _PLAIN
                continue
        notes[row, sizes[row], 0], notes[row, sizes[row], 1] = numbers[inside, column], low
        sizes[row] += 1
        if highs.shape[1] == LANES:
            insert(high, highs, row * LANES)
        else:
            _raise(high, highs, row)


@compiled
def _raise(high: Any, highs: NDArray[np.float32], row: int) -> None:
    """Put an upper bound into its place in a rising row, or nowhere."""
    size: Any = highs.shape[1]
    place = size
    while place > 0 and highs[row, place - 1] > high:
        if place < size:
            highs[row, place] = highs[row, place - 1]
        place -= 1
    if place < size:
        highs[row, place] = high
