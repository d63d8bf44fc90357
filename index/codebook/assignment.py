"""Nearest words of descriptors, the same for a descriptor whatever else is in the call."""

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


# A flat search of 1000 descriptors among as many words takes as long as one through cells.
FLAT_WORDS = 4096
WORDS_PER_CELL = 64
# Rows of one call of a kernel: what is noted of them stays in the L2 cache.
_ROWS = 2048
# Rows of a thread at least.
_FEW = 16
# Words of a part of a flat search, which stay in the L2 cache.
_PART = 512
# Words that are noted of a descriptor for each that is wanted, and besides: of photos' descriptors 35 come near enough
# for 5, one after another, and 9 of these are left in the end.
_ROOM, _ROOM_EACH = 32, 8
_LINE = 64

Found = tuple[NDArray[np.int32], NDArray[np.float64]]


class FlatAssigner:
    """Exact search over all words."""

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        self._centroids = frozen(centroids)
        self._order = frozen(np.arange(len(centroids), dtype=np.int32))
        self._offsets = np.append(np.arange(0, len(centroids), _PART), len(centroids)).astype(np.int64)
        self._middle = _mean(centroids)
        origin = _padded(self._middle)
        self._words = _pack(self._centroids, origin, origin, self._order, self._offsets)

    def search(self, vectors: NDArray[np.float32], count: int, threads: SearchThreads = ALONE) -> Found:
        """Return n×count words, nearest first, ties by number, and their squared distances; count is at most W."""
        return _in_blocks(vectors, count, threads, self._rank)

    def _rank(self, rows: NDArray[np.float32], count: int) -> Found:
        from ctxdeploy.index.kernels import packed as packed_kernels

        parts = len(self._offsets) - 1
        with np.errstate(over="ignore", invalid="ignore"):
            near = np.square(rows - self._middle).sum(axis=1, dtype=np.float32)
        chosen = np.tile(np.arange(parts, dtype=np.int32), (len(rows), 1))
        lists = (self._words, self._order, self._offsets, chosen, np.repeat(near[:, None], parts, axis=1))
        return packed_kernels.search_cells(rows, self._centroids, *lists, count, _room(count))  # type: ignore[no-any-return]


class CellAssigner:
    """Search in the nearest cells."""

    def __init__(self, centroids: NDArray[np.float32], cells: Cells) -> None:
        self._centroids = frozen(centroids)
        self._centres, self._order = frozen(cells.centres), frozen(cells.order)
        self._probes = cells.probes
        self._everywhere: FlatAssigner | None = None
        self._offsets = cells.offsets.astype(np.int64)
        self._origin = _padded(_mean(cells.centres))
        self._words = _pack(self._centroids, _padded(cells.centres), self._origin, self._order, self._offsets)

    def search(self, vectors: NDArray[np.float32], count: int, threads: SearchThreads = ALONE) -> Found:
        """Return n×count words, nearest first, ties by number, and their squared distances; count is at most W."""
        return _in_blocks(vectors, count, threads, self._rank)

    def _rank(self, rows: NDArray[np.float32], count: int) -> Found:
        from ctxdeploy.index.kernels import cells as cell_kernels
        from ctxdeploy.index.kernels import packed as packed_kernels

        chosen, near = cell_kernels.nearest_cells(rows, self._centres, self._origin, self._probes)
        lists = (self._words, self._order, self._offsets)
        found = packed_kernels.search_cells(rows, self._centroids, *lists, chosen, near, count, _room(count))
        return self._completed(rows, *found)

    def _completed(self, rows: NDArray[np.float32], words: NDArray[np.int32], distances: NDArray[np.float64]) -> Found:
        """Search rows whose cells hold fewer words than are wanted among all words."""
        short = np.flatnonzero(words[:, -1] < 0)
        if short.size:
            if self._everywhere is None:
                self._everywhere = FlatAssigner(self._centroids)
            words[short], distances[short] = self._everywhere.search(rows[short], words.shape[1])
        return words, distances


def _pack(
    centroids: NDArray[np.float32],
    centres: NDArray[np.float32],
    origin: NDArray[np.float32],
    order: NDArray[np.int32],
    offsets: NDArray[np.int64],
) -> Any:
    """Return the words in int8 as the kernels want them, in a quarter of the bytes; of no blocks if they cannot be."""
    from ctxdeploy.index.kernels import packed as packed_kernels
    from ctxdeploy.index.kernels.integers import GROUP
    from ctxdeploy.index.kernels.vectors import LANES

    cells = len(offsets) - 1
    blocks = np.concatenate([[0], np.cumsum(-(-np.diff(offsets) // LANES))]).astype(np.int64)
    count, groups = int(blocks[-1]), origin.shape[1] // GROUP
    codes = _in_lines((count, groups, LANES), np.uint32)
    facts, numbers = _in_lines((count, 3, LANES), np.float32), np.empty((count, LANES), np.int32)
    reach, worst = np.zeros(cells, np.float32), np.zeros(cells, np.float32)
    arrays = (codes, facts, numbers, reach, worst)
    if not packed_kernels.pack(centroids, centres, origin, order, offsets, blocks, *arrays):
        blocks = blocks[:1]
    return codes, facts, numbers, blocks, reach, worst, origin


def _in_lines(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an empty array that begins with a cache line: a register that spans two of them takes two reads."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    array: NDArray[Any] = room[start : start + size].view(dtype).reshape(shape)
    return array


def _room(count: int) -> int:
    return _ROOM + _ROOM_EACH * count


def _in_blocks(
    vectors: NDArray[np.float32],
    count: int,
    threads: SearchThreads,
    rank: Callable[[NDArray[np.float32], int], Found],
) -> Found:
    """Search blocks of rows, which threads divide."""
    size = min(_ROWS, max(_FEW, -(-len(vectors) // threads.count)))
    words = np.empty((len(vectors), count), np.int32)
    distances = np.empty((len(vectors), count), np.float64)

    def fill(start: int) -> None:
        part = slice(start, start + size)
        words[part], distances[part] = rank(frozen(vectors[part]), count)

    threads.run(fill, range(0, len(vectors), size))
    return words, distances


def _mean(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = rows.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
    return mean


def _padded(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows with zeros up to a multiple of 16 columns, as the kernels want their origins."""
    missing = -rows.shape[1] % 16
    padded: NDArray[np.float32] = frozen(np.pad(rows, ((0, 0), (0, missing))) if missing else rows)
    return padded


def frozen(array: NDArray[Any]) -> Any:
    """Return a read-only view: numba compiles for writable and read-only arguments apart, and files' are read-only."""
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view
