"""Words and codes of stored photos, taken out of the postings: to be queries, or what a search is restricted to.

A shard holds its postings word after word, so that a photo's lie all over it. For one photo of 65,536 they are looked
up in each of W lists; for many of them, and for photos side by side, the lists are read once for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.codebook.aggregation import Aggregated
from ctxdeploy.index.storage.shard import Shard
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.threads import SearchThreads


@dataclass(frozen=True, kw_only=True, eq=False)
class Postings:
    """The postings of M photos of a shard in U words, as a search reads them.

    Attributes:
        words: U int32, rising; None for all W words.
        starts: U+1 int64; word i has the postings ``starts[i]`` .. ``starts[i + 1]``.
        images: P uint16, the photo of each posting, 0..M-1; in a word they rise.
        codes: binary: uint64 C×P; else float32 P×D.
    """

    words: NDArray[np.int32] | None
    starts: NDArray[np.int64]
    images: NDArray[np.uint16]
    codes: NDArray[Any]

    def bounds(self, words: NDArray[np.int32], low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the lists of these words begin and end; of all words or of those that were taken, all photos."""
        if self.words is None:
            return self.starts[words], self.starts[words + 1]
        return self.starts[:-1], self.starts[1:]


def take(shard: Shard, photos: NDArray[np.int64], words: NDArray[np.int32] | None, *, binary: bool) -> Postings:
    """Return the postings of some photos of a shard.

    Args:
        shard: which holds them.
        photos: M rising numbers in it.
        words: U rising words; None for all.
        binary: whether the archive is.
    """
    from ctxdeploy.index.kernels import gather as gather_kernels

    offsets, total = shard.word_offsets, len(shard)
    capacity = int(shard.counts[photos].sum(dtype=np.int64))
    asked = np.arange(len(offsets) - 1, dtype=np.int32) if words is None else words
    low, high = int(photos[0]), int(photos[-1]) + 1
    if high - low == len(photos):
        places, starts = gather_kernels.in_ranges(*shard.bounds(asked, low, high), capacity)
    else:
        places, starts = gather_kernels.of_photos(offsets, shard.images, asked, photos, total, capacity)
    images = np.searchsorted(photos, shard.images[places]).astype(np.uint16)
    codes = np.ascontiguousarray(shard.codes[:, places]) if binary else shard.codes[places]
    return Postings(words=words, starts=starts, images=images, codes=codes)


def aggregated(state: State, places: Sequence[tuple[int, int]], threads: SearchThreads) -> list[Aggregated]:
    """Return words and codes of photos, given by shard and number, as they were added."""
    binary = state.manifest.config.binary
    asked: dict[int, set[int]] = {}
    for shard, number in places:
        asked.setdefault(shard, set()).add(number)

    def work(shard: int) -> dict[tuple[int, int], Aggregated]:
        photos = np.array(sorted(asked[shard]), np.int64)
        parts = split(take(state.shards[shard], photos, None, binary=binary), len(photos), binary=binary)
        return {(shard, int(photo)): part for photo, part in zip(photos, parts, strict=True)}

    found: dict[tuple[int, int], Aggregated] = {}
    for part in threads.run(work, list(asked)):
        found |= part
    return [found[place] for place in places]


def split(postings: Postings, count: int, *, binary: bool) -> list[Aggregated]:
    """Return the words and codes of each of M photos, from their postings in all words."""
    order = np.argsort(postings.images, kind="stable")
    sizes = np.diff(postings.starts)
    words = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[order]
    codes = (postings.codes.T if binary else postings.codes).take(order, axis=0)
    cuts = np.searchsorted(postings.images[order], np.arange(1, count))
    return [
        Aggregated(words=one, codes=code)
        for one, code in zip(np.split(words, cuts), np.split(codes, cuts), strict=True)
    ]


# A search that is restricted to fewer of a shard's photos than this share takes their postings out first.
_SHARE = 8


class Chosen:
    """Photos that a search is restricted to.

    Few of a shard have their postings taken out, many a mask over all.

    Args:
        state: which holds them.
        places: shard and number of each; doubled ones count once.
        threads: take all words' postings out at once: for many queries; None to do so query by query.

    Attributes:
        photos: their rising numbers in each shard.
    """

    def __init__(
        self, state: State, places: Sequence[tuple[int, int]], *, threads: SearchThreads | None = None
    ) -> None:
        self._state = state
        found = np.array(places, np.int64).reshape(-1, 2)
        self.photos = [np.unique(found[found[:, 0] == number, 1]) for number in range(len(state.shards))]
        self._postings: dict[int, Postings] = {}

        self._bases = np.cumsum([0, *map(len, self.photos)])
        if threads is not None:
            shards = [number for number in range(len(self.photos)) if self.is_taken(number)]
            taken = threads.run(lambda number: self._take(number, None), shards)
            self._postings = dict(zip(shards, taken, strict=True))

    def __len__(self) -> int:
        return int(self._bases[-1])

    def column(self, place: tuple[int, int]) -> int:
        """Return how many of these photos come before one of them."""
        shard, number = place
        return int(self._bases[shard] + np.searchsorted(self.photos[shard], number))

    def columns(self, shard: int) -> slice:
        """Return the columns of a shard's photos."""
        return slice(int(self._bases[shard]), int(self._bases[shard + 1]))

    def is_taken(self, shard: int) -> bool:
        """Whether the postings of these photos are taken out of a shard."""
        count = len(self.photos[shard])
        return 0 < count * _SHARE <= len(self._state.shards[shard])

    def factors(self, shard: int, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the photos' factors: of these alone if they are taken out, else 0 for all others."""
        photos = self.photos[shard]
        if self.is_taken(shard):
            taken: NDArray[np.float64] = factors[photos]
            return taken
        masked = np.zeros_like(factors)
        masked[photos] = factors[photos]
        return masked

    def take(self, shard: int, words: NDArray[np.int32]) -> Postings:
        """Return the photos' postings in these words at least."""
        if shard in self._postings:
            return self._postings[shard]
        return self._take(shard, words)

    def _take(self, shard: int, words: NDArray[np.int32] | None) -> Postings:
        return take(self._state.shards[shard], self.photos[shard], words, binary=self._state.manifest.config.binary)
