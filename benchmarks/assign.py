"""How long does the assignment of 1000 descriptors to 5 of 65,536 words take, and how often is it right?

Ours through cells, at several numbers of probes, and ours exact, beside faiss: the flat index that the package `asmk`
searches, and its inverted file with the same cells, HNSW, and the fast scan of products with a comparison of the best
in float32, each with the least effort that finds as many of the words as ours. All in one process, in turn, on one
thread each and on two.

    python benchmarks/assign.py                                   # trains a codebook first: three minutes and 3 GB
    python benchmarks/assign.py --descriptors FILE.npy            # n×D float32 of your own, photo after photo
    python benchmarks/assign.py --words 8192 --per-word 16        # a quick look

Without a file descriptors are drawn: 22 normal coordinates, of popular and rare kinds, turned into 128 dimensions, with
noise. Their nearest words lie about as far away as those of a network's descriptors on photos, where a word leaves 0.38
of the variance, and the fifth nearest word is 1.16 times as far away as the nearest (squared). Recall and queries are
of descriptors that were not trained with. The limit is all products at the rates at which our loops multiply from the
L1 cache: with centres of cells in float32, with words in int8.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ctxdeploy.bench import choose_openblas, in_turns, milliseconds, publish, timed
from ctxdeploy.index import Codebook
from ctxdeploy.index.codebook.assignment import CellAssigner, FlatAssigner
from ctxdeploy.index.kernels import vectors
from ctxdeploy.index.kernels.integers import BLOCKS, FACTS, GROUP, ROWS, WIDE, tile
from ctxdeploy.index.kernels.vectors import LANES
from ctxdeploy.index.threads import ALONE, SearchThreads

COUNT = 5
PER_CALL = 1000
Search = Callable[[NDArray[np.float32]], Any]


def draw(count: int, dim: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return descriptors of 22 inner dimensions, of 2000 kinds whose popularity falls."""
    inner, kinds = 22, 2000
    popularity = 1 / np.arange(1, kinds + 1) ** 0.7
    turn = rng.normal(size=(inner, dim)).astype(np.float32) / np.float32(inner**0.5)
    centres = 0.7 * rng.normal(size=(kinds, inner)).astype(np.float32)
    chosen = rng.choice(kinds, count, p=popularity / popularity.sum())
    vectors = np.empty((count, dim), np.float32)
    for start in range(0, count, 1 << 16):
        part = centres[chosen[start : start + (1 << 16)]]
        part = part + 0.7 * rng.standard_normal(part.shape, np.float32)
        vectors[start : start + (1 << 16)] = part @ turn + 0.35 * rng.standard_normal((len(part), dim), np.float32)
    return vectors


@njit(nogil=True)
def _multiply_bytes(
    codes: Any, lanes: Any, groups: int, rows: Any, own: Any, facts: Any, found: Any, times: int
) -> None:
    for _ in range(times):
        tile(codes, 0, lanes, 0, groups, rows, 0, own, 0, facts, 0, found, 0, codes, 0)


@njit(nogil=True)
def _multiply_floats(rows: Any, words: Any, width: int, target: Any, times: int) -> None:
    for _ in range(times):
        for start in range(0, vectors.CHUNK, vectors.BLOCKS * LANES):
            vectors.multiply(rows, 0, words, start * width, width, target, start, words, 0)


def peaks(width: int) -> tuple[float, float]:
    """Return the operations a second of products of ``width`` numbers in the L1 cache, int8 and float32.

    The fastest of 20 in the tiles that we use; a product and its sum are two.
    """
    groups, times = width // GROUP, 5000
    codes, lanes = np.zeros((BLOCKS, groups, LANES), np.uint32), np.zeros((BLOCKS, 3, LANES), np.float32)
    rows, own = np.zeros((ROWS, width), np.int8), np.zeros(3 * ROWS, np.int64)
    own[:ROWS] = np.arange(ROWS) * width
    facts, found = np.zeros(ROWS * FACTS, np.float32), np.zeros(ROWS * WIDE, np.float32)
    numbers = np.ones(vectors.ROWS * width, np.float32), np.ones(vectors.CHUNK * width, np.float32)
    target = np.zeros(vectors.ROWS * vectors.CHUNK, np.float32)
    works: list[tuple[int, Callable[[int], None]]] = [
        (ROWS * WIDE, lambda times: _multiply_bytes(codes, lanes, groups, rows, own, facts, found, times)),
        (vectors.ROWS * vectors.CHUNK, lambda times: _multiply_floats(*numbers, width, target, times)),
    ]
    found_peaks = []
    for products, work in works:
        work(1)
        fastest = min(timed(partial(work, times))[0] for _ in range(20))
        found_peaks.append(2.0 * products * width * times / fastest)
    return found_peaks[0], found_peaks[1]


def peers(
    centroids: NDArray[np.float32], codebook: Codebook, sample: NDArray[np.float32], truth: NDArray[np.int32]
) -> tuple[dict[str, Search], dict[str, str]]:
    """Return faiss' searches: flat; and the others with the least effort that finds as many of the words as ours.

    And by their names what that effort is.

    Its inverted file and the fast scan have our cells; HNSW 32 links a word, and 200 candidates while it is built; the
    fast scan 64 parts of a word in 4 bits, and the best of it are compared again in float32.
    """
    choose_openblas()
    import faiss

    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatL2(codebook.dim)
    flat.add(centroids)
    searches: dict[str, Search] = {"faiss flat": lambda rows: flat.search(rows, COUNT)[1]}
    efforts: dict[str, str] = {}
    wanted = recall(lambda rows: codebook.assign(rows, COUNT), sample, truth)["recall_at_5"]

    def add(name: str, setting: str, values: Sequence[int], of: Any, index: Any, kept: Any = None) -> None:
        for value in values:

            def search(rows: NDArray[np.float32], value: int = value, kept: Any = kept) -> Any:
                setattr(of, setting, value)
                return index.search(rows, COUNT)[1]

            if recall(search, sample, truth)["recall_at_5"] >= wanted:
                searches[f"faiss {name}"], efforts[f"faiss {name}"] = search, f"{setting} {value}"
                return

    graph = faiss.IndexHNSWFlat(codebook.dim, 32)
    graph.hnsw.efConstruction = 200
    graph.add(centroids)
    add("HNSW", "efSearch", (32, 48, 64, 80, 96, 128, 192, 256, 512), graph.hnsw, graph)
    if codebook.cells is None:
        return searches, efforts
    cells, probes = codebook.cells.centres, (16, 24, 32, 40, 48, 56, 64, 72, 80, 96, 128, 192, 256)
    quantizer = faiss.IndexFlatL2(codebook.dim)  # it must outlive the indexes that point to it
    quantizer.add(cells)
    inverted = faiss.IndexIVFFlat(quantizer, codebook.dim, len(cells))
    inverted.train(centroids)
    inverted.add(centroids)
    add("IVF", "nprobe", probes, inverted, inverted, quantizer)
    scan = faiss.IndexIVFPQFastScan(quantizer, codebook.dim, len(cells), codebook.dim // 2, 4)
    scan.train(centroids)
    refined = faiss.IndexRefineFlat(scan)
    refined.add(centroids)
    for factor in (2, 4, 8):
        again = Refined(refined, factor)
        add(f"FastScan and {factor * COUNT} again", "nprobe", probes, scan, again, (quantizer, scan))
    scans = sorted((timed(partial(searches[name], sample))[0], name) for name in searches if "FastScan" in name)
    for _, name in scans[1:]:
        del searches[name]
    if scans:
        best = scans[0][1]
        searches["faiss FastScan"], efforts["faiss FastScan"] = searches.pop(best), f"{efforts[best]}, {best[15:]}"
    return searches, efforts


class Refined:
    """A fast scan whose best so many times the wanted words are compared again."""

    def __init__(self, index: Any, factor: int) -> None:
        self._index, self._factor = index, factor

    def search(self, rows: NDArray[np.float32], count: int) -> Any:
        self._index.k_factor = self._factor
        return self._index.search(rows, count)


def on_threads(searches: dict[str, Search], threads: int) -> dict[str, Search]:
    """Return the searches of faiss on so many threads."""
    import faiss

    def work(rows: NDArray[np.float32], search: Search) -> Any:
        faiss.omp_set_num_threads(threads)
        return search(rows)

    return {name: partial(work, search=search) for name, search in searches.items()}


def ours(codebook: Codebook, probes: list[int], threads: SearchThreads) -> dict[str, Search]:
    """Return our searches: exact, with the codebook's probes, and with others."""
    flat = FlatAssigner(codebook.centroids)
    searches: dict[str, Search] = {
        "ctxdeploy": lambda rows: codebook.assign(rows, COUNT),
        "ctxdeploy, 2 threads": lambda rows: codebook.assign(rows, COUNT, threads=threads),
        "ctxdeploy exact": lambda rows: flat.search(rows, COUNT)[0],
    }
    if codebook.cells is not None:
        for number in probes:
            other = CellAssigner(
                codebook.centroids, replace(codebook.cells, probes=min(number, len(codebook.cells.centres)))
            )
            searches[f"ctxdeploy, {number} probes"] = lambda rows, other=other: other.search(rows, COUNT)[0]
    return searches


def recall(search: Search, vectors: NDArray[np.float32], truth: NDArray[np.int32]) -> dict[str, float]:
    """Return how often the nearest word, and the nearest five, are found."""
    found = search(vectors)
    return {
        "recall_at_1": round(float((found[:, 0] == truth[:, 0]).mean()), 4),
        "recall_at_5": round(float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean()), 4),
    }


def opening(codebook: Codebook, folder: Path) -> dict[str, Any]:
    """Return what it costs to open the saved codebook, from the page cache."""
    path = folder / "codebook.safetensors"
    codebook.save(path)
    taken = [timed(lambda: Codebook.load(path))[0] for _ in range(22)][2:]
    loaded = Codebook.load(path)
    return {
        "bytes": path.stat().st_size,
        "load": milliseconds(taken),
        "check_ms": round(timed(lambda: loaded.check(""))[0] * 1e3, 1),
    }


def work_per_call(codebook: Codebook, queries: list[NDArray[np.float32]]) -> tuple[float, float]:
    """Return the operations that 1000 descriptors need: with the words of the cells probed, and with all centres."""
    cells = codebook.cells
    if cells is None:
        return 2.0 * PER_CALL * len(codebook) * codebook.dim, 0.0
    sizes, near = np.diff(cells.offsets), FlatAssigner(cells.centres)
    words = np.mean([sizes[near.search(batch, cells.probes)[0]].sum() for batch in queries[:5]])
    return 2.0 * codebook.dim * float(words), 2.0 * codebook.dim * PER_CALL * len(cells.centres)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train, compare, and return the result."""
    rng = np.random.default_rng(options.seed)
    if options.descriptors is None:
        data = draw(options.words * options.per_word + 200_000, options.dim, rng)
    else:
        data = np.ascontiguousarray(np.load(options.descriptors), np.float32)
    held_out = min(200_000, len(data) // 10)
    training, test = data[:-held_out], data[-held_out:]
    if options.codebook is None:
        settings = {"seed": options.seed, "iterations": options.iterations}
        seconds, codebook = timed(lambda: Codebook.train(training, options.words, **settings))
        trained = round(seconds, 1)
    else:
        codebook, trained = Codebook.load(options.codebook), None
    queries = [test[rng.choice(len(test), PER_CALL, replace=False)] for _ in range(options.calls + 2)]
    sample = test[rng.choice(len(test), min(len(test), 10_000), replace=False)]
    exact = FlatAssigner(codebook.centroids)
    truth, squared = exact.search(sample, COUNT)
    found_peers, efforts = peers(np.array(codebook.centroids), codebook, sample, truth)
    with closing(SearchThreads(2)) as threads:
        searches = {**ours(codebook, options.probes, threads), **on_threads(found_peers, 1)}
        searches |= {f"{name}, 2 threads": search for name, search in on_threads(found_peers, 2).items()}
        times = in_turns(searches, queries, warm_up=2)
    rows: dict[str, dict[str, Any]] = {name: milliseconds(seconds) for name, seconds in times.items()}
    for name, search in {**ours(codebook, options.probes, ALONE), **found_peers}.items():
        rows[name] |= recall(search, sample, truth)
        if name in efforts:
            rows[name]["effort"] = efforts[name]
    best, work = peaks(-(-codebook.dim // 16) * 16), work_per_call(codebook, queries)
    limit = 1000 * (work[0] / best[0] + work[1] / best[1])
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        opened = opening(codebook, Path(folder))
    return {
        "question": f"one thread: {PER_CALL} descriptors to {COUNT} words",
        "descriptors": "drawn" if options.descriptors is None else "given",
        "words": len(codebook),
        "dim": codebook.dim,
        "training": codebook.training,
        "training_seconds": trained,
        "residual_variance": round(float(squared[:, 0].mean() / test.var(axis=0).sum()), 3),
        "fifth_to_first_squared_distance": round(float(squared[:, -1].mean() / squared[:, 0].mean()), 3),
        "threads": 1,
        "seed": options.seed,
        "searches": rows,
        "int8_operations_per_call": work[0],
        "float32_operations_per_call": work[1],
        "peak_int8_giga_operations_per_s": round(best[0] / 1e9, 1),
        "peak_float32_giga_operations_per_s": round(best[1] / 1e9, 1),
        "limit_ms": round(limit, 3),
        "fraction_of_peak": round(limit / rows["ctxdeploy"]["median_ms"], 3),
        "fraction_of_peak_exact": round(
            2e3 * PER_CALL * len(codebook) * codebook.dim / best[0] / rows["ctxdeploy exact"]["median_ms"], 3
        ),
        "open": opened,
    }


def main() -> None:
    """Read the options, measure, write the JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--descriptors", type=Path, help="n×D float32; the last tenth is not trained with")
    parser.add_argument("--codebook", type=Path, help="a codebook's file, instead of training one")
    parser.add_argument("--words", type=int, default=65536)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--per-word", type=int, default=32, help="descriptors drawn a word")
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--probes", type=int, nargs="*", default=[16, 24, 32, 48, 64], help="to measure besides")
    parser.add_argument("--calls", type=int, default=40, help="timed calls of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="for the codebook's file; the default is the temporary folder")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "assign.json")
    options = parser.parse_args()
    if options.calls < 1 or options.words < 1 or options.dim < 1 or any(number < 1 for number in options.probes):
        parser.error("--calls, --words, --dim and --probes must be at least 1")
    result = measure(options)
    ours, flat = result["searches"]["ctxdeploy"], result["searches"]["faiss flat"]
    lines = [
        f"{result['question']} of {result['words']:,}: {ours['median_ms']:.1f} ms, recall@5 {ours['recall_at_5']:.3f}",
        f"the limit is {result['limit_ms']:.1f} ms, the products at peak: {result['fraction_of_peak']:.2f} of it",
        f"two threads: {result['searches']['ctxdeploy, 2 threads']['median_ms']:.1f} ms",
        f"faiss, flat: {flat['median_ms']:.0f} ms; as many words found, one thread:",
        *(
            f"  {name}: {row['median_ms']:.1f} ms {row.get('effort', '')}"
            for name, row in result["searches"].items()
            if "recall_at_5" in row
        ),
    ]
    publish(result, options.output, lines)


if __name__ == "__main__":
    main()
