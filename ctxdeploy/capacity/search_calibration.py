"""What a search, a commit and a merge cost on this machine: measured on a small archive of synthetic photos.

A search of one thread takes a time for each word of the query in each shard and a time for each posting. Two sizes of
one archive give both; ``benchmarks/results/million.json`` shows that they hold up to a million photos.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from ctxdeploy.bench import WORDS, build_archive, draw_aggregated, timed
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Aggregated, GlobalQuantiser, Index, IndexConfig, Searcher, SearchThreads

# Photos of the two sizes, descriptors of a photo, words of a query, and queries.
SMALL, LARGE, DESCRIPTORS, QUERY_WORDS, QUERIES, TOGETHER = 1024, 24_576, 1000, 1900, 150, 64
VECTORS, VECTOR_DIM, VECTOR_SAMPLE, VECTOR_QUERIES = 12_288, 1024, 512, 15
_ENTRIES, _COMMITS = 2000, 3
_SEED = 0


def search_costs(
    work: Path, processors: int, display: Display, *, small: int = SMALL, large: int = LARGE
) -> dict[str, float]:
    """Build an archive of two shards, and measure searches, commits and a merge of it.

    Args:
        work: an empty folder.
        processors: threads of a search.
        display: shows progress.
        small, large: photos of its first shard, and of both.

    Returns:
        Assumptions by name.
    """
    path = work / "searches.ctxindex"
    build_archive(path, [small, large], DESCRIPTORS, WORDS, _SEED, display)
    queries = draw_aggregated(QUERIES, QUERY_WORDS, np.random.default_rng(_SEED + 7))
    found = _searches(path, [small, large], queries, processors)
    found |= _openings(path)
    found |= _writes(path)
    return {name: value for name, value in found.items() if value > 0}


def _searches(path: Path, sizes: list[int], queries: list[Aggregated], processors: int) -> dict[str, float]:
    alone, postings, all_threads = {}, {}, [0.0]
    for photos in sizes:
        with Index.open(path, at=f"photos-{photos}", threads=processors) as index:
            index.prepare()
            offsets = [shard.word_offsets for shard in index.state.shards]
            alone[photos] = median(_times(index, queries, 1))
            postings[photos] = median(
                sum(int((of[query.words + 1] - of[query.words]).sum(dtype=np.int64)) for of in offsets)
                for query in queries
            )
            if photos == sizes[-1]:
                all_threads = _times(index, queries, processors)
                together = _together(index, queries[:TOGETHER], processors)
    small, large = sizes
    # One shard, and two: seconds = shards · words · list + postings / rate.
    rate = (postings[large] - 2 * postings[small]) / max(alone[large] - 2 * alone[small], 1e-9)
    list_seconds = (alone[small] - postings[small] / rate) / QUERY_WORDS
    found = {"posting_rate": rate, "list_seconds": list_seconds}
    if processors > 1:
        gain = alone[large] / median(all_threads)
        found["thread_share"] = min(max((gain - 1) / (processors - 1), 0.0), 1.0)
    found["spread"] = max(float(np.percentile(all_threads, 99)) / median(all_threads), 1.0)
    found["batch_gain"] = max(median(all_threads) / together, 1.0)
    return found


def _times(index: Index, queries: list[Aggregated], threads: int) -> list[float]:
    """Return the seconds of each query, all of whose postings have been read before."""
    searcher, helpers, scoring = Searcher(index.state), SearchThreads(threads), index.config.scoring()

    def ask(query: Aggregated) -> object:
        return searcher.search([query], 10, scoring=scoring, threads=helpers)

    try:
        for query in queries:
            ask(query)
        return [timed(partial(ask, query))[0] for query in queries]
    finally:
        helpers.close()


def _together(index: Index, queries: list[Aggregated], threads: int) -> float:
    """Return the seconds of a query of a batch."""
    searcher, helpers, scoring = Searcher(index.state), SearchThreads(threads), index.config.scoring()

    def ask() -> object:
        return searcher.search(queries, 10, scoring=scoring, threads=helpers)

    try:
        ask()
        return median(timed(ask)[0] for _ in range(3)) / len(queries)
    finally:
        helpers.close()


def _openings(path: Path) -> dict[str, float]:
    """Measure what opening a shard takes, and counting for idf."""

    def ready() -> Index:
        index = Index.open(path)
        index.prepare()
        return index

    ready().close()
    seconds, index = timed(ready)
    with index:
        facts = index.info()
        counted, _ = timed(lambda: index.state.statistics)
        counted = min(counted, _again(path))
        return {"load_seconds": seconds / facts["shards"], "count_rate": facts["postings"] / counted}


def _again(path: Path) -> float:
    with Index.open(path) as index:
        return timed(lambda: index.state.statistics)[0]


def _writes(path: Path) -> dict[str, float]:
    """Measure commits of one photo, the manifest's share of them, and a merge."""
    photo = draw_aggregated(1, 400, np.random.default_rng(_SEED + 9))[0]
    with Index.open(path, writable=True) as index:
        commits = []
        for number in range(_COMMITS):
            index.add_aggregated(f"later/{number}.jpg", photo)
            commits.append(timed(index.commit)[0])
        manifest = index.state.manifest
        many = replace(manifest, shards=tuple(manifest.shards[i % len(manifest.shards)] for i in range(_ENTRIES)))
        encoded = min(timed(many.encode)[0] for _ in range(_COMMITS))
        size = sum(entry.bytes for entry in manifest.shards)
        merging, merged = timed(index.compact)
    found = {"commit_seconds": median(commits), "shard_seconds": encoded / _ENTRIES}
    return {**found, "compact_rate": size / merging} if merged else found


def global_rates(work: Path, processors: int, step: Callable[[], None], *, vectors: int = VECTORS) -> dict[str, float]:
    """Return the bytes of global vectors that a search compares in a second, by how they are kept."""
    rng = np.random.default_rng(_SEED)
    rows = rng.standard_normal((vectors, VECTOR_DIM), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = {}
    for kind in ("fp32", "fp16", "int8", "pq"):
        config = IndexConfig(global_vectors=kind, global_dim=VECTOR_DIM)
        quantiser = GlobalQuantiser.train(rows[:VECTOR_SAMPLE], config) if kind == "pq" else None
        path = work / f"{kind}.ctxindex"
        with Index.create(path, None, config=config, quantiser=quantiser) as index:
            for number, row in enumerate(rows):
                index.add(f"{number}", None, global_descriptor=row)
        with Index.open(path, threads=processors) as index:
            index.search_global(rows[:1], 10)
            times = [timed(partial(index.search_global, rows[i : i + 1], 10))[0] for i in range(VECTOR_QUERIES)]
        found[kind] = vectors * config.global_bytes / median(times)
        step()
    return found
