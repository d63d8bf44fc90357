"""The loop that scores queries on a GPU, and the table that it finds postings by.

A photo's score is a sum of float32 over the query's words in rising order, as on the CPU: each product is rounded
before it is added (``mul.rn``: no fused multiply-add), whichever thread adds it.

Postings lie as in the shards: word after word, in a word photo after photo. A block has the scores of ``Tiling.photos``
photos in its shared memory. Of each word it reads that part of the list that those photos have: first the postings of
several words at once, all threads side by side, which compare codes and leave in shared memory what each adds; then
that is added, word after word, without conflicts, for a word has a photo once. A range of 1024 photos has about 14
postings of a word that is asked for, 112 bytes of each column of codes, so that most of what is read is used.

An estimate, not a measurement: 1M photos of 400 words and a query of 1900 words have 28M postings in common, 0.5 GB,
with the table of ranges and the rests of sectors 0.7 GB. At 4.8 TB/s that is 0.15 ms. To add takes some 60 steps of
shared memory a tile of 32 words, which overlap between the blocks of a multiprocessor: 0.25 to 0.4 ms are expected on
an H200, a third to a half of its bandwidth. Photo after photo all words of all photos would be read, 0.8 GB, and a
sector of 32 bytes for each code that is wanted.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda, types

from ctxdeploy.index.gpu.tiling import SIMULATED, Tiling, device, larger, product32, smaller


def _meet_all() -> None:
    cuda.syncthreads()


def _meet_warp() -> None:
    cuda.syncwarp()


def _looking(threads: int, columns: int, meet: Any) -> Any:
    """Return what finds the postings of a tile of words, a word a thread."""

    def look_up(
        lane: Any,
        entry: Any,
        stop: Any,
        splits: Any,
        split: Any,
        step: Any,
        base: Any,
        ints: Any,
        floats: Any,
        bits: Any,
        words: Any,
        weights: Any,
        query: Any,
        size_of_query: Any,
        begins: Any,
        ends: Any,
        factors: Any,
        own: Any,
    ) -> None:
        """Write how many postings the words up to each have together, and where those of each would begin with 0."""
        size = np.int32(0)
        begin = np.int64(0)
        if entry < stop:
            place = split + np.int64(ints[words + entry]) * step
            begin = np.int64(splits[place])
            size = np.int32(larger(np.int64(splits[place + 1]) - begin, 0))
            factors[lane] = floats[weights + entry]
            for column in range(columns):
                own[column, lane] = bits[query + column * size_of_query + entry]
        ends[lane] = size
        meet()
        reach = 1
        while reach < threads:
            more = np.int32(0)
            if lane >= reach:
                more = ends[lane - reach]
            meet()
            ends[lane] += more
            meet()
            reach *= 2
        begins[lane] = base + begin - (ends[lane] - size)
        meet()

    return device(look_up)


def _comparing(tiling: Tiling, columns: int) -> Any:
    """Return what computes the products of postings, without an order."""
    photos, threads, ahead = tiling.photos, tiling.threads, tiling.ahead
    half, stride = threads // 2, threads * ahead
    product = product32

    def compare(
        lane: Any,
        done: Any,
        amount: Any,
        low: Any,
        codes: Any,
        images: Any,
        begins: Any,
        ends: Any,
        factors: Any,
        own: Any,
        similarity: Any,
        values: Any,
        places: Any,
    ) -> None:
        """Write what postings ``done`` .. ``done + amount`` of a tile add, and to which photo of the range."""
        theirs = cuda.local.array((columns, ahead), types.uint64)
        numbers = cuda.local.array(ahead, types.int32)
        owners = cuda.local.array(ahead, types.int32)
        for i in range(lane, amount, stride):
            for k in range(ahead):
                # The last is read again where there is no other, for a branch costs more.
                wanted = done + smaller(i + k * threads, amount - 1)
                owner = 0
                jump = half
                while jump > 0:
                    if ends[owner + jump - 1] <= wanted:
                        owner += jump
                    jump //= 2
                place = begins[owner] + wanted
                owners[k] = owner
                numbers[k] = images[place]
                for column in range(columns):
                    theirs[column, k] = codes[column, place]
            for k in range(ahead):
                if i + k * threads < amount:
                    distance = np.int32(0)
                    for column in range(columns):
                        distance += np.int32(cuda.popc(theirs[column, k] ^ own[column, owners[k]]))
                    photo = np.int32(numbers[k]) - np.int32(low)
                    value = product(similarity[distance], factors[owners[k]])
                    if photo < 0 or photo >= photos:  # of a damaged shard
                        photo = np.int32(0)
                        value = np.float32(0)
                    values[i + k * threads] = value
                    places[i + k * threads] = photo

    return device(compare)


def _adding(threads: int, meet: Any) -> Any:
    """Return what adds the products of postings word after word."""

    def add_in_turn(
        lane: Any, word: Any, done: Any, limit: Any, ends: Any, values: Any, places: Any, scores: Any
    ) -> Any:
        """Add postings ``done`` .. ``limit`` of a tile, which begin in ``word``; return the word of the next."""
        at = done
        while at < limit:
            until = smaller(ends[word], limit)
            if until > at:
                for i in range(at - done + lane, until - done, threads):
                    scores[places[i]] += values[i]
                meet()
            at = until
            if ends[word] == until:
                word += 1
        return word

    return device(add_in_turn)


def score(tiling: Tiling, columns: int) -> Callable[..., None]:
    """Return the loop that scores queries against the ranges of photos of a pool; codes have so many columns.

    A block of ``Tiling.threads`` threads for query ``blockIdx.x`` of a batch and range ``first + blockIdx.y``.
    """
    photos, threads, staged = tiling.photos, tiling.threads, tiling.staged
    distances = 64 * columns + 1
    meet = device(_meet_all if SIMULATED or threads != 32 else _meet_warp)
    look_up, compare = _looking(threads, columns, meet), _comparing(tiling, columns)
    add_in_turn = _adding(threads, meet)

    def score_ranges(
        codes: Any,
        images: Any,
        splits: Any,
        ranges: Any,
        first: Any,
        longs: Any,
        bits: Any,
        ints: Any,
        floats: Any,
        starts: Any,
        query: Any,
        words: Any,
        weights: Any,
        table: Any,
        size_of_query: Any,
        rows: Any,
        length: Any,
    ) -> None:
        """Write Σ weight · table[Hamming] of each photo of a range into its row.

        Args:
            codes: uint64 C×P of the pool; images: uint16 P.
            splits: uint32, where the photos of each range begin in each word's list; the next entry is where they end.
            ranges: int64 R×6: of each range its first entry in ``splits``, entries from word to word, what is added to
                them, the number of its first photo in the shard, its photos, and the place of the first in a row.
            first: of the ranges.
            longs, bits, ints, floats: what ``Packed`` holds, as int64, uint64, int32 and float32.
            starts: where in ``longs`` the Q+1 bounds of the queries' entries begin.
            query: where in ``bits`` their codes begin, C·E, column after column.
            words, weights: where in ``ints`` their words begin, rising in each query, and in ``floats`` their weights.
            table: where in ``floats`` similarities begin, 64·C + 1.
            size_of_query: E, entries of all queries.
            rows: float32, ``length`` a query.
        """
        scores = cuda.shared.array(photos, types.float32)
        similarity = cuda.shared.array(distances, types.float32)
        begins = cuda.shared.array(threads, types.int64)
        ends = cuda.shared.array(threads, types.int32)
        factors = cuda.shared.array(threads, types.float32)
        own = cuda.shared.array((columns, threads), types.uint64)
        values = cuda.shared.array(staged, types.float32)
        places = cuda.shared.array(staged, types.int32)
        lane, asked, part = cuda.threadIdx.x, cuda.blockIdx.x, first + cuda.blockIdx.y
        split, step, base = ranges[part, 0], ranges[part, 1], ranges[part, 2]
        low, count, row = ranges[part, 3], ranges[part, 4], ranges[part, 5]
        for i in range(lane, photos, threads):
            scores[i] = np.float32(0)
        for i in range(lane, distances, threads):
            similarity[i] = floats[table + i]
        stop = longs[starts + asked + 1]
        for tile in range(longs[starts + asked], stop, threads):
            look_up(
                lane,
                tile + lane,
                stop,
                splits,
                split,
                step,
                base,
                ints,
                floats,
                bits,
                words,
                weights,
                query,
                size_of_query,
                begins,
                ends,
                factors,
                own,
            )
            total = ends[threads - 1]
            done = 0
            word = 0
            while done < total:
                limit = smaller(done + staged, total)
                compare(
                    lane, done, limit - done, low, codes, images, begins, ends, factors, own, similarity, values, places
                )
                meet()
                word = add_in_turn(lane, word, done, limit, ends, values, places, scores)
                done = limit
            # Nobody is to look up the next words while another still reads where these end.
            meet()
        for i in range(lane, count, threads):
            rows[asked * length + row + i] = scores[i]

    return score_ranges


def split_lists(
    images: Any, offsets: Any, base: Any, words: Any, parts: Any, photos: Any, splits: Any, target: Any
) -> None:
    """Write where each of ``parts`` ranges of ``photos`` photos begins in the list of each word of a shard.

    Into splits[target + word · parts + range]; the end of the last list behind them. Whatever the image numbers are, no
    place is outside of its list.
    """
    total = words * parts
    for i in range(cuda.grid(1), total + 1, cuda.gridsize(1)):
        if i == total:
            splits[target + i] = offsets[words]
        else:
            word = i // parts
            bound = (i - word * parts) * photos
            low = np.int64(offsets[word])
            high = np.int64(offsets[word + 1])
            if bound == 0:
                high = low
            while low < high:
                middle = (low + high) // 2
                if np.int64(images[base + middle]) < bound:
                    low = middle + 1
                else:
                    high = middle
            splits[target + i] = low
