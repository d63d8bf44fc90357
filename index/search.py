"""ASMK scores of queries over the shards of a snapshot, and the best photos."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.index.aggregate import Aggregated, code_bits, code_columns
from ctxdeploy.index.config import Hit, Scoring
from ctxdeploy.index.shard import Shard
from ctxdeploy.index.snapshot import Snapshot

SCORES = 1 << 16

# Scores before the division by the query's norm, and the photos' numbers in the shard.
_Found = tuple[NDArray[np.float64], NDArray[np.int64]]


def similarity_table(scoring: Scoring, dim: int) -> NDArray[np.float32]:
    """Return s^alpha for every Hamming distance h up to 64·ceil(D/64): s = 1 - 2h / bits; 0 below the threshold.

    ``bits`` is 32·ceil(D/32), as in the reference, which divides by the length of its packed codes and not by D.
    In float32, operation by operation as the reference.
    """
    bits = code_bits(dim)
    distances = np.arange(64 * code_columns(dim) + 1)
    similarity = np.float32(-2) * (distances.astype(np.float32) / np.float32(bits)) + np.float32(1)
    kept = (similarity >= np.float32(scoring.threshold)) & (distances <= bits)
    table = np.zeros(len(distances), np.float32)
    table[kept] = np.power(similarity[kept], np.float32(scoring.alpha))
    return table


class Searcher:
    """Scores over one snapshot. A score depends on its photo and the query alone: its sum runs over the query's words
    in rising order, in whichever shard and thread.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._tables: dict[Scoring, NDArray[np.float32]] = {}
        self._local = threading.local()

    def search(
        self, queries: Sequence[Aggregated], top: int, *, scoring: Scoring, executor: Executor | None
    ) -> list[list[Hit]]:
        """Return for each query at most ``top`` hits by falling score; equal scores: lower photo number first."""
        shards = range(len(self._snapshot.shards))
        # Derived before the threads start, so that they do not derive them twice.
        idf = scoring.idf
        self._snapshot.factors(idf)
        weights = [self._snapshot.weights(query.words, idf) for query in queries]
        # Shard by shard, so that the postings of a shard are in the page cache for all queries of a batch.
        tasks = [(shard, number) for shard in shards for number, query in enumerate(queries) if len(query.words)]
        run: Callable[..., Any] = map if executor is None else executor.map
        found: list[list[tuple[int, _Found]]] = [[] for _ in queries]
        results = run(lambda task: self._scan(task[0], queries[task[1]], weights[task[1]], top, scoring), tasks)
        for (shard, number), result in zip(tasks, results, strict=True):
            found[number].append((shard, result))
        norms = [float(part.sum(dtype=np.float64)) for part in weights]
        return [self._merge(parts, norm, top) for parts, norm in zip(found, norms, strict=True)]

    def _scan(self, number: int, query: Aggregated, weights: NDArray[np.float32], top: int, scoring: Scoring) -> _Found:
        from ctxdeploy.index import kernels

        scores = self.scores(self._snapshot.shards[number], query, weights, scoring)
        values, places = kernels.select(scores, self._snapshot.factors(scoring.idf)[number], top)
        return values, places

    def scores(
        self, shard: Shard, query: Aggregated, weights: NDArray[np.float32], scoring: Scoring
    ) -> NDArray[np.float32]:
        """Return Σ weight · s^alpha of 65,536 image numbers, not divided by norms; overwritten by the next call."""
        from ctxdeploy.index import kernels

        if not hasattr(self._local, "scores"):
            self._local.scores = np.empty(SCORES, np.float32)
        scores: NDArray[np.float32] = self._local.scores
        scores.fill(0)
        lists = (shard.word_offsets, shard.images, shard.codes, query.words, query.codes, weights)
        if not self._snapshot.manifest.config.binary:
            kernels.score_floats(*lists, float(scoring.alpha), float(scoring.threshold), scores)
            return scores
        table = self._table(scoring)
        if query.codes.shape[1] == 2:
            kernels.score_pairs(*lists, table, scores)
        else:
            kernels.score_codes(*lists, table, scores)
        return scores

    def _table(self, scoring: Scoring) -> NDArray[np.float32]:
        if scoring not in self._tables:
            self._tables[scoring] = similarity_table(scoring, self._snapshot.manifest.dim)
        return self._tables[scoring]

    def _merge(self, parts: list[tuple[int, _Found]], norm: float, top: int) -> list[Hit]:
        if not parts or not norm > 0:
            return []
        values = np.concatenate([part[0] for _, part in parts])
        numbers = np.concatenate([part[1] + self._snapshot.bases[shard] for shard, part in parts])
        best = np.lexsort((numbers, -values))[:top]
        scores = values[best] / np.sqrt(norm)
        # Two values may become one by the division.
        order = np.lexsort((numbers[best], -scores))
        return [Hit(self._snapshot.name(int(numbers[best[i]])), float(scores[i])) for i in order]
