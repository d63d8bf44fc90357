"""How much faster are queries in a batch than one by one, over 65,536 photos in one shard?

Synthetic postings and queries (see `common.py`). A batch reads each word's postings once for all of its queries; how
much that can save is the sharing: the postings of all queries over those of their words together. Timed for each size
of batch, in turns, with one thread and two, and every hit compared: the queries one by one, each divided among the
threads; apart, each in one thread; and as one batch.

    python benchmarks/batch.py                     # about two minutes and 3 GB
    python benchmarks/batch.py --images 4096       # a quick look

The limit is to read the postings of all words once, 18 bytes each, at the speed of a plain sequential read.
"""

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    BYTES_PER_POSTING,
    SCORING,
    TOP,
    bandwidth,
    build_ours,
    make_postings,
    make_query,
    memory_mb,
    provenance,
    publish,
    summary,
    timed,
)
from numpy.typing import NDArray

from ctxdeploy.index import Aggregated, Hit
from ctxdeploy.index.search import Searcher
from ctxdeploy.index.threads import SearchThreads

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def one_by_one(searcher: Searcher, queries: list[Aggregated], threads: SearchThreads) -> list[list[Hit]]:
    """Search as many times as there are queries."""
    return [searcher.search([query], TOP, scoring=SCORING, threads=threads)[0] for query in queries]


def apart(searcher: Searcher, queries: list[Aggregated], executor: ThreadPoolExecutor) -> list[list[Hit]]:
    """Search as many times as there are queries, each in one thread, several at once."""
    return list(executor.map(lambda query: searcher.search([query], TOP, scoring=SCORING)[0], queries))


def compare(searcher: Searcher, queries: list[Aggregated], size: int, threads: int, runs: int) -> dict[str, Any]:
    """Time all ways, in turns, over changing queries; the first run warms up."""
    seconds: dict[str, list[float]] = {"one_by_one": [], "apart": [], "batch": []}
    pool, executor = SearchThreads(threads), ThreadPoolExecutor(threads)
    for run in range(runs + 1):
        first = run * size % len(queries)
        chosen = [queries[(first + i) % len(queries)] for i in range(size)]
        works = {
            "one_by_one": partial(one_by_one, searcher, chosen, pool),
            "apart": partial(apart, searcher, chosen, executor),
            "batch": partial(searcher.search, chosen, TOP, scoring=SCORING, threads=pool),
        }
        results = {name: timed(work) for name, work in list(works.items())[:: 1 if run % 2 else -1]}
        if any(result != results["one_by_one"][1] for _, result in results.values()):
            raise SystemExit("a batch finds other hits than single searches")
        if run:
            for name, (duration, _) in results.items():
                seconds[name].append(duration)
    pool.close()
    executor.shutdown()
    entry = {name: summary(values) for name, values in seconds.items()}
    batch = entry["batch"]["median_ms"]
    return {
        "queries": size,
        "threads": threads,
        **entry,
        "ratio": round(entry["one_by_one"]["median_ms"] / batch, 3),
        "ratio_to_apart": round(entry["apart"]["median_ms"] / batch, 3),
        "queries_per_s": round(size / batch * 1000, 1),
    }


def sharing(counts: NDArray[np.int64], queries: list[Aggregated]) -> dict[str, float]:
    """Return how many postings the queries ask for, and how many there are in their words."""
    words = np.concatenate([query.words for query in queries])
    asked, read = int(counts[words].sum()), int(counts[np.unique(words)].sum())
    return {"postings_asked_for": asked, "postings_read": read, "sharing": round(asked / read, 3)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build the archive and time every size of batch."""
    rng = np.random.default_rng(options.seed)
    postings = make_postings(options.images, 400, rng)
    counts = postings.counts()
    queries = [make_query(postings, options.query_words, rng) for _ in range(2 * max(SIZES))]
    speeds = {threads: bandwidth(5, threads) for threads in (1, 2)}
    runs = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        index = build_ours(postings, options.images, Path(folder) / "archive")
        searcher = Searcher(index._snapshot)
        searcher.search(queries, TOP, scoring=SCORING)  # compiled, and all postings mapped
        for size in SIZES:
            shared = sharing(counts, queries[:size])
            for threads in (1, 2):
                entry = compare(searcher, queries, size, threads, options.runs)
                limit = shared["postings_read"] * BYTES_PER_POSTING / speeds[threads] * 1000
                fraction = {"limit_ms": round(limit, 3), "fraction": round(limit / entry["batch"]["median_ms"], 3)}
                runs.append({**entry, **shared, **fraction})
    return {
        "question": "a batch of queries beside the same queries one by one",
        "photos": options.images,
        "postings": len(postings.words),
        "query_words": options.query_words,
        "seed": options.seed,
        "runs": runs,
        "bandwidth_gb_per_s": {str(threads): round(speed / 1e9, 2) for threads, speed in speeds.items()},
        "peak_memory_mb": memory_mb(),
        **provenance(),
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw queries a second over the size of a batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for threads, colour in ((1, "#2a78b0"), (2, "#d07020")):
        runs = [run for run in result["runs"] if run["threads"] == threads]
        sizes = [run["queries"] for run in runs]
        axes.plot(sizes, [run["queries_per_s"] for run in runs], "o-", color=colour, label=f"batch, {threads} threads")
        single = [run["queries"] / run["one_by_one"]["median_ms"] * 1000 for run in runs]
        axes.plot(sizes, single, ":", color=colour, label=f"one by one, {threads} threads")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(SIZES), [str(size) for size in SIZES])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("queries in a batch")
    axes.set_ylabel("queries a second")
    axes.legend(fontsize=7)
    figure.savefig(path)


def main() -> None:
    """Read the options, measure, write the JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=65536, help="photos in the shard, at most 65,536")
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each size of batch")
    parser.add_argument("--query-words", type=int, default=1933)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="for the archive; the default is the temporary folder")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "batch.json")
    options = parser.parse_args()
    if not 1 <= options.images <= 65536 or options.runs < 1:
        parser.error("--images must be in 1..65536 and --runs at least 1")
    publish(measure(options), options.output, plot)


if __name__ == "__main__":
    main()
