"""What does it cost to search all photos of an archive in it, each by its stored codes, beside the package `asmk`?

    python benchmarks/all_pairs.py                      # 100,000 photos: eight minutes and 6 GB
    python benchmarks/all_pairs.py --photos 8192        # a quick look

`ctxdeploy.bench.inputs` says how photos are drawn. Ours runs over all photos with two threads, and over blocks of them
with one; `asmk`, which uses one thread, is asked with a sample of the same stored codes, in turns with ours, and its
time is that of the sample times the photos: with all of them it would run for hours. Memory is what the process has
besides mapped files, looked at after every few hundred photos, in an archive of a quarter of the photos too.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.bench import (
    WORDS,
    build_archive,
    in_turns,
    milliseconds,
    own_memory,
    publish,
    reference_of,
    score_difference,
)
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Index

TOP, BLOCK = 20, 256


def all_of_them(path: Path, at: str, threads: int) -> tuple[float, int, int]:
    """Return the seconds of a search for all photos in all of them, the hits, and the bytes that it took at most."""
    with Index.open(path, at=at, threads=threads) as index:
        next(iter(index.search_all(TOP)))  # compiled
        before, peak, hits = own_memory() or 0, 0, 0
        start = time.perf_counter()
        for number, (_, found) in enumerate(index.search_all(TOP)):
            hits += len(found)
            if number % 256 == 0:
                peak = max(peak, own_memory() or 0)
        return time.perf_counter() - start, hits, max(0, peak - before)


def beside_the_reference(path: Path, at: str, blocks: int, sample: int) -> dict[str, Any]:
    """Time blocks of photos with one thread and single ones in `asmk`, in turns; compare what they find."""
    with Index.open(path, at=at, threads=1) as index:
        inverted, similarity = reference_of(index)
        names = list(index.names())
        places = np.linspace(0, len(names) - BLOCK, blocks).astype(int) // BLOCK * BLOCK
        each = max(1, sample // blocks)
        worst = max(
            score_difference(index, (inverted, similarity), query, TOP) for query in index.aggregated(names[:3])
        )

        def ours(place: int) -> list[list[str]]:
            return [[hit.name for hit in hits] for _, hits in index.search_all(TOP, names=names[place : place + BLOCK])]

        def reference(place: int) -> list[list[str]]:
            found = []
            for number, query in enumerate(index.aggregated(names[place : place + each]), place):
                packed = np.ascontiguousarray(query.codes).view(np.uint32)
                start = time.perf_counter()
                ranks, _ = inverted.search(packed, query.words, similarity_func=similarity, topk=TOP + 1)
                spent.append(time.perf_counter() - start)
                found.append([names[rank] for rank in ranks if rank != number][:TOP])
            return found

        def check(found: Mapping[str, list[list[list[str]]]]) -> None:
            for mine, theirs in zip(found["ours"][0], found["reference"][0], strict=False):
                if len(set(mine) & set(theirs)) < TOP - 1:  # theirs orders equal scores as it likes
                    raise SystemExit("the reference finds other photos")

        spent: list[float] = []
        works = {"ours": ours, "reference": reference}
        times = in_turns(works, [int(place) for place in places], check=check, warm_up=1)
    skipped = each
    return {
        "ours_block": milliseconds(times["ours"]),
        "reference_photo": milliseconds(spent[skipped:]),
        "reference_photos_asked": len(spent) - skipped,
        "largest_relative_score_difference": worst,
    }


def measure(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], Sequence[str]]:
    """Measure all of it."""
    path, sizes = folder / "archive", [max(options.photos // 4, BLOCK), options.photos]
    build_archive(path, sizes, 1000, WORDS, options.seed, Display(quiet=False))
    runs = {size: all_of_them(path, f"photos-{size}", options.threads) for size in sizes}
    sampled = beside_the_reference(path, f"photos-{options.photos}", options.blocks, options.sample)
    seconds, hits, _ = runs[options.photos]
    theirs = sampled["reference_photo"]["median_ms"] * options.photos / 1000
    one = sampled["ours_block"]["median_ms"] * options.photos / BLOCK / 1000
    result = {
        "question": f"the {TOP} best of all photos for each photo, by its stored codes",
        "photos": options.photos,
        "words": WORDS,
        "seed": options.seed,
        "threads": options.threads,
        "seconds": round(seconds, 2),
        "hits": hits,
        "milliseconds_a_photo": round(1000 * seconds / options.photos, 3),
        "memory_mb": {str(size): run[2] >> 20 for size, run in runs.items()},
        "quarter_seconds": round(runs[sizes[0]][0], 2),
        **sampled,
        "reference_seconds_extrapolated": round(theirs),
        "one_thread_seconds_extrapolated": round(one, 1),
        "ratio": round(theirs / seconds, 1),
        "ratio_one_thread": round(theirs / one, 1),
    }
    memory = result["memory_mb"]
    return result, [
        f"{options.photos} photos in all of them, top {TOP}, {options.threads} threads: {seconds:.1f} s, "
        f"{memory[str(options.photos)]} MB besides the archive ({memory[str(sizes[0])]} MB with {sizes[0]} photos)",
        f"asmk, from {sampled['reference_photos_asked']} photos: {theirs:.0f} s, {result['ratio']} times as long; "
        f"beside one thread of ours ({one:.1f} s, from {options.blocks} blocks) {result['ratio_one_thread']} times",
    ]


def main() -> None:
    """Read the options, measure, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=9, help=f"timed blocks of {BLOCK} photos on one thread")
    parser.add_argument("--sample", type=int, default=200, help="photos that asmk is asked with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="for the archive; the default is the temporary folder")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "results" / "all_pairs.json", help="of the JSON"
    )
    options = parser.parse_args()
    if options.photos < 2 * BLOCK or options.blocks < 2 or options.sample < 1:
        parser.error(f"--photos must be at least {2 * BLOCK}, --blocks 2 and --sample 1")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result, lines = measure(options, Path(folder))
    publish(result, options.output, lines)


if __name__ == "__main__":
    main()
