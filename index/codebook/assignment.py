"""Nearest words of descriptors, the same for a descriptor whatever else is in the call."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.threads import ALONE, SearchThreads


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """A coarse partition of the words: a search looks into the ``probes`` cells nearest to a descriptor.

    Attributes:
        centres: C×D float32.
        order: W int32, every word once, those of a cell side by side.
        offsets: C+1 int32, rising from 0 to W: cell c holds ``order[offsets[c]:offsets[c + 1]]``.
        probes: cells searched, 1..C.
    """

    centres: NDArray[np.float32]
    order: NDArray[np.int32]
    offsets: NDArray[np.int32]
    probes: int


def parse_cells(
    arrays: file_format.Arrays, centroids: NDArray[np.float32], probes: int, version: str, where: str
) -> Cells | None:
    """Check the cells and copy the lists of words, so that a file which changes later cannot send a loop elsewhere."""
    centres, words = arrays.get("cells"), len(centroids)
    if centres is None:
        return None
    if centres.dtype != np.float32 or centres.ndim != 2 or not 1 <= len(centres) <= words:
        raise ArchiveError(f"{where} is damaged: cells is not C×D float32 with C in 1..{words}")
    if centres.shape[1] != centroids.shape[1]:
        raise ArchiveError(f"{where} is damaged: cells and centroids have different dimensions")
    if not 1 <= probes <= len(centres):
        raise ArchiveError(f"{where} is damaged: probes {probes} is outside 1..{len(centres)}")
    if version == "1":
        nothing = np.empty(0, np.int32)
        return Cells(centres=centres, order=nothing, offsets=nothing, probes=probes)
    lists = {}
    for name, length in (("order", words), ("cell_offsets", len(centres) + 1)):
        array = arrays.get(name)
        if array is None or array.dtype != np.int32 or array.shape != (length,):
            raise ArchiveError(f"{where} is damaged: {name} is not {length} int32")
        lists[name] = array.copy()
    order, offsets = lists["order"], lists["cell_offsets"]
    if offsets[0] != 0 or offsets[-1] != words or (offsets[1:] < offsets[:-1]).any():
        raise ArchiveError(f"{where} is damaged: cell_offsets do not rise from 0 to {words}")
    seen = np.zeros(words, bool)
    if order.min() >= 0 and order.max() < words:
        seen[order] = True
    if not seen.all():
        raise ArchiveError(f"{where} is damaged: order does not hold every word once")
    return Cells(centres=centres, order=order, offsets=offsets, probes=probes)


SPARE = 4
# A flat search of 1000 descriptors among as many words takes 5 ms on one thread, as long as one through cells.
FLAT_WORDS = 4096
WORDS_PER_CELL = 64
# Rows of one call of a kernel: lists of pairs and distances stay in the L2 and L3 cache.
_ROWS = 8192
# Rows of a thread at least. On two threads 32 rows take 0.71 ms instead of 0.82 among 16,384 words, 16 rows 0.64
# instead of 0.61.
_FEW = 16
# Packing a cell's words takes as long as comparing them with this many rows.
_PACKING = 32

Found = tuple[NDArray[np.int32], NDArray[np.float64]]


class FlatAssigner:
    """Exact search over all words."""

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        self._centroids = _frozen(centroids)
        self._order = _frozen(np.arange(len(centroids), dtype=np.int32))
        self._offsets = np.array([0, len(centroids)], np.int64)
        self._origin = _padded(_mean(centroids))

    def search(self, vectors: NDArray[np.float32], count: int, threads: SearchThreads = ALONE) -> Found:
        """Return n×count words, nearest first, ties by number, and their squared distances; count is at most W."""
        block = _ROWS if len(vectors) >= _ROWS * threads.count else max(_FEW, -(-len(vectors) // threads.count))
        return _in_blocks(vectors, count, min(block, _ROWS), threads, lambda rows: self._rank(rows, count))

    def _rank(self, rows: NDArray[np.float32], count: int) -> Found:
        from ctxdeploy.index.kernels import assign as assign_kernels

        members, ends = np.arange(len(rows), dtype=np.int32), np.array([0, len(rows)], np.int64)
        kept = min(len(self._centroids), count + SPARE)
        found, _ = assign_kernels.search_cells(
            rows, self._centroids, self._origin, self._order, self._offsets, members, ends, kept
        )
        return assign_kernels.rank(rows, self._centroids, found, count)  # type: ignore[no-any-return]


class CellAssigner:
    """Search in the nearest cells."""

    def __init__(self, centroids: NDArray[np.float32], cells: Cells) -> None:
        self._centroids = _frozen(centroids)
        self._centres, self._order = _frozen(cells.centres), _frozen(cells.order)
        self._probes = cells.probes
        self._offsets = cells.offsets.astype(np.int64)
        self._origin = _padded(_mean(cells.centres))
        self._origins = _padded(cells.centres)

    def search(self, vectors: NDArray[np.float32], count: int, threads: SearchThreads = ALONE) -> Found:
        """Return n×count words, nearest first, ties by number, and their squared distances; count is at most W.

        Threads divide blocks of rows. Where there are fewer of these than threads, they divide each block's cells: of
        the time of a query's rows a third is the packing of words, which rows that were divided would do in each part.
        """
        if len(vectors) >= _ROWS * threads.count or len(vectors) < 2 * _FEW:
            return _in_blocks(vectors, count, _ROWS, threads, lambda rows: self._rank(rows, count))
        return _in_blocks(vectors, count, _ROWS, ALONE, lambda rows: self._rank_together(rows, count, threads))

    def _rank(self, rows: NDArray[np.float32], count: int) -> Found:
        from ctxdeploy.index.kernels import assign as assign_kernels

        chosen = assign_kernels.nearest_cells(rows, self._centres, self._origin, self._probes)
        members, ends = assign_kernels.by_cell(chosen, len(self._centres))
        kept = min(len(self._centroids), count + SPARE)
        found, _ = assign_kernels.search_cells(
            rows, self._centroids, self._origins, self._order, self._offsets, members, ends, kept
        )
        return self._completed(rows, *assign_kernels.rank(rows, self._centroids, found, count))

    def _rank_together(self, rows: NDArray[np.float32], count: int, threads: SearchThreads) -> Found:
        from ctxdeploy.index.kernels import assign as assign_kernels

        kept = min(len(self._centroids), count + SPARE)
        parts = _parts(np.ones(len(rows)), max(1, min(threads.count, len(rows) // _FEW)))

        def cells_of(part: slice) -> Any:
            return assign_kernels.nearest_cells(rows[part], self._centres, self._origin, self._probes)

        def words_of(cells: slice) -> Any:
            bounds = slice(cells.start, cells.stop + 1)
            lists = (self._order, self._offsets[bounds], members, ends[bounds])
            return assign_kernels.search_cells(rows, self._centroids, self._origins[cells], *lists, kept)

        def ranked(part: slice) -> Any:
            best = assign_kernels.nearest_of(words, near, part.start, part.stop)
            return assign_kernels.rank(rows[part], self._centroids, best, count)

        members, ends = assign_kernels.by_cell(np.concatenate(threads.run(cells_of, parts)), len(self._centres))
        looking = np.diff(ends)
        work = np.diff(self._offsets) * (looking + _PACKING * (looking > 0))
        found = threads.run(words_of, _parts(work, len(parts)))
        words, near = (np.stack(arrays) for arrays in zip(*found, strict=True))
        found_parts = threads.run(ranked, parts)
        return self._completed(rows, *(np.concatenate(arrays) for arrays in zip(*found_parts, strict=True)))

    def _completed(self, rows: NDArray[np.float32], words: NDArray[np.int32], distances: NDArray[np.float64]) -> Found:
        """Search rows whose cells hold fewer words than are wanted among all words."""
        short = np.flatnonzero(words[:, -1] < 0)
        if short.size:
            words[short], distances[short] = FlatAssigner(self._centroids).search(rows[short], words.shape[1])
        return words, distances


def _in_blocks(
    vectors: NDArray[np.float32],
    count: int,
    size: int,
    threads: SearchThreads,
    rank: Callable[[NDArray[np.float32]], Found],
) -> Found:
    words = np.empty((len(vectors), count), np.int32)
    distances = np.empty((len(vectors), count), np.float64)

    def fill(start: int) -> None:
        part = slice(start, start + size)
        words[part], distances[part] = rank(_frozen(vectors[part]))

    threads.run(fill, range(0, len(vectors), size))
    return words, distances


def _parts(work: NDArray[Any], count: int) -> list[slice]:
    """Divide a row of things into at most ``count`` slices of about equal work, none of them empty."""
    done = np.cumsum(work)
    cuts = np.searchsorted(done, done[-1] * np.arange(1, count) / count) + 1
    edges = np.unique([0, *np.minimum(cuts, len(work)), len(work)])
    return [slice(int(start), int(stop)) for start, stop in itertools.pairwise(edges)]


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
