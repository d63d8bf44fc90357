"""Inner products of global vectors, summed in one order whatever the processor, the threads and the company."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import as_float, compiled, reordered

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


@reordered
def near_products(rows: Any, query: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    """Write the inner product of each row (n×D float32 or int8) with a query, as float32 rounds it in any order."""
    for row in range(rows.shape[0]):
        total = np.float32(0.0)
        for i in range(rows.shape[1]):
            total += np.float32(rows[row, i]) * query[i]
        found[row] = total


@reordered
def near_products_of_halves(rows: NDArray[np.uint16], query: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    """As ``near_products``, of float16 given by their bits: 0.5 GB/s where numpy widens them, 10 here.

    Exponent and fraction, shifted to their places in float32, are 2^112 times too small; numbers below 2^-14 too.
    """
    for row in range(rows.shape[0]):
        total = np.float32(0.0)
        for i in range(rows.shape[1]):
            bits = np.uint32(rows[row, i])
            shifted = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))
            sign = np.uint32((bits & np.uint32(0x8000)) << np.uint32(16))
            total += as_float(np.uint32(shifted | sign)) * np.float32(2.0**112) * query[i]
        found[row] = total


@compiled
def widen_halves(rows: NDArray[np.uint16], found: NDArray[np.float32]) -> None:
    """Write float16 given by their bits as float32."""
    for row in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            bits = np.uint32(rows[row, i])
            shifted = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))
            sign = np.uint32((bits & np.uint32(0x8000)) << np.uint32(16))
            found[row, i] = as_float(np.uint32(shifted | sign)) * np.float32(2.0**112)


@compiled
def sum_parts(codes: NDArray[np.uint8], table: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    """Write for each row of codes (n×M) the sum of what its words have in a table (M×256).

    Four sums hide the latency of loads; vector gathers, of which LLVM makes one sum, take twice as long.
    """
    parts = codes.shape[1]
    whole = parts - parts % 4
    flat = table.ravel()
    for row in range(codes.shape[0]):
        a = b = c = d = np.float32(0.0)
        for part in range(0, whole, 4):
            at = np.uint64(part * 256)
            a += flat[at + np.uint64(codes[row, part])]
            b += flat[at + np.uint64(256) + np.uint64(codes[row, part + 1])]
            c += flat[at + np.uint64(512) + np.uint64(codes[row, part + 2])]
            d += flat[at + np.uint64(768) + np.uint64(codes[row, part + 3])]
        total = (a + b) + (c + d)
        for part in range(whole, parts):
            total += flat[np.uint64(part * 256) + np.uint64(codes[row, part])]
        found[row] = total
