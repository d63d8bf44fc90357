"""The loops that find the best photos on a GPU: sums of float64 in the order of the CPU, compared by their bits.

A histogram of the scores says from which bin on there are as many hits as are wanted; all from there on are taken out,
and put in order on the host. So only the order in which hits are found is left to chance.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda, types

from ctxdeploy.index.gpu.tiling import Tiling, device, larger, product64, smaller

# Bits of a positive float64 below those of infinity; as integers they are in the order of the numbers.
_INFINITE = 0x7FF0000000000000
# Bins for each power of two, and the power that the lowest bin begins with: with 2048 bins up to 2^20.
_FINE = 32
_LOWEST = -44
_SHIFT = 52 - 5
_BIAS = 1023


def combine(
    rows: Any,
    length: Any,
    factors: Any,
    longs: Any,
    doubles: Any,
    terms: Any,
    scales: Any,
    coefficients: Any,
    is_first: Any,
    totals: Any,
) -> None:
    """Add coefficient · (score · factor · scale) of the queries of each combination to ``totals``, in float64.

    Combination c, ``blockIdx.y``, has the rows longs[terms + 2c] .. longs[terms + 2c + 1]; with ``is_first`` its total
    begins at 0. ``scales`` and ``coefficients`` are places in ``doubles``.
    """
    number = cuda.blockIdx.y
    begin, end = longs[terms + 2 * number], longs[terms + 2 * number + 1]
    for i in range(cuda.grid(1), length, cuda.gridsize(1)):
        total = np.float64(0) if is_first else totals[number * length + i]
        for query in range(begin, end):
            value = product64(product64(np.float64(rows[query * length + i]), factors[i]), doubles[scales + query])
            total += product64(doubles[coefficients + query], value)
        totals[number * length + i] = total


def add(places: Any, values: Any, size: Any, totals: Any) -> None:
    """Add to totals what some photos have more; each place once."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        totals[places[i]] += values[i]


def _bin(bits: Any, bins: Any) -> Any:
    """Return the bin of a positive float64 by its bits; bins rise with it."""
    return smaller(larger((bits >> _SHIFT) - (_BIAS + _LOWEST) * _FINE, 0), bins - 1)


_bin_of = device(_bin)


def count(tiling: Tiling) -> Callable[..., None]:
    """Return the loop that counts scores above 0 in bins."""
    bins, wide = tiling.bins, tiling.wide

    def count_scores(bits: Any, length: Any, histogram: Any) -> None:
        """Add to ``histogram`` (int32, ``bins`` a combination) the totals of combination ``blockIdx.y``, given by bits.

        NaN, infinity and what is not above 0 are no scores.
        """
        counts = cuda.shared.array(bins, types.int32)
        number = cuda.blockIdx.y
        for i in range(cuda.threadIdx.x, bins, wide):
            counts[i] = 0
        cuda.syncthreads()
        for i in range(cuda.grid(1), length, cuda.gridsize(1)):
            value = bits[number * length + i]
            if value > 0 and value < _INFINITE:
                cuda.atomic.add(counts, _bin_of(value, bins), 1)
        cuda.syncthreads()
        for i in range(cuda.threadIdx.x, bins, wide):
            if counts[i] > 0:
                cuda.atomic.add(histogram, number * bins + i, counts[i])

    return count_scores


def cut(tiling: Tiling) -> Callable[..., None]:
    """Return the loop that finds the bin of the last hit."""
    bins, wide = tiling.bins, tiling.wide
    each = -(-bins // wide)

    def find_cut(histogram: Any, top: Any, cuts: Any, results: Any) -> None:
        """Write the highest bin from which on there are ``top`` scores, 0 if there is none; set all counts to 0.

        The first entries of ``results`` too, a combination each.
        """
        sums = cuda.shared.array(wide, types.int32)
        number = cuda.blockIdx.x
        lane = cuda.threadIdx.x
        total = np.int32(0)
        for i in range(lane * each, smaller((lane + 1) * each, bins)):
            total += histogram[number * bins + i]
        sums[lane] = total
        cuda.syncthreads()
        if lane == 0:
            results[number] = 0
            above = np.int64(0)
            part = wide - 1
            while part > 0 and above + sums[part] < top:
                above += sums[part]
                part -= 1
            at = smaller((part + 1) * each, bins) - 1
            while at > 0 and above + histogram[number * bins + at] < top:
                above += histogram[number * bins + at]
                at -= 1
            cuts[number] = larger(at, 0)
        cuda.syncthreads()
        for i in range(lane * each, smaller((lane + 1) * each, bins)):
            histogram[number * bins + i] = 0

    return find_cut


def collect(tiling: Tiling) -> Callable[..., None]:
    """Return the loop that takes out what lies in the bins of the hits."""
    bins = tiling.bins

    def collect_hits(
        bits: Any, length: Any, first: Any, cuts: Any, capacity: Any, results: Any, scores: Any, numbers: Any
    ) -> None:
        """Write totals from the cut of combination ``first + blockIdx.y`` on and their places, at most ``capacity``.

        In any order: from ``scores`` and ``numbers`` on in ``results``, whose first entries count all of them.
        """
        number = first + cuda.blockIdx.y
        target = cuda.blockIdx.y * capacity
        for i in range(cuda.grid(1), length, cuda.gridsize(1)):
            value = bits[number * length + i]
            if value > 0 and value < _INFINITE and _bin_of(value, bins) >= cuts[number]:
                slot = cuda.atomic.add(results, number, 1)
                if slot < capacity:
                    results[scores + target + slot] = value
                    results[numbers + target + slot] = i

    return collect_hits
