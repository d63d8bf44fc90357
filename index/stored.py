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
from ctxdeploy.index.config import IndexConfig
from ctxdeploy.index.storage.shard import Shard
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.threads import SearchThreads

# Places of postings, and where each word's begin.
_Places = tuple[NDArray[np.int64], NDArray[np.int64]]

# Photos whose words are looked up one by one where they are known, 0.03 ms each; the lists are read for more.
_KNOWN = 128


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


def take(shard: Shard, photos: NDArray[np.int64], words: NDArray[np.int32] | None, config: IndexConfig) -> Postings:
    """Return the postings of some photos of a shard.

    Args:
        shard: which holds them.
        photos: M rising numbers in it.
        words: U rising words; None for all.
        config: of the archive.
    """
    asked = np.arange(len(shard.word_offsets) - 1, dtype=np.int32) if words is None else words
    places, starts = _find(shard, photos, asked, known=config.assignment == 1)
    images = np.searchsorted(photos, shard.images[places]).astype(np.uint16)
    codes = np.ascontiguousarray(shard.codes[:, places]) if config.binary else shard.codes[places]
    return Postings(words=words, starts=starts, images=images, codes=codes)


def _find(shard: Shard, photos: NDArray[np.int64], words: NDArray[np.int32], *, known: bool) -> _Places:
    """Return the places of the photos' postings in these words, and where each word's begin."""
    from ctxdeploy.index.kernels import gather as gather_kernels

    offsets, images = shard.word_offsets, shard.images
    capacity = int(shard.counts[photos].sum(dtype=np.int64))
    low, high = int(photos[0]), int(photos[-1]) + 1
    if len(photos) > 1 and high - low == len(photos):
        found: _Places = gather_kernels.in_ranges(*shard.bounds(words, low, high), capacity)
        return found
    if _are_known(shard, photos, known=known):
        wanted = np.zeros(len(offsets) - 1, np.bool_)
        wanted[words] = True
        features = shard.geometry_words, shard.geometry_offsets
        complete, theirs, owners = gather_kernels.known_words(wanted, photos, shard.counts, *features)
        if complete:
            places = gather_kernels.look_up(offsets, images, len(shard), theirs, owners)
            lists = np.searchsorted(offsets, places, side="right") - 1
            sizes = np.bincount(lists, minlength=len(offsets) - 1)[words]
            return places, np.concatenate([[0], np.cumsum(sizes)])
    found = gather_kernels.of_photos(offsets, images, words, photos, len(shard), capacity)
    return found


def _are_known(shard: Shard, photos: NDArray[np.int64], *, known: bool) -> bool:
    """Whether the words of these photos are looked up in what the shard keeps of their features."""
    return known and shard.geometry_words is not None and len(photos) <= _KNOWN


def aggregated(state: State, places: Sequence[tuple[int, int]], threads: SearchThreads) -> list[Aggregated]:
    """Return words and codes of photos, given by shard and number, as they were added."""
    config = state.manifest.config
    asked: dict[int, set[int]] = {}
    for shard, number in places:
        asked.setdefault(shard, set()).add(number)

    def work(shard: int) -> dict[tuple[int, int], Aggregated]:
        photos = np.array(sorted(asked[shard]), np.int64)
        parts = split(take(state.shards[shard], photos, None, config), len(photos), binary=config.binary)
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


# A search that is restricted to at most this share of a shard takes those photos' postings out first (at 1/256 it is as
# fast as without), and from so many queries on in all words at once, which pays up to a share that grows with them.
_SHARE, _MANY, _PAYING = 1 / 256, 16, 1 / 3600
# Photos that are taken out at most, 7 KB each; a mask takes 8 bytes a photo of the archive.
_MOST = 1 << 14


def by_shard(state: State, places: Sequence[tuple[int, int]]) -> list[NDArray[np.int64]]:
    """Return the rising numbers in each shard of photos that are given by shard and number; doubled ones once."""
    found = np.array(places, np.int64).reshape(-1, 2)
    return [np.unique(found[found[:, 0] == number, 1]) for number in range(len(state.shards))]


class Chosen:
    """Photos that a search is restricted to.

    Few of a shard have their postings taken out, many a mask over all.

    Args:
        state: which holds them.
        photos: their rising numbers in each shard.
        queries: that will be asked; many have the postings taken out now.
        threads: to do so.

    Attributes:
        photos: as they were given.
    """

    def __init__(self, state: State, photos: Sequence[NDArray[np.int64]], queries: int, threads: SearchThreads) -> None:
        self._state = state
        self.photos = photos
        self._bases = np.cumsum([0, *map(len, self.photos)])
        share = max(_SHARE, min(queries * _PAYING, 0.5)) if queries >= _MANY else _SHARE
        self._share = share if len(self) <= _MOST else 0.0
        self._postings: dict[int, Postings] = {}
        if queries > 1:
            shards = [number for number in range(len(self.photos)) if self._is_taken_at_once(number, queries)]
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
        return 0 < len(self.photos[shard]) <= self._share * len(self._state.shards[shard])

    def _is_taken_at_once(self, shard: int, queries: int) -> bool:
        """Whether the postings in all words are taken out, once for all queries, and not for each in its own words."""
        if not self.is_taken(shard):
            return False
        known = self._state.manifest.config.assignment == 1
        return queries >= _MANY or _are_known(self._state.shards[shard], self.photos[shard], known=known)

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
        return take(self._state.shards[shard], self.photos[shard], words, self._state.manifest.config)
