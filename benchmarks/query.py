"""What does a whole query cost, from 1000 descriptors to ten named hits, alone and in a batch of 64?

65,536 photos (see `common.py`), 65,536 random words, each query's descriptors around words that are drawn as often as
photos have them. `Index.search` for each of the queries against `Index.search_batch` with all of them, by turns, with
one thread and with two; and the stages of a single query: assignment to 5 words, aggregation, search.

    python benchmarks/query.py                    # about three minutes and 2 GB
    python benchmarks/query.py --images 4096 --queries 8 --runs 3
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    DIM,
    SCORING,
    TOP,
    WORDS,
    build_ours,
    make_postings,
    memory_mb,
    popularity,
    provenance,
    publish,
    summary,
    timed,
)

from ctxdeploy.index import Index
from ctxdeploy.index.codebook.aggregate import aggregate
from ctxdeploy.index.search import Searcher


def make_queries(index: Index, count: int, descriptors: int, rng: np.random.Generator) -> list[Any]:
    """Return descriptors n×D of each query, around popular words."""
    centroids = index.codebook.centroids
    result = []
    for _ in range(count):
        words = rng.choice(WORDS, descriptors, p=popularity() / WORDS)
        result.append(centroids[words] + 0.5 * rng.standard_normal((descriptors, DIM), np.float32))
    return result


def stages(index: Index, queries: list[Any]) -> dict[str, Any]:
    """Time the stages of single queries on one thread."""
    searcher, centroids = Searcher(index._snapshot), index.codebook.centroids
    times: dict[str, list[float]] = {"assign": [], "aggregate": [], "search": []}
    words_of = []
    for query in queries:
        assigned, words = timed(partial(index.codebook.assign, query, 5))
        aggregated, one = timed(partial(aggregate, query, words, centroids, binary=True))
        searched, _ = timed(partial(searcher.search, [one], TOP, scoring=SCORING))
        words_of.append(len(one.words))
        for name, seconds in zip(times, (assigned, aggregated, searched), strict=True):
            times[name].append(seconds)
    kept = {name: summary(seconds[2:]) for name, seconds in times.items()}
    return {"words_a_query": float(np.median(words_of)), "stages_one_thread": kept}


def compare(folder: Path, queries: list[Any], threads: int, runs: int) -> dict[str, Any]:
    """Time all queries one by one and in a batch, by turns."""
    with Index.open(folder, threads=threads) as index:
        works = {
            "one_by_one": lambda: [index.search(query, TOP) for query in queries],
            "batch": lambda: index.search_batch(queries, TOP),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        hits = {}
        for run in range(runs + 1):
            for name, work in list(works.items())[:: 1 if run % 2 else -1]:
                seconds, hits[name] = timed(work)
                if run:
                    times[name].append(seconds)
    if hits["one_by_one"] != hits["batch"]:
        raise SystemExit("a batch finds other photos than its queries alone")
    found = {name: summary(seconds) for name, seconds in times.items()}
    ratio = float(np.median(np.array(times["one_by_one"]) / np.array(times["batch"])))
    return {"threads": threads, "queries": len(queries), **found, "ratio": round(ratio, 2)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build the archive, then time."""
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "archive"
        with build_ours(make_postings(options.images, 400, rng), options.images, path) as index:
            queries = make_queries(index, options.queries, options.descriptors, rng)
            single = stages(index, queries)
        runs = [compare(path, queries, threads, options.runs) for threads in (1, 2)]
    return {
        "question": "a whole query, from descriptors to hits, alone and in a batch",
        "photos": options.images,
        "descriptors_a_query": options.descriptors,
        **single,
        "runs": runs,
        "peak_memory_mb": memory_mb(),
        **provenance(),
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw milliseconds a query."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axes = figure.subplots()
    for run in result["runs"]:
        for name, colour in (("one_by_one", "#888888"), ("batch", "#2a78b0")):
            label = f"{name.replace('_', ' ')}, {run['threads']} thread{'s' if run['threads'] > 1 else ''}"
            axes.barh(label, run[name]["median_ms"] / run["queries"], color=colour)
    axes.set_xlabel(f"ms a query of {result['descriptors_a_query']} descriptors, {result['photos']:,} photos")
    figure.savefig(path)


def main() -> None:
    """Read the options, measure, write the JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=65536, help="photos in the shard, at most 65,536")
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--descriptors", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="for the archive; the default is the temporary folder")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "query.json")
    options = parser.parse_args()
    publish(measure(options), options.output, plot)


if __name__ == "__main__":
    main()
