"""Nearest words by a GPU: those of ``FlatAssigner`` and ``CellAssigner`` on the CPU, bit by bit, and their distances.

The GPU compares every descriptor with every word in float16 and proposes the best few. What its scores prove to be
among the nearest is ordered in float64 by the loop that orders it on the CPU (``kernels.candidates``), and descriptors
about which they prove too little are searched on the CPU: the GPU decides how fast an answer comes, never which.

A search through cells looks at the words of some cells alone. The nearest words of all are the nearest of those cells
if they lie in them, which the distances to the centres prove; the GPU compares those, too. The CPU searches the others.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import BackendError
from ctxdeploy.index.codebook.assignment import CellAssigner, Cells, FlatAssigner, Found, frozen
from ctxdeploy.index.codebook.faiss_gpu import MAX_COUNT, Holder
from ctxdeploy.index.codebook.halves import HalfRows, HalfWords
from ctxdeploy.index.threads import ALONE, SearchThreads

# A call to a GPU takes as long as the CPU with so many products of descriptors and words.
WORTH = 1 << 24
# Words that are asked for beyond those that are wanted, and cells: docs/indexing.md says which share that proves.
SPARE, SPARE_CELLS = 7, 8
# Descriptors of one call: 36 MB at 128 dimensions on each side; one call is ahead of the CPU.
_PIECE = 1 << 16
# Descriptors of one call of a kernel.
_ROWS = 2048


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """What the GPU said of some descriptors: scores n×k, falling, their rows n×k, and as what it was asked."""

    rows: HalfRows
    scores: NDArray[np.float32]
    found: NDArray[np.int64]

    def part(
        self, part: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Return what the loops take of some of them."""
        return self.scores[part], self.found[part], self.rows.squared[part], self.rows.errors[part]


class _Held:
    """Words, or centres of cells, on the GPU."""

    def __init__(self, halves: HalfWords, device: Holder) -> None:
        self.halves = halves
        self._rows = device.hold(halves.matrix)

    def scored(self, vectors: NDArray[np.float32], count: int, threads: SearchThreads) -> _Scored:
        rows = self.halves.rows(vectors, threads)
        scores, found = self._rows.best(rows.matrix, min(count, len(self.halves.matrix)))
        return _Scored(rows=rows, scores=scores, found=found)


class _HeldCells(_Held):
    """The centres of cells on the GPU, and which words lie in the cells."""

    def __init__(self, halves: HalfWords, cells: Cells, device: Holder) -> None:
        super().__init__(halves, device)
        self.probes = cells.probes
        self._of_word = np.empty(len(cells.order), np.int32)
        self._of_word[cells.order] = np.repeat(np.arange(len(cells.centres)), np.diff(cells.offsets))

    def keep_probed(self, words: NDArray[np.int32], sure: NDArray[np.bool_], scored: _Scored, part: slice) -> None:
        """Leave those sure alone whose words lie in cells that the CPU looks into."""
        from ctxdeploy.index.kernels import candidates

        facts, columns = self.halves.facts, self.halves.columns
        numbers = (facts, columns, len(self.halves.matrix), self.probes)
        candidates.keep_probed(words, sure, self._of_word, *scored.part(part), *numbers)


class _OnDevice:
    """What a search asks of the GPU, and what that proves."""

    def __init__(self, centroids: NDArray[np.float32], words: _Held, cells: _HeldCells | None) -> None:
        self._centroids, self._words, self._cells = centroids, words, cells

    def ask(self, vectors: NDArray[np.float32], count: int, threads: SearchThreads) -> tuple[_Scored, _Scored | None]:
        """Return scores of the words, and of the centres if there are cells."""
        scored, cells = self._words.scored(vectors, count + SPARE, threads), self._cells
        return scored, None if cells is None else cells.scored(vectors, cells.probes + SPARE_CELLS, threads)

    def proved(
        self, vectors: NDArray[np.float32], scored: tuple[_Scored, _Scored | None], part: slice, count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.bool_]]:
        """Return words and distances of a part of the descriptors, and of which of them they are proved."""
        from ctxdeploy.index.kernels import candidates

        of_words, of_cells = scored
        numbers = (self._words.halves.facts, self._words.halves.columns, count)
        rows = frozen(vectors[part])
        words, distances, sure, wrong = candidates.settle(rows, self._centroids, *of_words.part(part), *numbers)
        if wrong:
            raise BackendError(
                f"the GPU's products are farther from the true ones than float16 explains ({wrong} of {len(rows)} "
                "descriptors): it cannot be used for this, give --device cpu"
            )
        if self._cells is not None and of_cells is not None:
            self._cells.keep_probed(words, sure, of_cells, part)
        return words, distances, sure


class GpuAssigner:
    """Search by a GPU.

    Args:
        alone: the assigner of the same words on the CPU.
        centroids: W×D.
        cells: those that ``alone`` searches in; None where it searches all words.
        device: holds the words as long as this object is there: 18 MB for 65,536 of 128 dimensions.
        worth: fewer products of descriptors and words than this are left to the CPU.
    """

    def __init__(
        self,
        alone: FlatAssigner | CellAssigner,
        centroids: NDArray[np.float32],
        cells: Cells | None,
        device: Holder,
        worth: int = WORTH,
    ) -> None:
        self._alone, self._count, self._worth = alone, len(centroids), max(worth, 1)
        self._held: _OnDevice | None = None
        words, centres = HalfWords(centroids), None if cells is None else HalfWords(cells.centres)
        probed = 0 if cells is None else cells.probes + SPARE_CELLS
        if words.fits and (centres is None or centres.fits) and probed <= MAX_COUNT:
            held = None if cells is None or centres is None else _HeldCells(centres, cells, device)
            self._held = _OnDevice(frozen(centroids), _Held(words, device), held)

    def search(self, vectors: NDArray[np.float32], count: int, threads: SearchThreads = ALONE) -> Found:
        """Return n×count words, nearest first, ties by number, and their squared distances; count is at most W.

        Raises:
            BackendError: the GPU fails, or computes something else than products.
        """
        held = self._held
        if held is None or count + SPARE > MAX_COUNT or len(vectors) * self._count < self._worth:
            return self._alone.search(vectors, count, threads)
        pieces = [vectors[start : start + _PIECE] for start in range(0, len(vectors), _PIECE)]
        if len(pieces) == 1:  # a query: no thread is made for it
            return self._settled(held, vectors, held.ask(vectors, count, threads), count, threads)
        words = np.empty((len(vectors), count), np.int32)
        distances = np.empty((len(vectors), count), np.float64)
        # faiss takes no part of the interpreter's time, so that the CPU proves one piece while the GPU has the next.
        with ThreadPoolExecutor(1, "ctxdeploy-gpu") as helper:
            ahead = helper.submit(held.ask, pieces[0], count, threads)
            for number, piece in enumerate(pieces):
                scored = ahead.result()
                if number + 1 < len(pieces):
                    ahead = helper.submit(held.ask, pieces[number + 1], count, threads)
                place = slice(number * _PIECE, number * _PIECE + len(piece))
                words[place], distances[place] = self._settled(held, piece, scored, count, threads)
        return words, distances

    def _settled(
        self,
        held: _OnDevice,
        vectors: NDArray[np.float32],
        scored: tuple[_Scored, _Scored | None],
        count: int,
        threads: SearchThreads,
    ) -> Found:
        """Return what the scores prove, and of all others what the CPU finds."""
        words = np.empty((len(vectors), count), np.int32)
        distances = np.empty((len(vectors), count), np.float64)
        sure = np.empty(len(vectors), bool)

        def settle(start: int) -> None:
            part = slice(start, start + _ROWS)
            words[part], distances[part], sure[part] = held.proved(vectors, scored, part, count)

        threads.run(settle, range(0, len(vectors), _ROWS))
        rest = np.flatnonzero(~sure)
        if rest.size:
            words[rest], distances[rest] = self._alone.search(vectors[rest], count, threads)
        return words, distances


def assigner_of(
    centroids: NDArray[np.float32], cells: Cells | None = None, device: Holder | None = None
) -> FlatAssigner | CellAssigner | GpuAssigner:
    """Return what finds the nearest words: all, or those of the nearest cells; on the CPU, or by a device."""
    alone = FlatAssigner(centroids) if cells is None else CellAssigner(centroids, cells)
    return alone if device is None else GpuAssigner(alone, centroids, cells, device)
