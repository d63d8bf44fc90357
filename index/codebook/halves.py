"""Words and descriptors in float16, as a GPU multiplies them fastest, and by how much that is off.

A descriptor x and a word w become h = s·(x - o) and h_j = s·(w - o), rounded to float16: o is near the middle of the
words, s a power of two that leaves their numbers below 1. What rounding takes is measured, not estimated. Three more
columns, of ones in the descriptors, add -|h_j|²/2 to the product, so that the largest score is the nearest word, and
nothing but a product of matrices is asked of the GPU: no norms, no square of a difference, no clamp.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.types import LARGEST
from ctxdeploy.index.threads import ALONE, SearchThreads

# Of a product's inner dimension: tensor cores take eight numbers of float16 at once.
_TOGETHER = 8
_NORM_PARTS = 3
# Splits a float32 into its upper 11 bits, as many as float16 has, and the rest (Dekker, Veltkamp).
_SPLITTER = np.float32(2**13 + 1)
# Below the first, float16 has steps of 2^-24: those of float32 near the second.
_NORMAL, _STEPS = np.float32(2.0**-14), np.float32(0.75)
# What is larger beside the words is left to the CPU; float16 ends at 65,504.
_FAR = np.float32(30_000)
# Lengths in float32 are rounded up by this, relatively: more than 4096 sums lose.
_UP = np.float32(1.001)
# What subtracting the origin takes of each number, twice.
_SHIFTED = np.float32(2.0**-23)
# Rows of one step, which stay in the L2 cache.
_ROWS = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class HalfRows:
    """Descriptors as a GPU is asked about them.

    Attributes:
        matrix: n×K float32, all numbers such as float16 holds: h, three ones, zeros.
        squared: n float32, |h|².
        errors: n float32, no smaller than |h - s·(x - o)|; infinite where h is 0 because x is too far away.
    """

    matrix: NDArray[np.float32]
    squared: NDArray[np.float32]
    errors: NDArray[np.float32]


class HalfWords:
    """Words, or centres of cells, as a GPU holds them.

    Args:
        centroids: W×D.

    Attributes:
        fits: whether their numbers are finite and at most 1e15; nothing else may be used where they are not.
        matrix: W×K float32, all numbers such as float16 holds: h_j, three parts of -|h_j|²/2, zeros.
        facts: float64: the longest h_j; the largest |h_j - s·(w - o)|; what the three parts lack at most; s.
        columns: K, a multiple of 8.
    """

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        self.columns = -(-(centroids.shape[1] + _NORM_PARTS) // _TOGETHER) * _TOGETHER
        with np.errstate(over="ignore", invalid="ignore"):
            self.fits = bool((np.abs(centroids) <= LARGEST).all())
        if not self.fits:
            return
        self._origin = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
        largest = float(np.abs(centroids - self._origin).max(initial=0))
        exponent = math.frexp(largest)[1] if largest > 0 else 0
        self._scale = np.float32(2.0 ** -min(max(exponent, -60), 60))
        self.matrix = np.zeros((len(centroids), self.columns), np.float32)
        squared, errors = np.empty(len(centroids), np.float32), np.empty(len(centroids), np.float32)
        self._fill(centroids, self.matrix, squared, errors)
        dim = centroids.shape[1]
        rounded = self.matrix[:, :dim]
        halves = np.einsum("ij,ij->i", rounded, rounded, dtype=np.float64) / 2
        rest = halves.copy()
        for part in range(_NORM_PARTS):
            taken = rest.astype(np.float16)
            self.matrix[:, dim + part] = -taken.astype(np.float32)
            rest -= taken
        longest = math.sqrt(2 * float(halves.max(initial=0))) * float(_UP)
        lacking = float(np.abs(rest).max(initial=0)) * float(_UP)
        self.facts = np.array([longest, float(errors.max(initial=0)), lacking, float(self._scale)])

    def rows(self, vectors: NDArray[np.float32], threads: SearchThreads = ALONE) -> HalfRows:
        """Return descriptors, n×D, as they are to be multiplied with the words."""
        n, dim = vectors.shape
        matrix = np.zeros((n, self.columns), np.float32)
        squared, errors = np.empty(n, np.float32), np.empty(n, np.float32)

        def fill(start: int) -> None:
            part = slice(start, start + _ROWS)
            self._fill(vectors[part], matrix[part], squared[part], errors[part])
            matrix[part, dim : dim + _NORM_PARTS] = 1

        threads.run(fill, range(0, n, _ROWS))
        return HalfRows(matrix=matrix, squared=squared, errors=errors)

    def _fill(self, vectors: Any, matrix: Any, squared: Any, errors: Any) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = (vectors - self._origin) * self._scale
            far = ~(np.abs(numbers).max(axis=1, initial=0) < _FAR)
        numbers[far] = 0
        halved = rounded_to_half(numbers)
        matrix[:, : vectors.shape[1]] = halved
        np.einsum("ij,ij->i", halved, halved, out=squared)
        lost = halved - numbers
        np.einsum("ij,ij->i", lost, lost, out=errors)
        np.sqrt(errors, out=errors)
        # The steps of float32 near 0, below any number here that means something.
        errors += _SHIFTED * np.sqrt(squared) + np.float32(1e-20)
        errors *= _UP
        errors[far] = np.inf


def rounded_to_half(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the numbers (below 30,000) rounded to such as float16 holds, still as float32, in a few fast steps."""
    halved = numbers * _SPLITTER
    halved -= halved - numbers
    small = np.abs(halved) < _NORMAL
    if small.any():
        halved[small] = (numbers[small] + _STEPS) - _STEPS
    return halved
