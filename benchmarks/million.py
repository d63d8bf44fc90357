"""What does an archive of a million photos cost: to build, to hold, to open, to ask?

Synthetic postings go through the public interface (`Index.create`, `add_aggregated`, `commit`). On the way there the
archive keeps a snapshot at each size, so that the same archive shows how a query grows with the number of photos.

    python benchmarks/million.py --folder /scratch          # a million photos: 8 GB of disk, about 15 minutes
    python benchmarks/million.py --photos 20000             # a quick look

Timed is `Searcher.search`, from the aggregated query to ten named hits, each size in a fresh process with 1 and with 2
threads; beside it, in the same run, the package `asmk` (`IVF.search`) on the same postings, up to the size that its
memory of 24 bytes a posting and a Python object a word allows (`--reference-photos`). The limit is to read a query's
postings, 18 bytes each, as fast as a sequential read. Files are in the page cache: the machine must have memory for the
archive, or the disk is measured.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.bench import (
    BYTES_PER_POSTING,
    WORDS,
    bandwidth,
    build_archive,
    draw_aggregated,
    draw_photos,
    milliseconds,
    publish,
    reference_of,
    score_difference,
    timed,
)
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Index, Searcher, SearchThreads

SIZES = (1000, 10_000, 65_536, 100_000, 300_000, 1_000_000)
WORDS_A_PHOTO, TOP = 405, 10


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build, then ask at every size."""
    sizes = [size for size in SIZES if size < options.photos] + [options.photos]
    folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="million-"))
    archive = folder / "archive"
    try:
        stream = partial(draw_photos, options.photos, WORDS_A_PHOTO, np.random.default_rng(options.seed))
        drawing, _ = timed(lambda: sum(len(chunk) for chunk in stream()))
        display = Display(quiet=False)
        whole, _ = timed(lambda: build_archive(archive, sizes, 1000, WORDS, options.seed, display))
        speed = {threads: bandwidth(5, threads) for threads in (1, 2)}
        runs = [_in_process(options, archive, size, threads) for size in sizes for threads in (1, 2)]
        peers = [_reference(options, archive, size) for size in sizes if size <= options.reference_photos]
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    for run in runs:
        run["fraction_of_bandwidth"] = round(run["gigabytes_per_s"] * 1e9 / speed[run["threads"]], 3)
        peer = [entry["query"]["median_ms"] for entry in peers if entry["photos"] == run["photos"]]
        run["times_faster_than_asmk"] = round(peer[0] / run["query"]["median_ms"], 1) if peer else None
    return {
        "question": "what a million photos cost to build, hold, open and ask",
        "generate_seconds": round(drawing, 1),
        "build_seconds": round(whole - drawing, 1),
        "photos_per_s": round(options.photos / (whole - drawing), 1),
        "bandwidth_gb_per_s": {threads: round(value / 1e9, 2) for threads, value in speed.items()},
        "query_words": options.query_words,
        "queries": options.queries,
        "runs": runs,
        "reference": peers,
    }


def _in_process(options: argparse.Namespace, archive: Path, size: int, threads: int) -> dict[str, Any]:
    """Run ``_ask`` in a fresh process."""
    given = {"archive": archive, "size": size, "threads": threads, "seed": options.seed}
    given |= {"queries": options.queries, "query-words": options.query_words}
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    run = subprocess.run([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(run.stdout)
    print(f"{size:,} photos, {threads} threads: {result['query']}", file=sys.stderr)
    return result


def _ask(options: argparse.Namespace) -> dict[str, Any]:
    """Open one size, and query it with some threads."""
    libraries, _ = timed(_load_libraries)
    before = _memory()
    loaded, _ = timed(partial(_ready, options, min(SIZES[0], options.size)))
    opened, index = timed(partial(_ready, options, options.size))
    resident = _memory()
    queries = draw_aggregated(options.queries + 3, options.query_words, np.random.default_rng(options.seed + 7))
    searcher, threads, scoring = Searcher(index.state), SearchThreads(options.threads), index.config.scoring()
    ask = partial(searcher.search, top=TOP, scoring=scoring, threads=threads)
    first, _ = timed(lambda: ask(queries[:1]))
    for query in queries:  # a service that has run for a while has all of its postings mapped
        ask([query])
    seconds = [timed(partial(ask, [query]))[0] for query in queries][3:]
    offsets = [shard.word_offsets for shard in index.state.shards]
    scanned = [sum(int((of[q.words + 1] - of[q.words]).sum(dtype=np.int64)) for of in offsets) for q in queries[3:]]
    postings, median = float(np.median(scanned)), float(np.median(seconds))
    return {
        **_sizes_on_disk(index),
        "threads": options.threads,
        "import_ms": round(libraries * 1000, 1),
        "load_loops_ms": round(loaded * 1000, 1),
        "open_until_ready_ms": round(opened * 1000, 2),
        "first_query_ms": round(first * 1000, 2),
        "memory_mb_libraries": before,
        "memory_mb_before_first_query": resident,
        "memory_mb_after_queries": _memory(),
        "query": milliseconds(seconds, p99=True),
        "postings_a_query": int(postings),
        "giga_postings_per_s": round(postings / median / 1e9, 3),
        "gigabytes_per_s": round(postings * BYTES_PER_POSTING / median / 1e9, 2),
    }


def _load_libraries() -> None:
    """Import what a search needs, which a service does once."""
    import ctxdeploy.index.kernels.build
    import ctxdeploy.index.kernels.scores  # noqa: F401


def _ready(options: argparse.Namespace, size: int) -> Index:
    """Open the archive as it was with so many photos, ready for a query; the first time loads numba and its loops."""
    index = Index.open(options.archive, at=f"photos-{size}", threads=options.threads)
    index.prepare()
    return index


def _sizes_on_disk(index: Index) -> dict[str, Any]:
    """Return bytes a posting of everything but names, and of names."""
    facts, snapshot = index.info(), index.state
    names = sum(shard.names.nbytes + shard.name_offsets.nbytes for shard in snapshot.shards)
    listed = sum(entry.names.bytes for entry in snapshot.manifest.shards if entry.names is not None)
    return {
        "photos": facts["images"],
        "shards": facts["shards"],
        "postings": facts["postings"],
        "bytes_a_posting_without_names": round((facts["bytes"] - names - listed) / facts["postings"], 4),
        "bytes_a_posting_with_names": round(facts["bytes"] / facts["postings"], 4),
        "gigabytes": round(facts["bytes"] / 1e9, 3),
    }


def _memory() -> dict[str, int]:
    """Return resident megabytes of this process: all, and those that are not and that are mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(lines[key].split()[0]) // 1024 for key in ("VmRSS", "RssAnon", "RssFile")}


def _reference(options: argparse.Namespace, archive: Path, size: int) -> dict[str, Any]:
    """Time `asmk` on the postings of one size, after a check that both find the same."""
    with Index.open(archive, at=f"photos-{size}") as index:
        inverted, similarity = reference_of(index)
        queries = draw_aggregated(
            options.reference_queries + 2, options.query_words, np.random.default_rng(options.seed + 7)
        )
        worst = max(score_difference(index, (inverted, similarity), query, size) for query in queries[:2])
        ask = partial(inverted.search, similarity_func=similarity, topk=TOP)
        seconds = [timed(partial(ask, np.ascontiguousarray(q.codes).view(np.uint32), q.words))[0] for q in queries][2:]
    return {"photos": size, "query": milliseconds(seconds, p99=True), "largest_relative_score_difference": worst}


def plot(runs: list[dict[str, Any]], peers: list[dict[str, Any]], axes: Any) -> None:
    """Draw query time and memory against the number of photos."""
    by_threads = {threads: [run for run in runs if run["threads"] == threads] for threads in (1, 2)}
    lines: list[tuple[str, str, list[tuple[int, float]]]] = []
    for threads, colour in ((1, "#2a78b0"), (2, "#b0402a")):
        for name, style in (("median", "o-"), ("p99", ":")):
            points = [(run["photos"], run["query"][f"{name}_ms"]) for run in by_threads[threads]]
            lines.append((f"ms a query, {threads} thread{'s' * (threads > 1)}, {name}", style + colour, points))
    lines.append(("ms a query, asmk, median", "s-#888888", [(p["photos"], p["query"]["median_ms"]) for p in peers]))
    one = by_threads[1]
    lines.append(("MB on disk", "o--#3c8c4a", [(run["photos"], 1000 * run["gigabytes"]) for run in one]))
    anonymous = [(run["photos"], run["memory_mb_after_queries"]["RssAnon"]) for run in one]
    lines.append(("MB not file-backed", "^--#7a5aa8", anonymous))
    for label, style, points in lines:
        axes.plot(*zip(*points, strict=True), style[:-7], color=style[-7:], label=label)
    axes.set(xscale="log", yscale="log", xlabel="photos")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, ncols=2)


def main() -> None:
    """Read the options, measure, write the JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=200, help="timed queries at each size")
    parser.add_argument("--query-words", type=int, default=1933)
    parser.add_argument("--reference-photos", type=int, default=100_000, help="asmk is timed up to this size")
    parser.add_argument("--reference-queries", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="for the archive; the default is the temporary folder")
    parser.add_argument("--keep", action="store_true", help="leave the archive there")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "million.json")
    for name, kind in (("archive", Path), ("size", int), ("threads", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.archive is not None:
        print(json.dumps(_ask(options)))
        return
    result = measure(options)
    lines = [
        f"{run['photos']:,} photos, {run['threads']} thread(s): {run['query']['median_ms']:.2f} ms a query, "
        f"{run['fraction_of_bandwidth']:.2f} of the limit (reading its postings)"
        for run in result["runs"]
    ]
    publish(result, options.output, lines, partial(plot, result["runs"], result["reference"]))


if __name__ == "__main__":
    main()
