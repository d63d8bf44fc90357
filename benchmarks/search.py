"""How fast is a search over 65,536 photos in one shard, with one thread and two, beside the reference package `asmk`?

Both search the same synthetic postings (see `common.py`) in the same process; the reference uses one thread.

    python benchmarks/search.py                    # about two minutes and 4 GB
    python benchmarks/search.py --images 4096      # a quick look

Timed for each query, in blocks of ten that take turns: our `Searcher` from the aggregated query to named hits (top 10),
with one thread and two, and the reference's `IVF.search`; besides, the loops over postings alone. "Bandwidth" is a
plain sequential read of 1 GiB with as many threads. A search's limit is to read its postings, 18 bytes each, so fast.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    BYTES_PER_POSTING,
    DIM,
    SCORING,
    TOP,
    WORDS,
    bandwidth,
    build_ours,
    build_reference,
    check_equal,
    make_postings,
    make_query,
    memory_mb,
    provenance,
    publish,
    summary,
    timed,
)

from ctxdeploy.index import Aggregated
from ctxdeploy.index.search import Searcher, make_batch
from ctxdeploy.index.storage.state import Snapshot
from ctxdeploy.index.threads import SearchThreads

WARM_UP = 3
BLOCK = 10


def compare(snapshot: Snapshot, reference: tuple[Any, Callable[..., Any]], queries: list[Aggregated]) -> dict[str, Any]:
    """Time every query with all, in blocks that take turns."""
    inverted, similarity = reference
    searcher, shard, threads = Searcher(snapshot), snapshot.shards[0], SearchThreads(2)
    for query in queries:  # a service that has run for a while has all of its postings mapped
        searcher.search([query], TOP, scoring=SCORING)
    works: dict[str, Callable[[Any, Any, Any], Any]] = {
        "ours": lambda query, batch, packed: searcher.search([query], TOP, scoring=SCORING),
        "ours_2_threads": lambda query, batch, packed: searcher.search([query], TOP, scoring=SCORING, threads=threads),
        "reference": lambda query, batch, packed: inverted.search(
            packed, query.words, similarity_func=similarity, topk=TOP
        ),
        "ours_postings": lambda query, batch, packed: searcher.scores(shard, 0, len(shard), batch, SCORING),
        "reference_postings": lambda query, batch, packed: [
            similarity(vector, inverted.ivf_vecs[word], inverted.ivf_image_ids[word])
            for vector, word in zip(packed, query.words, strict=True)
        ],
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    prepared = [
        (
            query,
            make_batch([query], [np.ones(len(query.words), np.float32)], [1.0]),
            np.ascontiguousarray(query.codes).view(np.uint32),
        )
        for query in queries
    ]
    for start in range(WARM_UP, len(prepared), BLOCK):
        # A block after another, forwards and backwards: the machine's drift meets all alike. Before a block its side
        # answers other queries untimed, as a service does that is asked without pause.
        for name, work in list(works.items())[:: 1 if start // BLOCK % 2 else -1]:
            for arguments in prepared[start - WARM_UP : start]:
                work(*arguments)
            for arguments in prepared[start : start + BLOCK]:
                times[name].append(timed(partial(work, *arguments))[0])
    threads.close()
    return {name: summary(seconds) for name, seconds in times.items()}


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the medians."""
    from matplotlib.figure import Figure

    labels = {
        "reference": "asmk: IVF.search",
        "reference_postings": "asmk: similarity of postings",
        "ours": "ctxdeploy: search, 1 thread",
        "ours_postings": "ctxdeploy: loop over postings, 1 thread",
        "ours_2_threads": "ctxdeploy: search, 2 threads",
    }
    times = [result["times"][name] for name in labels][::-1]
    medians = np.array([entry["median_ms"] for entry in times])
    spread = np.array([[t["median_ms"] - t["p05_ms"], t["p95_ms"] - t["median_ms"]] for t in times]).T
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(labels.values())[::-1], medians, xerr=spread, color=["#2a78b0"] * 3 + ["#b0b0b0"] * 2)
    for threads in ("1", "2"):
        axes.axvline(result["bandwidth"][threads]["limit_ms"], color="black", linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("ms a query, 65,536 photos (dotted: reading the postings at full bandwidth, 1 and 2 threads)")
    axes.xaxis.label.set_size(7)
    figure.savefig(path)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build both, check that they agree, time them."""
    rng = np.random.default_rng(options.seed)
    postings = make_postings(options.images, 400, rng)
    counts = postings.counts()
    queries = [make_query(postings, options.query_words, rng) for _ in range(options.queries + WARM_UP)]
    scanned = float(np.median([counts[query.words].sum() for query in queries]))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        index = build_ours(postings, options.images, Path(folder) / "archive")
        snapshot = index._snapshot
        reference = build_reference(postings.words, postings.photos, postings.codes, options.images)
        worst = check_equal(snapshot, reference, queries[:3])
        speeds = {threads: bandwidth(5, threads) for threads in (1, 2)}
        times = compare(snapshot, reference, queries)
        size = snapshot.manifest.shards[0].bytes
    median = {name: entry["median_ms"] for name, entry in times.items()}
    limits = {threads: scanned * BYTES_PER_POSTING / speed * 1000 for threads, speed in speeds.items()}
    ours = {1: median["ours"], 2: median["ours_2_threads"]}
    return {
        "question": "one shard: our search with one thread and two beside the reference package's",
        "photos": options.images,
        "words": WORDS,
        "bits": DIM,
        "postings": len(postings.words),
        "skew": round(float(WORDS * (counts.astype(float) ** 2).sum() / counts.sum() ** 2), 3),
        "query_words": int(np.median([len(query.words) for query in queries])),
        "postings_per_query": int(scanned),
        "seed": options.seed,
        "times": times,
        "ratio": round(median["reference"] / ours[1], 2),
        "ratio_2_threads": round(median["reference"] / ours[2], 2),
        "ratio_postings": round(median["reference_postings"] / median["ours_postings"], 2),
        "giga_postings_per_s": {str(threads): round(scanned / ours[threads] / 1e6, 3) for threads in ours},
        "giga_postings_per_s_loop": round(scanned / median["ours_postings"] / 1e6, 3),
        "bandwidth": {
            str(threads): {
                "gb_per_s": round(speeds[threads] / 1e9, 2),
                "limit_ms": round(limits[threads], 3),
                "fraction": round(limits[threads] / ours[threads], 3),
            }
            for threads in ours
        },
        "largest_relative_score_difference": worst,
        "bytes_ours": size,
        "peak_memory_mb_of_both": memory_mb(),
        **provenance(),
    }


def main() -> None:
    """Read the options, measure, write the JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=65536, help="photos in the shard, at most 65,536")
    parser.add_argument("--queries", type=int, default=60, help="timed queries")
    parser.add_argument("--query-words", type=int, default=1933)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="for the archive; the default is the temporary folder")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "search.json")
    options = parser.parse_args()
    if not 1 <= options.images <= 65536 or options.queries < 1:
        parser.error("--images must be in 1..65536 and --queries at least 1")
    publish(measure(options), options.output, plot)


if __name__ == "__main__":
    main()
