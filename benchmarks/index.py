"""What do the parts of the index cost on 65,536 synthetic photos in one shard, beside the package `asmk`?

    python benchmarks/index.py search    # two minutes and 4 GB; `asmk` uses one thread
    python benchmarks/index.py batch     # queries one by one, each in a thread, and in batches of 1 to 128
    python benchmarks/index.py query     # assign, aggregate, search; 64 queries one by one, and in a batch
    python benchmarks/index.py add       # aggregate and add photos of 1000 descriptors, the commit included
    python benchmarks/index.py search --photos 4096 --queries 20    # a quick look

`ctxdeploy.bench.inputs` says how photos and queries are drawn. Both sides work on the same postings in one process, in
turns, and what they find is compared. The limit of a search is to read its postings, 18 bytes each, as fast as a plain
sequential read with as many threads; a batch reads each word's postings once for all of its queries.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.bench import (
    BYTES_PER_POSTING,
    DIM,
    WORDS,
    SearchStages,
    bandwidth,
    build_archive,
    draw_aggregated,
    draw_queries,
    in_turns,
    milliseconds,
    peak_memory,
    publish,
    reference_of,
    score_difference,
    timed,
)
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Aggregated, Codebook, Index, IndexConfig, Searcher, SearchThreads
from ctxdeploy.index.batch import make_batch
from ctxdeploy.index.codebook import aggregate

TOP, SCORING = 10, IndexConfig().scoring()
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def search(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Time each query with one thread, with two, and in `asmk`; and the loops over postings alone."""
    rng = np.random.default_rng(options.seed)
    with _archive(options, folder) as index, closing(SearchThreads(2)) as threads:
        snapshot = index.state
        searcher, shard, (inverted, similarity) = Searcher(snapshot), snapshot.shards[0], reference_of(index)
        queries = draw_aggregated(options.queries + 10, options.query_words, rng)
        worst = max(score_difference(index, (inverted, similarity), query, len(index)) for query in queries[:3])
        works: dict[str, Callable[[Aggregated], Any]] = {
            "ours": lambda query: searcher.search([query], TOP, scoring=SCORING),
            "ours_2_threads": lambda query: searcher.search([query], TOP, scoring=SCORING, threads=threads),
            "reference": lambda query: inverted.search(
                _packed(query), query.words, similarity_func=similarity, topk=TOP
            ),
            "ours_postings": lambda query: searcher.scores(
                shard, 0, len(shard), make_batch([query], [np.ones(len(query.words), np.float32)], [1.0]), SCORING
            ),
            "reference_postings": lambda query: [
                similarity(vector, inverted.ivf_vecs[word], inverted.ivf_image_ids[word])
                for vector, word in zip(_packed(query), query.words, strict=True)
            ],
        }
        # Blocks of ten, with three untimed before each, as a service has them that is asked without pause.
        times = {n: milliseconds(s) for n, s in in_turns(works, queries, turn=10, again=3).items()}
        counts = np.diff(shard.word_offsets)
        scanned = float(np.median([counts[query.words].sum() for query in queries]))
        size = snapshot.manifest.shards[0].bytes
    limits, ours = _limits(scanned, _speeds()), {1: times["ours"]["median_ms"], 2: times["ours_2_threads"]["median_ms"]}
    result = {
        "question": "one shard: our search with one thread and two beside the reference package's",
        "photos": options.photos,
        "words": WORDS,
        "bits": DIM,
        "postings": int(counts.sum()),
        "skew": round(float(WORDS * (counts.astype(float) ** 2).sum() / counts.sum() ** 2), 3),
        "query_words": options.query_words,
        "postings_per_query": int(scanned),
        "seed": options.seed,
        "times": times,
        "ratio": round(times["reference"]["median_ms"] / ours[1], 2),
        "ratio_2_threads": round(times["reference"]["median_ms"] / ours[2], 2),
        "ratio_postings": round(times["reference_postings"]["median_ms"] / times["ours_postings"]["median_ms"], 2),
        "giga_postings_per_s": {str(count): round(scanned / ours[count] / 1e6, 3) for count in ours},
        "bandwidth": {str(n): {**of, "fraction": round(of["limit_ms"] / ours[n], 3)} for n, of in limits.items()},
        "largest_relative_score_difference": worst,
        "bytes_ours": size,
    }
    lines = [
        f"a query of {options.query_words} words, {n} thread{'s' * (n > 1)}: {ours[n]:.2f} ms, the limit is "
        f"{limits[n]['limit_ms']:.2f} ms to read its postings: {result['bandwidth'][str(n)]['fraction']:.2f} of it"
        for n in ours
    ]
    return result, [*lines, f"asmk: {times['reference']['median_ms']:.1f} ms, {result['ratio']} times as long"]


def batch(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Time each size of batch: one by one divided among the threads, each in one thread, and as one batch."""
    rng = np.random.default_rng(options.seed)
    runs: list[dict[str, Any]] = []
    speeds = _speeds()
    with _archive(options, folder) as index:
        searcher, counts = Searcher(index.state), np.diff(index.state.shards[0].word_offsets)
        queries = draw_aggregated(2 * SIZES[-1], options.query_words, rng)
        searcher.search(queries, TOP, scoring=SCORING)  # compiled, and all postings mapped
        for size in SIZES:
            words = np.concatenate([query.words for query in queries[:size]])
            asked, read = int(counts[words].sum()), int(counts[np.unique(words)].sum())
            limits = _limits(read, speeds)
            for threads in (1, 2):
                entry = _batches(searcher, queries, size, threads, options.runs)
                fraction = round(limits[threads]["limit_ms"] / entry["batch"]["median_ms"], 3)
                shared = {"postings_asked_for": asked, "postings_read": read, "sharing": round(asked / read, 3)}
                runs.append({**entry, **shared, "limit_ms": limits[threads]["limit_ms"], "fraction": fraction})
    result = {
        "question": "a batch of queries beside the same queries one by one",
        "photos": options.photos,
        "postings": int(counts.sum()),
        "query_words": options.query_words,
        "seed": options.seed,
        "runs": runs,
        "bandwidth_gb_per_s": {str(threads): round(speed / 1e9, 2) for threads, speed in speeds.items()},
    }
    return result, [
        f"batch of {run['queries']}, {run['threads']} thread(s): {run['ratio']:.2f} times as fast as one by one, "
        f"{run['fraction']:.2f} of the limit (each posting read once: {run['limit_ms']} ms)"
        for run in runs
    ]


def _batches(searcher: Searcher, queries: Sequence[Aggregated], size: int, count: int, runs: int) -> dict[str, Any]:
    with closing(SearchThreads(count)) as threads, ThreadPoolExecutor(count) as pool:

        def alone(query: Aggregated, divided: SearchThreads | None = None) -> Any:
            return searcher.search([query], TOP, scoring=SCORING, threads=divided)[0]

        works: dict[str, Callable[[Any], Any]] = {
            "one_by_one": lambda chosen: [alone(query, threads) for query in chosen],
            "apart": lambda chosen: list(pool.map(alone, chosen)),
            "batch": lambda chosen: searcher.search(chosen, TOP, scoring=SCORING, threads=threads),
        }
        starts = [run * size % len(queries) for run in range(runs + 1)]
        items = [[queries[(start + i) % len(queries)] for i in range(size)] for start in starts]
        entry: dict[str, Any] = {n: milliseconds(s) for n, s in in_turns(works, items, check=_same).items()}
    together = entry["batch"]["median_ms"]
    return {
        "queries": size,
        "threads": count,
        **entry,
        "ratio": round(entry["one_by_one"]["median_ms"] / together, 3),
        "ratio_to_apart": round(entry["apart"]["median_ms"] / together, 3),
        "queries_per_s": round(size / together * 1000, 1),
    }


def query(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Time the stages of queries on one thread, and all queries one by one and in a batch."""
    with _archive(options, folder) as index:
        queries = draw_queries(index, options.queries, options.descriptors, options.seed)
        stages = SearchStages(index, 1, TOP)
        samples = [stages.search(vectors)[0].stages for vectors in queries][2:]
        words = float(np.median([len(stages.query(vectors).words) for vectors in queries]))
        limit = 1000 * float(np.median([stages.bytes_read(vectors) for vectors in queries])) / bandwidth(5)
    times = {
        "assign": [sample["assign"] for sample in samples],
        "aggregate": [sample["aggregate"] for sample in samples],
        "search": [sample["scan"] + sample["top-k"] for sample in samples],
    }
    runs = []
    for threads in (1, 2):
        with Index.open(folder / "archive", threads=threads) as index:
            works: dict[str, Callable[[Any], Any]] = {
                "one_by_one": partial(_search_each, index),
                "batch": partial(index.search_batch, top=TOP),
            }
            spent = in_turns(works, [queries] * (options.runs + 1), check=_same)
        ratio = float(np.median(np.array(spent["one_by_one"]) / np.array(spent["batch"])))
        found = {name: milliseconds(seconds) for name, seconds in spent.items()}
        runs.append({"threads": threads, "queries": len(queries), **found, "ratio": round(ratio, 2)})
    result = {
        "question": "a whole query, from descriptors to hits, alone and in a batch",
        "photos": options.photos,
        "descriptors_a_query": options.descriptors,
        "words_a_query": words,
        "stages_one_thread": {name: milliseconds(seconds) for name, seconds in times.items()},
        "runs": runs,
    }
    lines = [f"{name}: {of['median_ms']:.2f} ms" for name, of in result["stages_one_thread"].items()]
    fraction = limit / result["stages_one_thread"]["search"]["median_ms"]
    lines.append(f"the limit of search is {limit:.2f} ms to read its postings: {fraction:.2f} of it")
    return result, [*lines, *(f"{r['threads']} thread(s), in a batch: {r['ratio']:.2f} times as fast" for r in runs)]


def add(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Time what a photo costs once its descriptors have their words: ours with the commit, `asmk` in memory."""
    from asmk.codebook import Codebook as Words
    from asmk.inverted_file import IVF
    from asmk.kernel import ASMKKernel

    rng, warm_up = np.random.default_rng(options.seed), 20
    centroids = rng.standard_normal((WORDS, DIM), np.float32)
    words = Words(None, size=WORDS)
    words.centroids = centroids
    kernel, inverted = ASMKKernel(words, binary=True), IVF.initialize_empty(codebook_size=WORDS, use_idf=False)
    parts: dict[str, list[float]] = {"aggregate": [], "add": []}
    counts: list[int] = []
    with Index.create(folder / "added", Codebook.from_centroids(centroids)) as index:

        def ours(photo: tuple[int, Any, Any]) -> None:
            number, vectors, assigned = photo
            if number == warm_up:
                index.commit()
            spent, made = timed(lambda: aggregate(vectors, assigned, centroids, binary=True))
            parts["aggregate"].append(spent)
            parts["add"].append(timed(lambda: index.add_aggregated(f"{number}", made))[0])
            counts.append(len(made.words))

        def theirs(photo: tuple[int, Any, Any]) -> None:
            number, vectors, assigned = photo
            codes, found = kernel.aggregate_image(vectors, assigned)
            inverted.add(codes, found, np.full(len(found), number))

        photos = []
        for number in range(options.count + warm_up):  # about 400 different words each
            chosen = rng.integers(0, WORDS, 435)
            assigned = chosen[rng.integers(0, len(chosen), options.descriptors)].astype(np.int32)
            noise = 0.3 * rng.standard_normal((options.descriptors, DIM), np.float32)
            photos.append((number, centroids[assigned] + noise, assigned[:, None]))
        times = in_turns({"ours": ours, "reference": theirs}, photos, warm_up=warm_up)
        commit = timed(index.commit)[0] / options.count
    with_commit = [a + b + commit for a, b in zip(*(parts[name][warm_up:] for name in parts), strict=True)]
    mine, reference = milliseconds(with_commit), milliseconds(times["reference"])
    result = {
        "question": "milliseconds to aggregate and add a photo, assignment excluded",
        "descriptors": options.descriptors,
        "photos": options.count,
        "words_a_photo": float(np.median(counts)),
        "ours_with_commit": mine,
        "ours_parts": {name: milliseconds(values[warm_up:]) for name, values in parts.items()},
        "ours_commit_ms_a_photo": round(commit * 1000, 4),
        "reference": reference,
        "ratio": round(reference["median_ms"] / mine["median_ms"], 1),
    }
    return result, [
        f"a photo of {options.descriptors} descriptors: {mine['median_ms']:.2f} ms with the commit; asmk "
        f"{reference['median_ms']:.2f} ms, {result['ratio']} times as long; no limit was measured"
    ]


def _search_each(index: Index, queries: Sequence[Any]) -> Any:
    return [index.search(vectors, TOP) for vectors in queries]


def _archive(options: argparse.Namespace, folder: Path) -> Index:
    build_archive(folder / "archive", [options.photos], 1000, WORDS, options.seed, Display(quiet=False))
    return Index.open(folder / "archive")


def _speeds() -> dict[int, float]:
    """Return the bytes a second of a sequential read with one thread and with two."""
    return {threads: bandwidth(5, threads) for threads in (1, 2)}


def _limits(postings: float, speeds: dict[int, float]) -> dict[int, dict[str, float]]:
    """Return what it takes to read so many postings with one thread and with two."""
    return {
        threads: {
            "gb_per_s": round(speed / 1e9, 2),
            "limit_ms": round(1000 * postings * BYTES_PER_POSTING / speed, 3),
        }
        for threads, speed in speeds.items()
    }


def _packed(query: Aggregated) -> Any:
    return np.ascontiguousarray(query.codes).view(np.uint32)


def _same(results: Any) -> None:
    if any(found != results["batch"] for found in results.values()):
        raise SystemExit("a batch finds other hits than its queries alone")


MEASUREMENTS = {"search": search, "batch": batch, "query": query, "add": add}


def main() -> None:
    """Read the options, measure, write the JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=MEASUREMENTS)
    parser.add_argument("--photos", type=int, default=65536, help="in the shard, at most 65,536")
    parser.add_argument("--queries", type=int, default=64, help="timed queries")
    parser.add_argument("--query-words", type=int, default=1933, help="of search and batch")
    parser.add_argument("--descriptors", type=int, default=1000, help="of query and add")
    parser.add_argument("--count", type=int, default=1000, help="photos that add adds")
    parser.add_argument("--runs", type=int, default=9, help="timed runs of batch and query")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="for the archive; the default is the temporary folder")
    parser.add_argument("-o", "--output", type=Path, help="the default is results/MEASUREMENT.json")
    options = parser.parse_args()
    if not 1 <= options.photos <= 65536 or options.queries < 1 or options.runs < 1:
        parser.error("--photos must be in 1..65536, and --queries and --runs at least 1")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result, lines = MEASUREMENTS[options.measurement](options, Path(folder))
    result["peak_memory_mb"] = (peak_memory() or 0) >> 20
    publish(result, options.output or Path(__file__).parent / "results" / f"{options.measurement}.json", lines)


if __name__ == "__main__":
    main()
