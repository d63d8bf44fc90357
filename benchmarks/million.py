"""What does an archive of a million photos cost: to build, to hold, to open, to ask?

Synthetic postings go through the public interface (`Index.create`, `add_aggregated`, `commit`), a chunk at a time; see
`common.py` for their statistics. On the way there the archive keeps a snapshot at each size, so that the same archive
shows how a query grows with the number of photos.

    python benchmarks/million.py --folder /scratch          # a million photos: 8 GB of disk, about 15 minutes
    python benchmarks/million.py --images 20000             # a quick look

Timed is
`Searcher.search`, from the aggregated query to ten named hits, each size in a fresh process with 1 and with 2 threads;
beside it, in the same run, the package `asmk` (`IVF.search`) on the same postings, up to the size that its memory of
24 bytes a posting and a Python object a word allows (`--reference-images`). Files are in the page cache: the machine
must have memory for the archive, or the disk is measured.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    BYTES_PER_POSTING,
    DIM,
    TOP,
    WORDS,
    bandwidth,
    check_equal,
    provenance,
    publish,
    random_query,
    summary,
    timed,
)
from numpy.typing import NDArray

from ctxdeploy.bench import draw_photos, reference_of
from ctxdeploy.index import Codebook, Index
from ctxdeploy.index.maintenance.snapshots import list_snapshots
from ctxdeploy.index.search import Searcher
from ctxdeploy.index.storage.shard import Shard
from ctxdeploy.index.threads import SearchThreads

SIZES = (1000, 10_000, 65_536, 100_000, 300_000, 1_000_000)


def build(path: Path, sizes: list[int], words_per_photo: int, seed: int) -> dict[str, Any]:
    """Build the archive with a snapshot at each size; time the generator apart from the archive."""
    rng = np.random.default_rng(seed)
    centroids = np.random.default_rng(seed + 1).normal(size=(WORDS, DIM)).astype(np.float32)
    generating = adding = 0.0
    done = 0
    with Index.create(path, Codebook.from_centroids(centroids)) as index:
        for size in sizes:
            stream = draw_photos(size - done, words_per_photo, rng)
            while True:
                seconds, chunk = timed(partial(next, stream, None))
                generating += seconds
                if chunk is None:
                    break
                start = time.perf_counter()
                for photo in chunk:
                    index.add_aggregated(f"archive/{done:07d}.jpg", photo)
                    done += 1
                adding += time.perf_counter() - start
                print(f"{done:,} photos", file=sys.stderr)
            start = time.perf_counter()
            index.commit()
            adding += time.perf_counter() - start
            index.snapshot(name(size))
    return {"generate_seconds": round(generating, 1), "build_seconds": round(adding, 1)}


def name(size: int) -> str:
    """Return the name of the snapshot with so many photos."""
    return f"photos-{size}"


def sizes_on_disk(index: Index) -> dict[str, Any]:
    """Return bytes a posting of everything but names, and of names."""
    facts = index.info()
    shards = index._snapshot.shards
    names = sum(shard.names.nbytes + shard.name_offsets.nbytes for shard in shards)
    listed = sum(entry.names.bytes for entry in index._snapshot.manifest.shards if entry.names is not None)
    other = facts["bytes"] - names - listed
    return {
        "photos": facts["images"],
        "shards": facts["shards"],
        "postings": facts["postings"],
        "bytes_a_posting_without_names": round(other / facts["postings"], 4),
        "bytes_a_posting_with_names": round(facts["bytes"] / facts["postings"], 4),
        "gigabytes": round(facts["bytes"] / 1e9, 3),
    }


def memory() -> dict[str, int]:
    """Return resident megabytes of this process: all, and those that are no mapped file."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(lines[key].split()[0]) // 1024 for key in ("VmRSS", "RssAnon", "RssFile")}


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Open one size, and query it with some threads; in a process of its own."""
    libraries, _ = timed(load_libraries)
    before = memory()
    loaded, _ = timed(partial(ready, options, 0))  # numba and its loops, once in a process
    opened, index = timed(partial(ready, options, options.size))
    resident = memory()
    rng = np.random.default_rng(options.seed + 7)
    queries = [random_query(options.query_words, rng) for _ in range(options.queries + 3)]
    searcher, threads = Searcher(index._snapshot), SearchThreads(options.threads)
    scoring = index.config.scoring()
    seconds, scanned = [], []
    first, _ = timed(partial(searcher.search, queries[:1], TOP, scoring=scoring, threads=threads))
    for query in queries:  # a service that has run for a while has all of its postings mapped
        searcher.search([query], TOP, scoring=scoring, threads=threads)
    for number, query in enumerate(queries):
        spent, _ = timed(partial(searcher.search, [query], TOP, scoring=scoring, threads=threads))
        if number >= 3:
            seconds.append(spent)
            scanned.append(sum(postings_of(shard, query.words) for shard in index._snapshot.shards))
    postings = float(np.median(scanned))
    median = float(np.median(seconds))
    return {
        **sizes_on_disk(index),
        "threads": options.threads,
        "import_ms": round(libraries * 1000, 1),
        "load_loops_ms": round(loaded * 1000, 1),
        "open_until_ready_ms": round(opened * 1000, 2),
        "first_query_ms": round(first * 1000, 2),
        "memory_mb_libraries": before,
        "memory_mb_before_first_query": resident,
        "memory_mb_after_queries": memory(),
        "query": spread(seconds),
        "postings_a_query": int(postings),
        "giga_postings_per_s": round(postings / median / 1e9, 3),
        "gigabytes_per_s": round(postings * BYTES_PER_POSTING / median / 1e9, 2),
    }


def ready(options: argparse.Namespace, size: int) -> Index:
    """Open the archive as it was with so many photos (0: the smallest), ready for a query."""
    at = name(size or min(int(info.name.split("-")[1]) for info in list_snapshots(options.archive)))
    index = Index.open(options.archive, at=at, threads=options.threads)
    index.prepare()
    return index


def postings_of(shard: Shard, words: NDArray[np.int32]) -> int:
    """Return the postings that a shard has of words."""
    return int((shard.word_offsets[words + 1] - shard.word_offsets[words]).sum(dtype=np.int64))


def spread(seconds: list[float]) -> dict[str, float]:
    """Return median, percentiles and number of runs, in milliseconds."""
    return {**summary(seconds), "p99_ms": round(float(np.percentile(np.array(seconds) * 1000, 99)), 3)}


def load_libraries() -> None:
    """Import what a search needs, which a service does once."""
    import ctxdeploy.index.kernels.build
    import ctxdeploy.index.kernels.scores  # noqa: F401


def ask(options: argparse.Namespace, path: Path, size: int, threads: int) -> dict[str, Any]:
    """Run ``child`` in a fresh process."""
    command = [sys.executable, __file__, "--archive", str(path), "--size", str(size), "--threads", str(threads)]
    command += [
        "--queries",
        str(options.queries),
        "--query-words",
        str(options.query_words),
        "--seed",
        str(options.seed),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise SystemExit(run.stderr)
    result: dict[str, Any] = json.loads(run.stdout)
    print(f"{size:,} photos, {threads} threads: {result['query']}", file=sys.stderr)
    return result


def reference(options: argparse.Namespace, path: Path, size: int) -> dict[str, Any]:
    """Time the reference on the postings of one size, after a check that both find the same."""
    with Index.open(path, at=name(size)) as index:
        snapshot = index._snapshot
        theirs = reference_of(index)
        rng = np.random.default_rng(options.seed + 7)
        queries = [random_query(options.query_words, rng) for _ in range(options.reference_queries + 2)]
        worst = check_equal(snapshot, theirs, queries[:2])
        inverted, similarity = theirs
        seconds = []
        for query in queries:
            packed = np.ascontiguousarray(query.codes).view(np.uint32)
            spent, _ = timed(partial(inverted.search, packed, query.words, similarity_func=similarity, topk=TOP))
            seconds.append(spent)
    return {"photos": size, "query": spread(seconds[2:]), "largest_relative_score_difference": worst}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build, then ask at every size."""
    sizes = [size for size in SIZES if size < options.images] + [options.images]
    folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="million-"))
    path = folder / "archive"
    try:
        built = build(path, sizes, 405, options.seed)
        speed = {threads: bandwidth(5, threads) for threads in (1, 2)}
        runs = [ask(options, path, size, threads) for size in sizes for threads in (1, 2)]
        peers = [reference(options, path, size) for size in sizes if size <= options.reference_images]
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    for run in runs:
        run["fraction_of_bandwidth"] = round(run["gigabytes_per_s"] * 1e9 / speed[run["threads"]], 3)
        peer = [entry for entry in peers if entry["photos"] == run["photos"]]
        run["times_faster_than_asmk"] = (
            round(peer[0]["query"]["median_ms"] / run["query"]["median_ms"], 1) if peer else None
        )
    return {
        "question": "what a million photos cost to build, hold, open and ask",
        **built,
        "photos_per_s": round(options.images / built["build_seconds"], 1),
        "bandwidth_gb_per_s": {threads: round(value / 1e9, 2) for threads, value in speed.items()},
        "query_words": options.query_words,
        "queries": options.queries,
        "runs": runs,
        "reference": peers,
        **provenance(),
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw query time and memory against the number of photos."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for threads, colour in ((1, "#2a78b0"), (2, "#b0402a")):
        runs = [run for run in result["runs"] if run["threads"] == threads]
        counts = [run["photos"] for run in runs]
        left.plot(
            counts, [run["query"]["median_ms"] for run in runs], "o-", color=colour, label=f"{threads} thread, p50"
        )
        left.plot(counts, [run["query"]["p99_ms"] for run in runs], ":", color=colour, label="p99")
    if result["reference"]:
        counts = [run["photos"] for run in result["reference"]]
        left.plot(
            counts, [run["query"]["median_ms"] for run in result["reference"]], "s-", color="#888888", label="asmk, p50"
        )
    runs = [run for run in result["runs"] if run["threads"] == 1]
    counts = [run["photos"] for run in runs]
    right.plot(counts, [run["gigabytes"] * 1000 for run in runs], "o-", label="archive on disk")
    right.plot(
        counts,
        [run["memory_mb_before_first_query"]["VmRSS"] for run in runs],
        "s-",
        label="resident, before the first query",
    )
    right.plot(
        counts,
        [run["memory_mb_after_queries"]["RssAnon"] for run in runs],
        "^-",
        label="not file-backed, after all queries",
    )
    for axes, label in ((left, "ms a query of 1933 words"), (right, "MB")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("photos")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path)


def main() -> None:
    """Read the options, measure, write the JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=200, help="timed queries at each size")
    parser.add_argument("--query-words", type=int, default=1933)
    parser.add_argument("--reference-images", type=int, default=100_000, help="the reference is timed up to this size")
    parser.add_argument("--reference-queries", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="for the archive; the default is the temporary folder")
    parser.add_argument("--keep", action="store_true", help="leave the archive there")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "million.json")
    parser.add_argument("--archive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.archive is not None:
        print(json.dumps(child(options)))
        return
    publish(measure(options), options.output, plot)


if __name__ == "__main__":
    main()
