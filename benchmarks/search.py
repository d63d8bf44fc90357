"""How fast is a search in one 65,536-photo shard with one thread, beside the reference package `asmk`?

Both search the same synthetic postings in the same process: about 400 words a photo out of 65,536, popularity skewed
by a factor of 2.4 (words · Σ count² / (Σ count)²), 128 random bits a posting, queries of 1933 words (what a query of
1000 descriptors has after assignment to 5 words), each query other words, so that no cache holds its postings already.

    python benchmarks/search.py                    # about two minutes and 4 GB
    python benchmarks/search.py --images 4096      # a quick look

Timed for each query, alternating: our `Searcher` from the aggregated query to named hits (top 10), and the reference's
`IVF.search`; besides, the loops over postings alone. "Bandwidth" is a plain sequential read of 1 GiB with one thread.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ctxdeploy.index import Codebook, IndexConfig
from ctxdeploy.index.aggregate import Aggregated
from ctxdeploy.index.manifest import SHARDS, FileEntry, Manifest
from ctxdeploy.index.search import Searcher
from ctxdeploy.index.shard import ShardBuilder, open_shard
from ctxdeploy.index.snapshot import Snapshot

WORDS = 65536
DIM = 128
BYTES_PER_POSTING = 18
TOP = 10
SCORING = IndexConfig().scoring()


@dataclass(frozen=True, kw_only=True, eq=False)
class Postings:
    """P postings sorted by word, then photo: words int32, photos int64, codes P×2 uint64."""

    words: NDArray[np.int32]
    photos: NDArray[np.int64]
    codes: NDArray[np.uint64]


def make_postings(photos: int, words_per_photo: int, skew: float, rng: np.random.Generator) -> Postings:
    """Draw postings; log-normal popularity has a skew of exp(sigma²)."""
    popularity = rng.lognormal(sigma=np.sqrt(np.log(skew)), size=WORDS)
    expected = popularity / popularity.mean() * (words_per_photo * photos / WORDS)
    counts = np.minimum(rng.poisson(expected), photos // 2)
    words = np.repeat(np.arange(WORDS, dtype=np.int64), counts)
    keys = np.unique(words << 16 | rng.integers(0, photos, len(words)))
    codes = rng.integers(0, 1 << 64, (len(keys), 2), dtype=np.uint64)
    return Postings(words=(keys >> 16).astype(np.int32), photos=keys & 0xFFFF, codes=codes)


def make_query(postings: Postings, words: int, rng: np.random.Generator) -> Aggregated:
    """Draw words as often as photos have them, with codes of which about a quarter of the bits fit a posting's."""
    offsets = np.searchsorted(postings.words, np.arange(WORDS + 1))
    chosen = np.unique(postings.words[rng.integers(0, len(postings.words), 2 * words)])
    chosen = np.sort(rng.permutation(chosen)[:words])
    noise = rng.integers(0, 1 << 64, (2, len(chosen), 2), dtype=np.uint64)
    return Aggregated(words=chosen, codes=postings.codes[offsets[chosen]] ^ (noise[0] & noise[1]))


def build_ours(postings: Postings, photos: int, folder: Path) -> Snapshot:
    """Write the postings to a shard file and open it."""
    order = np.argsort(postings.photos, kind="stable")
    words, codes = postings.words[order], postings.codes[order]
    ends = np.searchsorted(postings.photos[order], np.arange(photos + 1))
    codebook = Codebook.from_centroids(np.zeros((WORDS, DIM), np.float32))
    builder = ShardBuilder(words=WORDS, dim=DIM, binary=True, codebook_id=codebook.id)
    for photo in range(photos):
        part = slice(ends[photo], ends[photo + 1])
        builder.add(f"{photo:06d}.jpg", Aggregated(words=words[part], codes=codes[part]), -1, -1)
    (folder / SHARDS).mkdir()
    entry = builder.write(folder)
    nowhere = FileEntry(file="codebook.safetensors", bytes=0, sha256="0" * 64)
    manifest = Manifest(
        number=1,
        config=IndexConfig(),
        source=None,
        codebook=nowhere,
        codebook_id=codebook.id,
        words=WORDS,
        dim=DIM,
        shards=(entry,),
    )
    return Snapshot(manifest, codebook, (open_shard(folder, entry, manifest),))


def build_reference(postings: Postings, photos: int) -> tuple[Any, Callable[..., Any]]:
    """Return the reference's inverted file and its similarity function; its own `add` would take an hour."""
    from asmk.inverted_file import IVF
    from asmk.kernel import ASMKKernel

    offsets = np.searchsorted(postings.words, np.arange(WORDS + 1))
    packed = np.ascontiguousarray(postings.codes).view(np.uint32)
    spans = [slice(offsets[word], offsets[word + 1]) for word in range(WORDS)]
    filled = [span.stop > span.start for span in spans]
    inverted = IVF(
        norm_factor=np.bincount(postings.photos, minlength=photos).astype(np.float64),
        n_images=photos,
        ivf_vecs=[packed[span] if full else None for span, full in zip(spans, filled, strict=True)],
        ivf_image_ids=[postings.photos[span] if full else None for span, full in zip(spans, filled, strict=True)],
        counts=np.diff(offsets).astype(np.int32),
        idf=np.ones(WORDS, np.float32),
        imid_offset=0,
        use_idf=False,
    )
    kernel = ASMKKernel(None, binary=True)

    def similarity(query: Any, vectors: Any, numbers: Any) -> Any:
        return kernel.similarity(query, vectors, numbers, alpha=3.0, similarity_threshold=0.0)

    return inverted, similarity


@njit
def _read(data: NDArray[np.uint64]) -> Any:
    total = np.uint64(0)
    for i in range(data.size):
        total ^= data[i]
    return total


def bandwidth(repeats: int) -> float:
    """Return the bytes a second of the fastest sequential read of 1 GiB."""
    data = np.ones(1 << 27, np.uint64)
    _read(data[:8])
    return data.nbytes / min(_timed(lambda: _read(data))[0] for _ in range(repeats))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _summary(seconds: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(np.array(seconds) * 1000, (5, 50, 95))
    return {"median_ms": round(median, 3), "p05_ms": round(low, 3), "p95_ms": round(high, 3), "runs": len(seconds)}


def compare(snapshot: Snapshot, reference: tuple[Any, Callable[..., Any]], queries: list[Aggregated]) -> dict[str, Any]:
    """Time every query with both, alternating; the first two queries warm up."""
    inverted, similarity = reference
    searcher, shard = Searcher(snapshot), snapshot.shards[0]
    times: dict[str, list[float]] = {name: [] for name in ("ours", "ours_postings", "reference", "reference_postings")}
    works: dict[str, Callable[[Any, Any, Any], Any]] = {
        "ours": lambda query, weights, packed: searcher.search([query], TOP, scoring=SCORING, executor=None),
        "reference": lambda query, weights, packed: inverted.search(
            packed, query.words, similarity_func=similarity, topk=TOP
        ),
        "ours_postings": lambda query, weights, packed: searcher.scores(shard, query, weights, SCORING),
        "reference_postings": lambda query, weights, packed: [
            similarity(vector, inverted.ivf_vecs[word], inverted.ivf_image_ids[word])
            for vector, word in zip(packed, query.words, strict=True)
        ],
    }
    for number, query in enumerate(queries):
        weights, packed = np.ones(len(query.words), np.float32), np.ascontiguousarray(query.codes).view(np.uint32)
        # Each goes first every other time: the second finds nothing of its own in the caches either way.
        for name, work in list(works.items())[:: 1 if number % 2 else -1]:
            seconds, _ = _timed(partial(work, query, weights, packed))
            if number >= 2:
                times[name].append(seconds)
    return {name: _summary(seconds) for name, seconds in times.items()}


def check_equal(snapshot: Snapshot, reference: tuple[Any, Callable[..., Any]], queries: list[Aggregated]) -> float:
    """Return the largest relative difference of any photo's score; raise if the photos that are found differ."""
    inverted, similarity = reference
    worst = 0.0
    for query in queries:
        photos = len(snapshot)
        hits = Searcher(snapshot).search([query], photos, scoring=SCORING, executor=None)[0]
        ours = np.zeros(photos)
        ours[[int(hit.name[:6]) for hit in hits]] = [hit.score for hit in hits]
        packed = np.ascontiguousarray(query.codes).view(np.uint32)
        ranks, scores = inverted.search(packed, query.words, similarity_func=similarity, topk=photos)
        theirs = np.zeros(photos)
        theirs[ranks] = scores
        if not np.array_equal(ours > 0, theirs > 0):
            raise SystemExit("our search and the reference find different photos")
        worst = max(worst, float((np.abs(ours - theirs) / np.maximum(theirs, 1e-30)).max()))
    return worst


def provenance() -> dict[str, Any]:
    """Return the versions and the processor, so that results are never mixed up."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = ("ctxdeploy", "numpy", "numba", "llvmlite", "asmk")
    return {
        "processor": names[0] if names else platform.processor(),
        "processors": len(names),
        "load_average": os.getloadavg()[0],
        "vector_popcount": any("avx512_vpopcntdq" in line for line in lines),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the medians; nothing happens without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    names = ["reference", "reference_postings", "ours", "ours_postings"]
    labels = ["asmk: IVF.search", "asmk: similarity of postings", "ctxdeploy: search", "ctxdeploy: loop over postings"]
    times = [result["times"][name] for name in names]
    medians = np.array([entry["median_ms"] for entry in times])
    spread = np.array([[t["median_ms"] - t["p05_ms"], t["p95_ms"] - t["median_ms"]] for t in times]).T
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.barh(labels[::-1], medians[::-1], xerr=spread[:, ::-1], color=["#2a78b0"] * 2 + ["#b0b0b0"] * 2)
    axes.axvline(result["bandwidth_limit_ms"], color="black", linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("ms a query, one thread, one 65,536-photo shard (dotted: reading the postings at full bandwidth)")
    axes.xaxis.label.set_size(7)
    figure.savefig(path)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build both, check that they agree, time them."""
    rng = np.random.default_rng(options.seed)
    postings = make_postings(options.images, 400, 2.4, rng)
    counts = np.bincount(postings.words, minlength=WORDS).astype(np.float64)
    queries = [make_query(postings, options.query_words, rng) for _ in range(options.queries + 2)]
    scanned = [int(counts[query.words].sum()) for query in queries]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        snapshot = build_ours(postings, options.images, Path(folder))
        reference = build_reference(postings, options.images)
        worst = check_equal(snapshot, reference, queries[:3])
        speed = bandwidth(5)
        times = compare(snapshot, reference, queries)
    limit = float(np.median(scanned)) * BYTES_PER_POSTING / speed * 1000
    ours, theirs = times["ours"]["median_ms"], times["reference"]["median_ms"]
    return {
        "question": "one thread, one shard: our search beside the reference package's",
        "photos": options.images,
        "words": WORDS,
        "bits": DIM,
        "postings": len(postings.words),
        "skew": round(float(WORDS * (counts**2).sum() / counts.sum() ** 2), 3),
        "query_words": int(np.median([len(query.words) for query in queries])),
        "postings_per_query": int(np.median(scanned)),
        "threads": 1,
        "seed": options.seed,
        "times": times,
        "ratio": round(theirs / ours, 2),
        "ratio_postings": round(times["reference_postings"]["median_ms"] / times["ours_postings"]["median_ms"], 2),
        "largest_relative_score_difference": worst,
        "bandwidth_gb_per_s": round(speed / 1e9, 2),
        "bandwidth_limit_ms": round(limit, 3),
        "fraction_of_bandwidth": round(limit / ours, 3),
        "fraction_of_bandwidth_postings": round(limit / times["ours_postings"]["median_ms"], 3),
        "bytes_ours": snapshot.manifest.shards[0].bytes,
        "peak_memory_mb_of_both": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **provenance(),
    }


def main() -> None:
    """Read the options, measure, write the JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=65536, help="photos in the shard, at most 65,536")
    parser.add_argument("--queries", type=int, default=30, help="timed queries")
    parser.add_argument("--query-words", type=int, default=1933)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="for the shard file; the default is the temporary folder")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "search.json")
    options = parser.parse_args()
    if not 1 <= options.images <= 65536 or options.queries < 1:
        parser.error("--images must be in 1..65536 and --queries at least 1")
    result = measure(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    plot(result, options.output.with_suffix(".svg"))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
