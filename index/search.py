"""ASMK scores of queries over the shards of a state, and the best photos."""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.batch import Batch, make_batch
from ctxdeploy.index.codebook.aggregation import Aggregated, code_bits, code_columns
from ctxdeploy.index.config import Hit, Scoring
from ctxdeploy.index.ranking import Part, joined, merge
from ctxdeploy.index.storage.shard import Shard
from ctxdeploy.index.storage.state import State
from ctxdeploy.index.stored import Chosen, Postings
from ctxdeploy.index.threads import SearchThreads

# Queries and what each counts: a photo's score is the sum of its scores for them, each times its coefficient.
Combination = Sequence[tuple[Aggregated, float]]

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


class Group(NamedTuple):
    """Combinations that are searched together.

    Attributes:
        numbers: of the combinations.
        batches: their queries, in order: all in one batch, or each its own.
        coefficients: of each combination's queries.
        added: to the scores of photos, by number, for each combination.
    """

    numbers: Sequence[int]
    batches: Sequence[Batch]
    coefficients: Sequence[Sequence[float]]
    added: Sequence[dict[int, float]]


class Task(NamedTuple):
    """Photos ``low`` .. ``high`` of a shard for a group."""

    shard: int
    low: int
    high: int
    group: Group


class Searcher:
    """Scores over one state of an archive.

    A score depends on its photo and the query alone: its sum runs over the query's words in rising order, in whichever
    shard, thread, part of a shard and company of other queries.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self._local = threading.local()

    @property
    def device(self) -> str:
        """Where postings are searched: ``cpu``, or such as ``cuda:0``."""
        return "cpu"

    def over(self, state: State) -> "Searcher":
        """Return what searches another state of the archive in the same place."""
        return Searcher(state)

    def prepare(self, query: Aggregated) -> None:
        """Load what a search needs, by a search of the first shard."""
        part = self.state.over(self.state.manifest, self.state.shards[:1])
        Searcher(part).search([query], 1, scoring=self.state.manifest.config.scoring(idf=False))

    def close(self) -> None:
        """Release what it holds besides the state; may be called twice."""

    def search(
        self,
        queries: Sequence[Aggregated],
        top: int,
        *,
        scoring: Scoring,
        threads: SearchThreads | None = None,
        among: Chosen | None = None,
    ) -> list[list[Hit]]:
        """Return for each query at most ``top`` hits by falling score; equal scores: by name, byte by byte."""
        return self.search_combined(
            [[(query, 1.0)] for query in queries], top, scoring=scoring, threads=threads, among=among
        )

    def search_combined(
        self,
        combinations: Sequence[Combination],
        top: int,
        *,
        scoring: Scoring,
        threads: SearchThreads | None = None,
        among: Chosen | None = None,
        added: Sequence[dict[int, float]] | None = None,
    ) -> list[list[Hit]]:
        """As ``search``, for sums of scores: float64, in the order of each combination's queries.

        ``added`` comes last: of each combination, numbers of photos and what they have more.
        """
        groups = self.groups(combinations, scoring, added)
        found = self.best(groups, len(combinations), top, scoring=scoring, threads=threads, among=among)
        return [merge(self.state, parts, top) for parts in found]

    def best(
        self,
        groups: Sequence[Group],
        count: int,
        top: int,
        *,
        scoring: Scoring,
        threads: SearchThreads | None = None,
        among: Chosen | None = None,
    ) -> list[list[Part]]:
        """Return for each of ``count`` combinations its best photos in parts: the ``top`` best, all as good as the last
        of them, and others."""
        # Derived before the threads start, so that they do not derive them twice.
        factors = self.state.factors(scoring.idf)
        threads = threads or SearchThreads(1)
        tasks = list(self._tasks(groups, threads.count, among))
        results = threads.run(lambda task: self.scan(task, factors[task.shard], top, scoring, among), tasks)
        found: list[list[Part]] = [[] for _ in range(count)]
        for task, result in zip(tasks, results, strict=True):
            for number, part in zip(task.group.numbers, result, strict=True):
                found[number].append(part)
        return found

    def matrix(
        self, queries: Sequence[Aggregated], chosen: Chosen, *, scoring: Scoring, threads: SearchThreads
    ) -> NDArray[np.float64]:
        """Return the scores of chosen photos, shard by shard and in a shard by number, for each query; 0 for none."""
        factors = self.state.factors(scoring.idf)
        result = np.zeros((len(queries), len(chosen)), np.float64)

        def work(task: Task) -> None:
            photos, columns = chosen.photos[task.shard], chosen.columns(task.shard)
            places = np.arange(len(photos)) if chosen.is_taken(task.shard) else photos
            for low, high, rows in self._rows(task, scoring, chosen):
                here = np.flatnonzero((places >= low) & (places < high))
                for number, (row, scale) in zip(task.group.numbers, rows, strict=True):
                    values = row[places[here] - low].astype(np.float64) * factors[task.shard][photos[here]] * scale
                    result[number, columns][here] = np.where((values > 0) & (values < np.inf), values, 0)

        groups = self.groups([[(query, 1.0)] for query in queries], scoring, together=2)
        threads.run(work, list(self._tasks(groups, 1, chosen)))
        return result

    def parts(
        self, query: Aggregated, photo: Aggregated, scoring: Scoring
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the words that a query shares with a photo, rising, and what each adds to the score."""
        common, left, right = np.intersect1d(query.words, photo.words, assume_unique=True, return_indices=True)
        if not len(common):
            return common, np.zeros(0, np.float64)
        count = len(common)
        codes = photo.codes[right]
        # Each word a photo of its own.
        lists = Postings(
            words=common,
            starts=np.arange(count + 1),
            images=np.arange(count).astype(np.uint16),
            codes=np.ascontiguousarray(codes.T) if self.state.manifest.config.binary else codes,
        )
        batch = make_batch(
            [Aggregated(words=common, codes=query.codes[left])], [self.state.weights(common, scoring.idf)], [1.0]
        )
        norms = [self.state.weights(words, scoring.idf).sum(dtype=np.float64) for words in (query.words, photo.words)]
        if self.state.manifest.config.aggregation == "regional":
            norms[1] = np.float64(1)
        row = self.scores(lists, 0, count, batch, scoring)[0].astype(np.float64)
        return common, np.divide(row, np.sqrt(norms[0] * norms[1]), out=np.zeros(count), where=norms[0] * norms[1] > 0)

    def groups(
        self,
        combinations: Sequence[Combination],
        scoring: Scoring,
        added: Sequence[dict[int, float]] | None = None,
        together: int | None = None,
    ) -> list[Group]:
        """Divide combinations into groups that are searched together: of ``together`` queries on, fewer are as fast
        alone. Where few photos are asked, what each query costs in Python is most of the time, and two are enough."""
        together = TOGETHER if together is None else together
        asked: list[tuple[int, list[tuple[Aggregated, NDArray[np.float32], float, float]]]] = []
        for number, combination in enumerate(combinations):
            terms = []
            for query, coefficient in combination:
                weights = self.state.weights(query.words, scoring.idf)
                norm = float(weights.sum(dtype=np.float64))
                if norm > 0 and coefficient != 0:
                    terms.append((query, weights, 1 / np.sqrt(norm), coefficient))
            if terms:
                asked.append((number, terms))
        parts = _divided([len(terms) for _, terms in asked], together)
        return [_group([asked[i] for i in part], added, together) for part in parts]

    def _tasks(self, groups: Sequence[Group], threads: int, among: Chosen | None) -> Iterator[Task]:
        shards = self.state.shards
        for number, shard in enumerate(shards):
            if among is not None and among.is_taken(number):
                yield from (Task(number, 0, len(among.photos[number]), group) for group in groups)
            elif among is None or len(among.photos[number]):
                parts = -(-threads // max(len(shards) * len(groups), 1))
                length = max(-(-len(shard) // parts), MIN_PHOTOS)
                for low in range(0, len(shard), length):
                    for group in groups:
                        yield Task(number, low, min(low + length, len(shard)), group)

    def scan(
        self,
        task: Task,
        factors: NDArray[np.float64],
        top: int,
        scoring: Scoring,
        among: Chosen | None = None,
        least: NDArray[np.float64] | None = None,
        seen: Callable[[int, int, NDArray[np.float32]], None] | None = None,
    ) -> list[Part]:
        """Return for each combination of a task the scores and numbers of its best photos, and of all as good as them.

        ``factors`` are those of the task's shard. ``least``, float64 of each combination, is a score that ``top``
        photos of other shards have, and rises with what is found here. ``seen`` is called with a combination of one
        query, the number of a photo, and the scores of it and those after it, not divided by norms.
        """
        from ctxdeploy.index.kernels import gather as gather_kernels
        from ctxdeploy.index.kernels import select as select_kernels

        base = int(self.state.bases[task.shard])
        photos = None
        if among is not None:
            factors = among.factors(task.shard, factors)
            photos = among.photos[task.shard] if among.is_taken(task.shard) else None
        numbers = np.arange(task.low, task.high) if photos is None else photos
        found: list[list[Part]] = [[] for _ in task.group.numbers]
        least = np.zeros(len(found)) if least is None else least
        for low, high, rows in self._rows(task, scoring, among):
            part = factors[low:high]
            here = base + numbers[low - task.low : high - task.low]
            for number, coefficients in enumerate(task.group.coefficients):
                more = task.group.added[number]
                if list(coefficients) == [1.0] and not more:
                    row, scale = next(rows)
                    if seen is not None:
                        seen(number, int(here[0]), row)
                    values, places = select_kernels.select(row, part, scale, top, least[number])
                else:
                    totals = np.zeros(high - low, np.float64)
                    for coefficient in coefficients:
                        row, scale = next(rows)
                        gather_kernels.combine(row, part, scale, coefficient, totals)
                    for photo, value in more.items():
                        place = int(np.searchsorted(here, photo))
                        if place < len(here) and here[place] == photo:
                            totals[place] += value
                    values, places = select_kernels.select(totals, np.ones(high - low), 1.0, top, least[number])
                if len(values) >= top:
                    least[number] = max(least[number], np.partition(values, -top)[-top])
                found[number].append((values, here[places]))
        return [joined(parts) for parts in found]

    def _rows(
        self, task: Task, scoring: Scoring, among: Chosen | None
    ) -> Iterator[tuple[int, int, Iterator[tuple[NDArray[np.float32], float]]]]:
        """Yield parts of a task's photos: from, to, and the scores of each query, used one by one, with its scale."""
        taken = among is not None and among.is_taken(task.shard)
        batches, shard = task.group.batches, self.state.shards[task.shard]
        length = task.high - task.low
        if len(batches[0]) > 1:
            photos = GROUP_PHOTOS if len(batches[0]) <= GROUP else GROUP_PHOTOS // 2
            length = -(-length // -(-length // photos))
        ends: dict[int, NDArray[np.int64]] = {}  # of one part are the begins of the next
        for low in range(task.low, task.high, length):
            high = min(low + length, task.high)

            def rows(low: int = low, high: int = high) -> Iterator[tuple[NDArray[np.float32], float]]:
                for number, batch in enumerate(batches):
                    if taken and among is not None:
                        lists: Shard | Postings = among.take(task.shard, batch.words)
                        bounds = lists.bounds(batch.words, low, high)
                    else:
                        lists = shard
                        begins = ends[number] if number in ends else shard.places(batch.words, low)
                        ends[number] = shard.places(batch.words, high)
                        bounds = begins, ends[number]
                    found = self.scores(lists, low, high, batch, scoring, bounds)
                    yield from zip(found, map(float, batch.scales), strict=True)

            yield low, high, rows()

    def scores(
        self,
        lists: Shard | Postings,
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

        begins, ends = bounds or lists.bounds(batch.words, low, high)
        if batch.codes.shape[1] == 2 and self.state.manifest.config.binary and len(batch) == 1:
            row = self._buffer("scores", SCORES, np.float32)
            row[low:high] = 0
            table = similarity_table(scoring, self.state.manifest.dim)
            kernels.score_pairs(begins, ends, lists.images, lists.codes, batch.codes, batch.weights, table, row)
            return row[np.newaxis, low:high]
        width = 1 << (high - low - 1).bit_length()
        rows = self._buffer("scores", len(batch) * width, np.float32).reshape(len(batch), width)
        rows.fill(0)
        both = (begins, ends, lists.images, lists.codes, batch.starts, batch.owners, batch.codes, batch.weights)
        if not self.state.manifest.config.binary:
            kernels.score_floats(*both, float(scoring.alpha), float(scoring.threshold), low, rows)
        elif batch.codes.shape[1] == 2:
            table = similarity_table(scoring, self.state.manifest.dim)
            kept = self._buffer("kept", len(batch) * (batch_kernels.KEPT + batch_kernels.SPARE), np.uint32)
            batch_kernels.score_pairs_of_many(*both, table, low, kept, rows)
        else:
            kernels.score_codes(*both, similarity_table(scoring, self.state.manifest.dim), low, rows)
        return rows[:, : high - low]

    def _buffer(self, name: str, size: int, dtype: Any) -> NDArray[Any]:
        """Return ``size`` elements that belong to this thread; new memory costs a page fault every 4 KB."""
        buffer = getattr(self._local, name, None)
        if buffer is None or len(buffer) < size:
            buffer = np.empty(size, dtype)
            setattr(self._local, name, buffer)
        return buffer[:size]


def _divided(rows: Sequence[int], together: int) -> list[list[int]]:
    """Divide combinations of so many queries each into groups of about ``GROUP`` queries; fewer are searched alone."""
    if sum(rows) < together:
        return [[number] for number in range(len(rows))]
    ends = np.cumsum(rows)
    parts = -(-int(ends[-1]) // GROUP)
    labels = np.minimum((ends - 1) * parts // int(ends[-1]), parts - 1)
    return [list(map(int, np.flatnonzero(labels == part))) for part in range(parts) if (labels == part).any()]


def _group(asked: Sequence[tuple[int, Any]], added: Sequence[dict[int, float]] | None, together: int) -> Group:
    terms = [term for _, part in asked for term in part]
    rows = [(query, weights, scale) for query, weights, scale, _ in terms]
    parts = [rows] if len(rows) >= together else [[row] for row in rows]
    return Group(
        [number for number, _ in asked],
        [make_batch(*map(list, zip(*part, strict=True))) for part in parts],
        [[coefficient for *_, coefficient in part] for _, part in asked],
        [{} if added is None else added[number] for number, _ in asked],
    )
