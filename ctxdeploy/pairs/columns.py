"""Pairs as columns, a number for each photo."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Columns(NamedTuple):
    """P pairs of photos by number.

    Attributes:
        first, second: int32.
        scores: float64.
        bridge: bool, whether the pair was added to join two parts.
        inliers: int32; -1 where the pair was not compared by geometry.
        probabilities: float64; NaN where the pair was not judged.
    """

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    scores: NDArray[np.float64]
    bridge: NDArray[np.bool_]
    inliers: NDArray[np.int32]
    probabilities: NDArray[np.float64]

    @classmethod
    def of(cls, first: ArrayLike, second: ArrayLike, scores: ArrayLike, *, bridge: bool) -> "Columns":
        """Return pairs that were neither compared nor judged."""
        one, other = np.asarray(first, np.int32), np.asarray(second, np.int32)
        count = len(one)
        unknown = np.full(count, -1, np.int32), np.full(count, np.nan)
        return cls(one, other, np.asarray(scores, np.float64), np.full(count, bridge), *unknown)

    def at(self, places: NDArray[np.generic]) -> "Columns":
        """Return the pairs at some places."""
        return Columns(*(column[places] for column in self))

    def turned(self, where: NDArray[np.bool_]) -> "Columns":
        """Return the pairs, some of them with their photos exchanged."""
        first, second = np.where(where, self.second, self.first), np.where(where, self.first, self.second)
        return self._replace(first=first, second=second)

    def once(self, count: int) -> "Columns":
        """Return each pair of ``count`` photos once, its photos in order, with the higher of its scores."""
        low, high = np.minimum(self.first, self.second), np.maximum(self.first, self.second)
        keys = low.astype(np.int64) * count + high
        order = np.lexsort((-self.scores, keys))
        kept = order[np.append(True, np.diff(keys[order]) != 0)[: len(order)]]
        return self._replace(first=low, second=high).at(kept)

    def in_order(self) -> "Columns":
        """Return the pairs by first photo, of each the best first, and of equal scores by second photo."""
        return self.at(np.lexsort((self.second, -self.scores, self.first)))


def joined(parts: Sequence[Columns]) -> Columns:
    """Return the pairs of several, one after the other."""
    return Columns(*map(np.concatenate, zip(*parts, strict=True)))


def ranks(owners: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return the place of each element among its equals, which stand side by side, from 0."""
    place = np.arange(len(owners))
    begins = np.append(True, owners[1:] != owners[:-1])[: len(place)]
    rank: NDArray[np.int64] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return rank
