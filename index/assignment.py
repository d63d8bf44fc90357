"""Nearest words of descriptors, the same for a descriptor whatever else is in the call.

The kernels propose: a few words more than needed by float32 distances, each of which depends on the descriptor and the
word alone. Their distances are computed anew in float64, in one order of summation, and sorted by (distance, word).
Only a word that float32 rounds out of the ``SPARE`` places below the last one wanted could be missed: more than four
words whose distances differ by less than 1e-5 of the squared distances to the cell's centre.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.assign_cells import Cells

SPARE = 4
# A flat search of 1000 descriptors among as many words takes 5 ms on one thread, as long as one through cells.
FLAT_WORDS = 4096
WORDS_PER_CELL = 64
# Rows of one call of a kernel: lists of pairs and distances stay in the L2 and L3 cache.
_ROWS = 8192

Found = tuple[NDArray[np.int32], NDArray[np.float64]]


class FlatAssigner:
    """Exact search over all words."""

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        self._centroids = _frozen(centroids)
        self._order = _frozen(np.arange(len(centroids), dtype=np.int32))
        self._offsets = np.array([0, len(centroids)], np.int64)
        self._origin = _padded(_mean(centroids))

    def search(self, vectors: NDArray[np.float32], count: int, *, threads: int = 1) -> Found:
        """Return n×count words, nearest first, ties by number, and their squared distances; count is at most W."""
        return _in_blocks(vectors, count, threads, lambda rows: self._rank(rows, count))

    def _rank(self, rows: NDArray[np.float32], count: int) -> Found:
        from ctxdeploy.index import assign_kernels, assign_rank

        members, ends = np.arange(len(rows), dtype=np.int32), np.array([0, len(rows)], np.int64)
        kept = min(len(self._centroids), count + SPARE)
        found = assign_kernels.search_cells(
            rows, self._centroids, self._origin, self._order, self._offsets, members, ends, kept
        )
        return assign_rank.rank(rows, self._centroids, found, count)  # type: ignore[no-any-return]


class CellAssigner:
    """Search in the nearest cells."""

    def __init__(self, centroids: NDArray[np.float32], cells: Cells) -> None:
        self._centroids = _frozen(centroids)
        self._centres, self._order = _frozen(cells.centres), _frozen(cells.order)
        self._probes = cells.probes
        self._offsets = cells.offsets.astype(np.int64)
        self._origin = _padded(_mean(cells.centres))
        self._origins = _padded(cells.centres)

    def search(self, vectors: NDArray[np.float32], count: int, *, threads: int = 1) -> Found:
        """Return n×count words, nearest first, ties by number, and their squared distances; count is at most W."""
        return _in_blocks(vectors, count, threads, lambda rows: self._rank(rows, count))

    def _rank(self, rows: NDArray[np.float32], count: int) -> Found:
        from ctxdeploy.index import assign_kernels, assign_rank

        chosen = assign_kernels.nearest_cells(rows, self._centres, self._origin, self._probes)
        members, ends = assign_rank.by_cell(chosen, len(self._centres))
        kept = min(len(self._centroids), count + SPARE)
        found = assign_kernels.search_cells(
            rows, self._centroids, self._origins, self._order, self._offsets, members, ends, kept
        )
        words, distances = assign_rank.rank(rows, self._centroids, found, count)
        short = np.flatnonzero(words[:, -1] < 0)
        if short.size:  # the probed cells hold fewer than ``count`` words
            rest = rows[short]
            words[short], distances[short] = FlatAssigner(self._centroids).search(rest, count)
        return words, distances


def _in_blocks(
    vectors: NDArray[np.float32], count: int, threads: int, rank: Callable[[NDArray[np.float32]], Found]
) -> Found:
    words = np.empty((len(vectors), count), np.int32)
    distances = np.empty((len(vectors), count), np.float64)

    def fill(start: int) -> None:
        part = slice(start, start + _ROWS)
        words[part], distances[part] = rank(_frozen(vectors[part]))

    starts = range(0, len(vectors), _ROWS)
    if threads == 1 or len(starts) < 2:
        for start in starts:
            fill(start)
    else:
        with ThreadPoolExecutor(threads, "ctxdeploy-assign") as executor:
            for _ in executor.map(fill, starts):
                pass
    return words, distances


def _mean(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = rows.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
    return mean


def _padded(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows with zeros up to a multiple of 16 columns, as the kernels want their origins."""
    missing = -rows.shape[1] % 16
    padded: NDArray[np.float32] = _frozen(np.pad(rows, ((0, 0), (0, missing))) if missing else rows)
    return padded


def _frozen(array: NDArray[Any]) -> Any:
    """Return a read-only view: numba compiles for writable and read-only arguments apart, and files' are read-only."""
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view
