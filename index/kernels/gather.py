"""The loops that take the postings of some photos out of the lists of a shard, which are ordered by word."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.kernels.intrinsics import compiled, prefetch
from ctxdeploy.index.kernels.select import first_from

# Look-ups that are under way at once, and postings of a word that are filtered in the time of one look-up.
_AHEAD = 16
LOOKUP = 100


@compiled
def in_ranges(
    begins: NDArray[np.int64], ends: NDArray[np.int64], capacity: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places ``begins[i]`` .. ``ends[i]`` of U words, word after word, and where each word's begin (U+1).

    At most ``capacity`` places.
    """
    places, starts = np.empty(capacity, np.int64), np.zeros(begins.size + 1, np.int64)
    size: Any = 0
    for i in range(begins.size):
        for place in range(begins[i], min(ends[i], begins[i] + capacity - size)):
            places[size] = place
            size += 1
        starts[i + 1] = size
    return places[:size], starts


@compiled
def of_photos(
    offsets: NDArray[np.uint32],
    images: NDArray[np.uint16],
    words: NDArray[np.int32],
    photos: NDArray[np.int64],
    count: int,
    capacity: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the postings of some photos in U words, word after word, and where each word's begin (U+1).

    A list that is long for the photos is looked up photo by photo, where each would be if photos lay evenly in it;
    another is read whole. In a word the places rise, and with them the photos.

    Args:
        offsets, images: of the shard.
        words: U, each in 0..W-1.
        photos: M rising numbers in 0..count-1.
        count: photos in the shard.
        capacity: places at most, the postings of the photos; a damaged list may hold more.
    """
    places, starts = np.empty(capacity, np.int64), np.zeros(words.size + 1, np.int64)
    member = np.zeros(1 << 16, np.bool_)
    for photo in photos:
        member[photo] = True
    size: Any = 0
    for i in range(words.size):
        if i + _AHEAD < words.size:
            begin, end = np.int64(offsets[words[i + _AHEAD]]), np.int64(offsets[words[i + _AHEAD] + 1])
            if (end - begin) > LOOKUP * photos.size:
                for photo in photos:
                    prefetch(images, begin + (end - begin) * photo // count)
        begin, end = np.int64(offsets[words[i]]), np.int64(offsets[words[i] + 1])
        if (end - begin) > LOOKUP * photos.size:
            for photo in photos:
                place = first_from(images, begin, end, begin + (end - begin) * photo // count, photo)
                if place < end and images[place] == photo and size < capacity:
                    places[size] = place
                    size += 1
        else:
            for place in range(begin, end):
                if member[images[place]] and size < capacity:
                    places[size] = place
                    size += 1
        starts[i + 1] = size
    return places[:size], starts


@compiled
def known_words(
    wanted: NDArray[np.bool_],
    photos: NDArray[np.int64],
    counts: NDArray[np.uint32],
    features: NDArray[np.uint16],
    ends: NDArray[np.uint32],
) -> tuple[bool, NDArray[np.int32], NDArray[np.int64]]:
    """Return whether photos' words are those of their features, and then each wanted word and whose it is.

    Args:
        wanted: W.
        photos: rising numbers.
        counts: words of each photo of the shard; as many must its features have.
        features: rising words of the features of each photo, those of photo i from ``ends[i]`` to ``ends[i + 1]``.
        ends: photos of the shard + 1.
    """
    capacity: Any = 0
    for photo in photos:
        capacity += np.int64(counts[photo])
    words, owners = np.empty(capacity, np.int32), np.empty(capacity, np.int64)
    size: Any = 0
    for photo in photos:
        distinct: Any = 0
        last: Any = -1
        for i in range(np.int64(ends[photo]), np.int64(ends[photo + 1])):
            word = np.int64(features[i])
            if last < word < wanted.size:
                last = word
                distinct += 1
                if wanted[word] and size < capacity:
                    words[size], owners[size] = word, photo
                    size += 1
        if distinct != counts[photo]:
            return False, words[:0], owners[:0]
    return True, words[:size], owners[:size]


@compiled
def look_up(
    offsets: NDArray[np.uint32],
    images: NDArray[np.uint16],
    count: int,
    words: NDArray[np.int32],
    owners: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the place of the posting of each photo ``owners[i]`` in the list of ``words[i]``, rising; none is left
    out unless it is not there.
    """
    guesses, places = np.empty(words.size, np.int64), np.empty(words.size, np.int64)
    size: Any = 0
    for i in range(words.size + _AHEAD):
        if i < words.size:
            begin, end = np.int64(offsets[words[i]]), np.int64(offsets[words[i] + 1])
            guesses[i] = begin + (end - begin) * owners[i] // count
            prefetch(images, guesses[i])
        if i >= _AHEAD:
            j = i - _AHEAD
            begin, end = np.int64(offsets[words[j]]), np.int64(offsets[words[j] + 1])
            place = first_from(images, begin, end, guesses[j], owners[j])
            if place < end and images[place] == owners[j]:
                places[size] = place
                size += 1
    places = places[:size]
    places.sort()
    return places


@compiled
def combine(
    row: NDArray[np.float32],
    factors: NDArray[np.float64],
    scale: float,
    coefficient: float,
    totals: NDArray[np.float64],
) -> None:
    """Add coefficient · (score · factor · scale) of every photo to ``totals``, in float64."""
    for i in range(totals.size):
        totals[i] += coefficient * (np.float64(row[i]) * factors[i] * scale)
