"""The loops behind words that a GPU proposes: what its scores prove, and the exact order of what they leave open.

A GPU has words h_j and descriptors h in float16, and returns of each descriptor the k largest of h·h_j - |h_j|²/2. For
a = |h|² - 2·score, which misses |h - h_j|² by at most ``spread``, and for what rounding took of the two (``error``)

    √(a - spread) - error  ≤  |x - w|  ≤  √(a + spread) + error

A word that is not among the k has no larger score than these. So if the lower bound of the k-th is above the upper
bound of the ``count``-th, the ``count`` nearest are among the k, and float64 orders them. Otherwise nothing is known,
and the CPU searches. All distances here are in the units of the words on the GPU (``halves.HalfWords``). All arrays are
C-contiguous; all loops release the GIL.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import as_bits, as_float, compiled, inlined, reordered
from ctxdeploy.index.kernels.rank import rank

# Bounds are widened by this, relatively: float32 keeps them, and float64 rounds what they are held against.
_WIDER = 1e-6
# Of each sum on the GPU, in the largest partial sum: float32 chops 2^-23 of it, and tensor cores lose as much again
# where they align the products that they add.
_CHOPPED = 2.0**-22
# The float32 squared length of a descriptor loses at most so much in each of its sums.
_ROUNDED = 2.0**-23
# Of the CPU's choice of cells in float32, see ``packed``.
_CELL_LOSS = 2.0**-23

# Larger numbers are left to the CPU; float16 ends at 65,504.
_FAR = np.uint32(0x46EA6000)  # the bits of 30,000
# Below it float16 has steps of 2^-24.
_NORMAL, _STEP, _STEPS = np.float32(2.0**-14), np.float32(2.0**-24), np.float32(2.0**24)
# Of float16's mantissa in float32's: what is added to round, and what is kept.
_HALF, _KEPT = np.uint32(0x1000), np.uint32(0xFFFFE000)
# What subtracting the origin takes of a number at most, twice.
_SHIFTED = np.float32(2.0**-23)
# Lengths in float32 are rounded up by this, relatively: more than 4096 sums lose. And the steps of float32 near 0.
_UP, _LEAST = np.float32(1.001), np.float32(1e-20)


@reordered
def halve(
    vectors: NDArray[np.float32],
    origin: NDArray[np.float32],
    scale: Any,
    matrix: NDArray[np.float32],
    squared: NDArray[np.float32],
    errors: NDArray[np.float32],
) -> None:
    """Write h, (x - o) · scale in numbers that float16 holds, beside |h|² and no less than what rounding took of it.

    Sums have no fixed order: they only say how much is left to float64.

    Args:
        vectors: n×D.
        origin: D.
        scale: a float32, a power of two.
        matrix: n×K, K at least D; columns from D on stay.
        squared: n.
        errors: n; infinite where a number is not finite or 30,000 and more: there h is 0.
    """
    dim: Any = vectors.shape[1]
    for row in range(vectors.shape[0]):
        line, source = matrix[row], vectors[row]
        for d in range(dim):
            line[d] = (source[d] - origin[d]) * scale
        top = np.uint32(0)
        for d in range(dim):
            top = max(top, np.uint32(as_bits(line[d]) & np.uint32(0x7FFFFFFF)))
        if top >= _FAR:
            line[:dim] = 0
            squared[row], errors[row] = 0, np.inf
            continue
        total, lost = np.float32(0), np.float32(0)
        for d in range(dim):
            number = line[d]
            half = as_float(np.uint32((as_bits(number) + _HALF) & _KEPT))
            if np.abs(number) < _NORMAL:
                half = np.rint(number * _STEPS) * _STEP
            total += half * half
            lost += (half - number) * (half - number)
            line[d] = half
        squared[row] = total
        errors[row] = (np.sqrt(lost) + _SHIFTED * np.sqrt(total) + _LEAST) * _UP


@inlined
def _spread(squared: Any, facts: NDArray[np.float64], columns: int) -> Any:
    """Return by how much |h|² - 2·score may be off."""
    length, longest, rest = np.sqrt(squared) * 1.001, facts[0], facts[2]
    lost = columns * _CHOPPED * (length * longest + longest * longest / 2) + rest
    return 2 * lost + columns * _ROUNDED * squared + 1e-12


@inlined
def _low(score: Any, squared: Any, spread: Any, error: Any) -> Any:
    return max(np.sqrt(max(squared - 2 * score - spread, 0.0)) - error, 0.0) * (1 - _WIDER)


@inlined
def _high(score: Any, squared: Any, spread: Any, error: Any) -> Any:
    return (np.sqrt(max(squared - 2 * score + spread, 0.0)) + error) * (1 + _WIDER)


@inlined
def _is_sound(scores: NDArray[np.float32], found: NDArray[np.int64], row: int, total: int) -> Any:
    """Return whether what came of the GPU can be what was asked for: numbers that fall, of words that there are."""
    for i in range(scores.shape[1]):
        if not np.abs(scores[row, i]) < np.float32(1e30) or not 0 <= found[row, i] < total:
            return False
        if i > 0 and scores[row, i] > scores[row, i - 1]:
            return False
    return True


@compiled
def settle(
    vectors: NDArray[np.float32],
    centroids: NDArray[np.float32],
    scores: NDArray[np.float32],
    found: NDArray[np.int64],
    squared: NDArray[np.float32],
    errors: NDArray[np.float32],
    facts: NDArray[np.float64],
    columns: int,
    count: int,
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.bool_], int]:
    """Return the ``count`` nearest words of each descriptor where the scores prove them.

    Args:
        vectors: n×D.
        centroids: W×D.
        scores: n×k of the GPU, falling, k at least ``count``.
        found: n×k, their words, each once.
        squared: n, squared length of each rounded descriptor.
        errors: n, what rounding took of each; infinite of those that were not asked for.
        facts: of the words: longest, what rounding took of one at most, what the sums of squared lengths lack at most,
            and the scale.
        columns: numbers that the GPU sums.
        count: at least 1.

    Returns:
        n×count int32, nearest first by distance in float64, ties by number; n×count float64 squared distances; n,
        whether that is proved, else the row means nothing; how many rows have a distance outside of its bounds: then
        the GPU does not compute what it should.
    """
    n, k = scores.shape
    total = centroids.shape[0]
    highs = np.empty((n, count), np.float32)
    notes = np.empty((n, k, 2), np.float32)
    lows = np.zeros((n, count), np.float32)
    sizes = np.zeros(n, np.int32)
    for row in range(n):
        error = np.float64(errors[row]) + facts[1]
        if not error < np.inf or not _is_sound(scores, found, row, total):
            continue
        length = np.float64(squared[row])
        spread = _spread(length, facts, columns)
        for i in range(count):
            highs[row, i] = _high(np.float64(scores[row, i]), length, spread, error)
        for i in range(k):
            notes[row, i, 0] = found[row, i]
            notes[row, i, 1] = _low(np.float64(scores[row, i]), length, spread, error)
        if k == total or notes[row, k - 1, 1] > highs[row, count - 1]:
            sizes[row] = k
        for i in range(count):
            lows[row, i] = notes[row, i, 1]
    sure = sizes > 0
    nothing = np.empty(0, np.int32)
    words, distances = rank(
        vectors, centroids, (highs, notes, sizes), nothing, np.empty(0, np.int64), np.empty((0, 0), np.int32), count
    )
    wrong = 0
    for row in range(n):
        for i in range(count):
            distance = np.sqrt(distances[row, i]) * facts[3]
            if sure[row] and distance < np.inf and not lows[row, i] <= distance <= highs[row, i]:
                wrong += 1
                break
    return words, distances, sure, wrong


@compiled
def keep_probed(
    words: NDArray[np.int32],
    sure: NDArray[np.bool_],
    cell_of: NDArray[np.int32],
    scores: NDArray[np.float32],
    found: NDArray[np.int64],
    squared: NDArray[np.float32],
    errors: NDArray[np.float32],
    facts: NDArray[np.float64],
    columns: int,
    cells: int,
    probes: int,
) -> None:
    """Leave ``sure`` of those rows alone whose words all lie in cells that the CPU would certainly look into.

    It looks into the ``probes`` cells of the smallest distances as ``cells.nearest_cells`` rounds them. If no more of
    all cells may be as near as the farthest of those that the words lie in, these are among them, and then the words
    that are the nearest of all are the nearest of the cells that it looks into.

    Args:
        words: n×count, of ``settle``.
        sure: n.
        cell_of: W, the cell of each word.
        scores, found, squared, errors, facts, columns: as of ``settle``, of the cells' centres; scores n×m.
        cells: how many there are.
        probes: how many the CPU looks into.
    """
    n, m = scores.shape
    for row in range(n):
        if not sure[row]:
            continue
        sure[row] = False
        error = np.float64(errors[row]) + facts[1]
        if not error < np.inf or not _is_sound(scores, found, row, cells):
            continue
        length = np.float64(squared[row])
        spread = _spread(length, facts, columns)
        farthest, are_known = 0.0, True
        for i in range(words.shape[1]):
            cell = cell_of[words[row, i]]
            place = 0
            while place < m and found[row, place] != cell:
                place += 1
            if place == m:
                are_known = False
                break
            farthest = max(farthest, _high(np.float64(scores[row, place]), length, spread, error))
        if not are_known:
            continue
        # Both distances that the CPU compares are off by as much.
        away = np.sqrt(length) * 1.001 + error + facts[0]
        limit = farthest * farthest + 2 * (columns + 64) * _CELL_LOSS * away * away
        near = 0
        for i in range(m):
            low = _low(np.float64(scores[row, i]), length, spread, error)
            near += low * low <= limit
        sure[row] = near <= probes and (near < m or m == cells)
