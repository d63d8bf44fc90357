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
from ctxdeploy.index.codebook.assignment import frozen
from ctxdeploy.index.threads import ALONE, SearchThreads

# Of a product's inner dimension: tensor cores take eight numbers of float16 at once.
_TOGETHER = 8
_NORM_PARTS = 3
# Lengths in float32 are rounded up by this, relatively.
_UP = 1.001
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
        longest = math.sqrt(2 * float(halves.max(initial=0))) * _UP
        lacking = float(np.abs(rest).max(initial=0)) * _UP
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
        from ctxdeploy.index.kernels import candidates

        candidates.halve(frozen(vectors), self._origin, self._scale, matrix, squared, errors)
