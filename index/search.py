"""ASMK scores of queries over the shards of a state, and the best photos."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.codebook.aggregation import Aggregated, code_bits, code_columns
from ctxdeploy.index.config import Hit, Scoring
from ctxdeploy.index.storage.shard import Shard
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.threads import SearchThreads


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """The words of Q queries, U different ones, E in all, and who has them.

    Attributes:
        words: U int32, rising.
        starts: U+1 int64; word i has the entries ``starts[i]`` .. ``starts[i + 1]``.
        owners: E int64, the query of each entry, 0..Q-1.
        codes: E rows, as in ``Aggregated``.
        weights: E float32, of each entry's word.
        scales: Q float64, 1 / sqrt(norm) of each query.
    """

    words: NDArray[np.int32]
    starts: NDArray[np.int64]
    owners: NDArray[np.int64]
    codes: NDArray[np.uint64] | NDArray[np.float32]
    weights: NDArray[np.float32]
    scales: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scales)


def make_batch(queries: Sequence[Aggregated], weights: Sequence[NDArray[np.float32]], scales: Sequence[float]) -> Batch:
    """Sort the words of one or more queries: 64 queries of 1933 words in 1 ms."""
    words = np.concatenate([query.words for query in queries])
    owners = np.repeat(np.arange(len(queries)), [len(query.words) for query in queries])
    codes = np.concatenate([query.codes for query in queries])
    joined = np.concatenate(weights)
    if len(queries) > 1:
        # numpy sorts 16 bits by radix, and codebooks seldom have more words.
        order = np.argsort(words.astype(np.uint16) if words.max() < 1 << 16 else words, kind="stable")
        words, owners, codes, joined = words[order], owners[order], codes.take(order, axis=0), joined[order]
    starts = np.flatnonzero(np.concatenate(([True], words[1:] != words[:-1], [True])))
    return Batch(
        words=words[starts[:-1]],
        starts=starts,
        owners=owners,
        codes=codes,
        weights=joined,
        scales=np.array(scales, np.float64),
    )


SCORES = 1 << 16
# Queries that are searched together (fewer than 16 are not faster so), and photos at a time: 8 MB of scores, 4 MB kept.
# All 65,536 photos at a time, with 8 MB kept, are 10% faster, for twice the memory.
GROUP = 64
TOGETHER = 16
GROUP_PHOTOS = 1 << 15
# A part of a shard for a thread of its own.
MIN_PHOTOS = 1 << 12


@lru_cache(maxsize=16)
def similarity_table(scoring: Scoring, dim: int) -> NDArray[np.float32]:
    """Return s^alpha for every Hamming distance h up to 64·ceil(D/64): s = 1 - 2h / bits; 0 below the threshold.

    ``bits`` is 32·ceil(D/32), as in the reference, which divides by the length of its packed codes and not by D.
    In float32, operation by operation as the reference. Read-only, since it is kept.
    """
    bits = code_bits(dim)
    distances = np.arange(64 * code_columns(dim) + 1)
    similarity = np.float32(-2) * (distances.astype(np.float32) / np.float32(bits)) + np.float32(1)
    kept = (similarity >= np.float32(scoring.threshold)) & (distances <= bits)
    table = np.zeros(len(distances), np.float32)
    table[kept] = np.power(similarity[kept], np.float32(scoring.alpha))
    table.setflags(write=False)
    return table


class _Task(NamedTuple):
    """Photos ``low`` .. ``high`` of a shard for a group of queries."""

    shard: int
    low: int
    high: int
    group: int


class Searcher:
    """Scores over one state of an archive.

    A score depends on its photo and the query alone: its sum runs over the query's words in rising order, in whichever
    shard, thread, part of a shard and company of other queries.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self._local = threading.local()

    def search(
        self, queries: Sequence[Aggregated], top: int, *, scoring: Scoring, threads: SearchThreads | None = None
    ) -> list[list[Hit]]:
        """Return for each query at most ``top`` hits by falling score; equal scores: by name, byte by byte."""
        weights = [self.state.weights(query.words, scoring.idf) for query in queries]
        norms = [float(part.sum(dtype=np.float64)) for part in weights]
        asked = [number for number, norm in enumerate(norms) if norm > 0]
        groups = _groups(asked)
        batches = [
            make_batch([queries[i] for i in group], [weights[i] for i in group], [1 / np.sqrt(norms[i]) for i in group])
            for group in groups
        ]
        # Derived before the threads start, so that they do not derive them twice.
        factors = self.state.factors(scoring.idf)
        threads = threads or SearchThreads(1)
        tasks = list(self._tasks(groups, threads.count))
        results = threads.run(
            lambda task: self._scan(task, batches[task.group], factors[task.shard], top, scoring), tasks
        )
        found: list[list[tuple[NDArray[np.float64], NDArray[np.int64]]]] = [[] for _ in queries]
        for task, result in zip(tasks, results, strict=True):
            for number, part in zip(groups[task.group], result, strict=True):
                found[number].append(part)
        return [self._merge(parts, top) for parts in found]

    def _tasks(self, groups: list[list[int]], threads: int) -> Iterator[_Task]:
        shards = self.state.shards
        for number, shard in enumerate(shards):
            parts = -(-threads // max(len(shards) * len(groups), 1))
            length = max(-(-len(shard) // parts), MIN_PHOTOS)
            for low in range(0, len(shard), length):
                for group in range(len(groups)):
                    yield _Task(number, low, min(low + length, len(shard)), group)

    def _scan(
        self, task: _Task, batch: Batch, factors: NDArray[np.float64], top: int, scoring: Scoring
    ) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        from ctxdeploy.index.kernels import select as select_kernels

        shard, base = self.state.shards[task.shard], int(self.state.bases[task.shard])
        length = task.high - task.low
        if len(batch) > 1:
            length = -(-length // -(-length // GROUP_PHOTOS))
        result: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []
        begins = _places(shard, task.low, batch.words)
        for low in range(task.low, task.high, length):
            high = min(low + length, task.high)
            ends = _places(shard, high, batch.words)
            rows = self.scores(shard, low, high, batch, scoring, (begins, ends))
            begins = ends
            for row, scale in zip(rows, batch.scales, strict=True):
                values, places = select_kernels.select(row, factors[low:high], float(scale), top)
                result.append((values, places + (base + low)))
        return [_joined(result[number :: len(batch)]) for number in range(len(batch))]

    def scores(
        self,
        shard: Shard,
        low: int,
        high: int,
        batch: Batch,
        scoring: Scoring,
        bounds: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    ) -> NDArray[np.float32]:
        """Return Σ weight · s^alpha of photos ``low`` .. ``high`` of a shard, not divided by norms.

        ``bounds`` are where their postings begin and end in each word's list.

        Q×(high - low) float32, a view of what the next call in the same thread overwrites.
        """
        from ctxdeploy.index.kernels import batch as batch_kernels
        from ctxdeploy.index.kernels import scores as kernels

        begins, ends = bounds or (_places(shard, low, batch.words), _places(shard, high, batch.words))
        if batch.codes.shape[1] == 2 and self.state.manifest.config.binary and len(batch) == 1:
            row = self._buffer("scores", SCORES, np.float32)
            row[low:high] = 0
            table = similarity_table(scoring, self.state.manifest.dim)
            kernels.score_pairs(begins, ends, shard.images, shard.codes, batch.codes, batch.weights, table, row)
            return row[np.newaxis, low:high]
        width = 1 << (high - low - 1).bit_length()
        rows = self._buffer("scores", len(batch) * width, np.float32).reshape(len(batch), width)
        rows.fill(0)
        lists = (begins, ends, shard.images, shard.codes, batch.starts, batch.owners, batch.codes, batch.weights)
        if not self.state.manifest.config.binary:
            kernels.score_floats(*lists, float(scoring.alpha), float(scoring.threshold), low, rows)
        elif batch.codes.shape[1] == 2:
            table = similarity_table(scoring, self.state.manifest.dim)
            kept = self._buffer("kept", len(batch) * (batch_kernels.KEPT + batch_kernels.SPARE), np.uint32)
            batch_kernels.score_pairs_of_many(*lists, table, low, kept, rows)
        else:
            kernels.score_codes(*lists, similarity_table(scoring, self.state.manifest.dim), low, rows)
        return rows[:, : high - low]

    def _buffer(self, name: str, size: int, dtype: Any) -> NDArray[Any]:
        """Return ``size`` elements that belong to this thread; new memory costs a page fault every 4 KB."""
        buffer = getattr(self._local, name, None)
        if buffer is None or len(buffer) < size:
            buffer = np.empty(size, dtype)
            setattr(self._local, name, buffer)
        return buffer[:size]

    def _merge(self, parts: list[tuple[NDArray[np.float64], NDArray[np.int64]]], top: int) -> list[Hit]:
        """Return the best photos of all parts; names are read of those alone, and of their equals at the last place."""
        if not parts:
            return []
        scores = np.concatenate([part[0] for part in parts])
        numbers = np.concatenate([part[1] for part in parts])
        if len(scores) > top:
            good = scores >= np.partition(scores, -top)[-top]
            scores, numbers = scores[good], numbers[good]
        names = [self.state.name(int(number)) for number in numbers]
        order = sorted(range(len(names)), key=lambda i: (-scores[i], names[i].encode("utf-8", "surrogateescape")))
        return [Hit(names[i], float(scores[i])) for i in order[:top]]


def _groups(numbers: list[int]) -> list[list[int]]:
    """Divide queries into groups that are searched together; each its own where that is as fast."""
    if len(numbers) < TOGETHER:
        return [[number] for number in numbers]
    parts = -(-len(numbers) // GROUP)
    return [list(map(int, part)) for part in np.array_split(np.array(numbers), parts)]


def _joined(
    parts: list[tuple[NDArray[np.float64], NDArray[np.int64]]],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _places(shard: Shard, photo: int, words: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return where the postings of photos from ``photo`` on begin in each word's list."""
    from ctxdeploy.index.kernels import select as select_kernels

    offsets, photos = shard.word_offsets, len(shard)
    if photo <= 0:
        return offsets[words].astype(np.int64)
    if photo >= photos:
        return offsets[words + 1].astype(np.int64)
    places: NDArray[np.int64] = select_kernels.split_lists(offsets, shard.images, words, photos, photo)
    return places
