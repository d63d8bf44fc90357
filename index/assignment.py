"""Nearest words of descriptors, the same for a descriptor whatever else is in the call.

faiss computes the distances of more than 20 queries at once with BLAS, whose rounding depends on the shape of the call
and which cancels in |x|² - 2xy + |y|². So faiss only proposes: we ask for a few words more than needed, compute their
distances anew in float64, one order of summation, and sort by (distance, word). Only a word that BLAS rounds out of the
``SPARE`` places below the last one wanted could still be missed: more than four words within 1e-6 of each other.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.extras import require

SPARE = 4
# Above this a flat search of 1000 descriptors takes longer than 6 ms on two cores.
FLAT_WORDS = 4096
WORDS_PER_CELL = 64
_ROWS = 65536


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """A coarse partition of the words: a search looks into the ``probes`` cells nearest to a descriptor.

    Attributes:
        centres: C×D float32.
        probes: cells searched.
    """

    centres: NDArray[np.float32]
    probes: int


class FlatAssigner:
    """Exact search over all words."""

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        self._centroids = centroids
        self._index = require("faiss", "cpu").IndexFlatL2(centroids.shape[1])
        self._index.add(centroids)

    def search(self, vectors: NDArray[np.float32], count: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return n×count words, nearest first, ties by number, and their squared distances; count is at most W."""
        wanted = min(len(self._centroids), count + SPARE)
        return _in_blocks(vectors, count, lambda rows: self._rank(rows, wanted, count))

    def _rank(self, rows: NDArray[np.float32], wanted: int, count: int) -> Any:
        from ctxdeploy.index import build_kernels

        return build_kernels.nearest(rows, self._centroids, self._index.search(rows, wanted)[1], count)


class CellAssigner:
    """Search in the nearest cells of an inverted file over the words: 16 times faster than flat at 65,536 words."""

    def __init__(self, centroids: NDArray[np.float32], cells: Cells) -> None:
        faiss = require("faiss", "cpu")
        self._centroids = centroids
        self._coarse = FlatAssigner(cells.centres)
        self._probes = min(cells.probes, len(cells.centres))
        # The quantizer must outlive the index that points to it.
        self._quantizer = faiss.IndexFlatL2(centroids.shape[1])
        self._quantizer.add(cells.centres)
        self._index = faiss.IndexIVFFlat(self._quantizer, centroids.shape[1], len(cells.centres))
        self._index.train(cells.centres)
        self._index.add(centroids)
        self._index.nprobe = self._probes
        self._flat: FlatAssigner | None = None

    def search(self, vectors: NDArray[np.float32], count: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return n×count words, nearest first, ties by number, and their squared distances; count is at most W."""
        return _in_blocks(vectors, count, lambda rows: self._rank(rows, count))

    def _rank(self, rows: NDArray[np.float32], count: int) -> Any:
        from ctxdeploy.index import build_kernels

        cells, distances = self._coarse.search(rows, self._probes)
        found = self._index.search_preassigned(
            rows, min(len(self._centroids), count + SPARE), cells.astype(np.int64), distances.astype(np.float32)
        )[1]
        words, distances = build_kernels.nearest(rows, self._centroids, found, count)
        short = np.flatnonzero(words[:, -1] < 0)
        if short.size:  # the probed cells hold fewer than ``count`` words
            self._flat = self._flat or FlatAssigner(self._centroids)
            words[short], distances[short] = self._flat.search(np.ascontiguousarray(rows[short]), count)
        return words, distances


def _in_blocks(vectors: NDArray[np.float32], count: int, rank: Any) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    if len(vectors) == 0:
        return np.empty((0, count), np.int32), np.empty((0, count), np.float64)
    parts = [rank(vectors[start : start + _ROWS]) for start in range(0, len(vectors), _ROWS)]
    words, distances = zip(*parts, strict=True)
    return np.concatenate(words), np.concatenate(distances)
