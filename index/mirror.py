"""What photos found among those that are asked after them: a score of two photos is that of either for the other.

So half of the scores of all photos for each other are computed, and the best of the other half are kept here.
"""

import threading

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.ranking import Part
from ctxdeploy.index.storage.state import State

# Hits that are kept, 12 bytes each: 20 of each of 209,715 photos. Of a shard of 65,536 photos 64 each.
KEPT = 1 << 22
# Photos that share a mirror, 28 bytes each besides, and their names while these are put in order.
_PHOTOS = 1 << 18


def runs(state: State, top: int) -> list[range]:
    """Return the shards that share a mirror, one after the other."""
    found: list[range] = []
    photos = 0
    for shard, base in enumerate(state.bases.tolist()[: len(state.shards)]):
        length = len(state.shards[shard])
        if found and base + length - photos <= min(KEPT // top, _PHOTOS):
            found[-1] = range(found[-1].start, shard + 1)
        else:
            found.append(range(shard, shard + 1))
            photos = base
    return found


class Mirror:
    """The best hits so far of each photo of some shards, among the photos before its block.

    Any thread may add. Of equal scores the first names are kept, so that it does not matter who adds first.

    Args:
        state: of the archive, whose words weigh the same.
        shards: that follow each other.
        top: hits of a photo.
    """

    def __init__(self, state: State, shards: range, top: int) -> None:
        self.shards = shards
        self._first = int(state.bases[shards.start])
        self._factors = np.concatenate([state.factors(idf=False)[shard] for shard in shards])
        count = len(self._factors)
        names = state.names_of(np.arange(self._first, self._first + count))
        self._ranks = np.empty(count, np.int32)
        self._ranks[sorted(range(count), key=names.__getitem__)] = np.arange(count, dtype=np.int32)
        self._scores = np.empty((count, top), np.float64)
        self._numbers = np.empty((count, top), np.int32)
        self._sizes = np.zeros(count, np.int64)
        self._least = np.zeros(count, np.float64)
        self._lock = threading.Lock()

    def least(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return of photos the score that ``top`` others have; 0 where fewer were found."""
        least: NDArray[np.float64] = self._least[numbers - self._first]
        return least

    def add(self, photo: int, begin: int, row: NDArray[np.float32]) -> None:
        """Take the scores of a photo for those from number ``begin`` on, not divided by norms."""
        from ctxdeploy.index.kernels import select as kernels

        low = begin - self._first
        part = slice(low, low + len(row))
        factor = self._factors[photo - self._first]
        values, places = kernels.select_each(row, self._factors[part], factor, self._least[part])
        if len(values):
            with self._lock:
                kernels.keep_each(
                    values,
                    places + low,
                    photo - self._first,
                    self._ranks,
                    self._scores,
                    self._numbers,
                    self._sizes,
                    self._least,
                )

    def of(self, number: int) -> Part:
        """Return what was found for a photo, once all photos before its block have been asked."""
        place = number - self._first
        size = int(self._sizes[place])
        return self._scores[place, :size], self._numbers[place, :size].astype(np.int64) + self._first
