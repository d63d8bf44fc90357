"""Inner products of global vectors, summed in one order whatever the processor, the threads and the company."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import compiled

_LANES = 8


@compiled
def inner_products(rows: NDArray[np.float32], query: NDArray[np.float32], found: NDArray[np.float64]) -> None:
    """Write the inner product of each row with a query.

    A product of two float32 is exact in float64, so that fused and separate instructions round alike. Eight sums, of
    every eighth number each, hide their latency; they are added in order.

    Args:
        rows: n×D.
        query: D.
        found: n, written.
    """
    length = rows.shape[1]
    whole = length - length % _LANES
    for row in range(rows.shape[0]):
        a = b = c = d = e = f = g = h = 0.0
        for i in range(0, whole, _LANES):
            a += np.float64(rows[row, i]) * np.float64(query[i])
            b += np.float64(rows[row, i + 1]) * np.float64(query[i + 1])
            c += np.float64(rows[row, i + 2]) * np.float64(query[i + 2])
            d += np.float64(rows[row, i + 3]) * np.float64(query[i + 3])
            e += np.float64(rows[row, i + 4]) * np.float64(query[i + 4])
            f += np.float64(rows[row, i + 5]) * np.float64(query[i + 5])
            g += np.float64(rows[row, i + 6]) * np.float64(query[i + 6])
            h += np.float64(rows[row, i + 7]) * np.float64(query[i + 7])
        total: Any = ((a + b) + (c + d)) + ((e + f) + (g + h))
        for i in range(whole, length):
            total += np.float64(rows[row, i]) * np.float64(query[i])
        found[row] = total
