"""What does a GPU leave to the CPU when it finds words, and what does that cost?

A GPU proposes the nearest words of each descriptor in float16, float64 decides, and descriptors about which the scores
prove too little are searched on the CPU (``index/codebook/gpu_assignment.py``). How many these are depends on the
descriptors, not on the GPU: without one numpy multiplies the same float16 numbers, and all else is as it runs.

    python benchmarks/gpu_words.py --photos DIR                        # describes them by the built-in model
    python benchmarks/gpu_words.py --descriptors FILE.npy              # n×D float32, photo after photo
    python benchmarks/gpu_words.py --descriptors FILE.npy --device cuda --iterations 20     # k-means on the GPU itself

Three searches: the nearest word of all, that of the 8 cells that training probes, and the nearest five of as many
cells as a query probes. Times of the CPU are of one thread; the update of k-means adds all descriptors to their words.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bench import publish, timed
from ctxdeploy.core.device import Device
from ctxdeploy.index import Codebook
from ctxdeploy.index.codebook import gpu_assignment
from ctxdeploy.index.codebook.assignment import CellAssigner, Cells, FlatAssigner
from ctxdeploy.index.codebook.faiss_gpu import gpu_of
from ctxdeploy.index.codebook.gpu_assignment import GpuAssigner
from ctxdeploy.index.codebook.halves import HalfWords
from ctxdeploy.index.codebook.training import TRAINING_PROBES
from ctxdeploy.index.threads import ALONE

# Of a k-means that is reckoned: 64 descriptors a word, 20 iterations, 16 threads.
PER_WORD, ITERATIONS, THREADS = 64, 20, 16
# The fastest of so many counts.
REPEATS = 5


class Products:
    """Multiplies in place of a GPU, and keeps its answers: they are asked for twice."""

    def __init__(self, rows: NDArray[np.float32] | None = None) -> None:
        self._rows = rows

    def hold(self, rows: NDArray[np.float32]) -> "Products":
        return Products(rows)

    def best(self, queries: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if self._rows is None:
            raise ValueError("nothing is held")
        scores, found = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
        for start in range(0, len(queries), 512):
            part = slice(start, start + 512)
            products = queries[part] @ self._rows.T
            some = np.argpartition(-products, count - 1, axis=1)[:, :count]
            order = np.argsort(-np.take_along_axis(products, some, axis=1), axis=1, kind="stable")
            found[part] = np.take_along_axis(some, order, axis=1)
            scores[part] = np.take_along_axis(products, found[part], axis=1)
        return scores, found


class Counting:
    """The assigner on the CPU, counted and timed."""

    def __init__(self, assigner: FlatAssigner | CellAssigner) -> None:
        self._assigner, self.rows, self.seconds = assigner, 0, 0.0

    def search(self, vectors: NDArray[np.float32], count: int, threads: Any = ALONE) -> Any:
        seconds, found = timed(lambda: self._assigner.search(vectors, count, threads))
        self.rows, self.seconds = self.rows + len(vectors), self.seconds + seconds
        return found


def share(
    centroids: NDArray[np.float32], cells: Cells | None, sample: NDArray[np.float32], count: int
) -> dict[str, float]:
    """Return what of a search is left to the CPU, and microseconds of one thread for each descriptor."""
    alone = FlatAssigner(centroids) if cells is None else CellAssigner(centroids, cells)
    counting: Any = Counting(alone)
    assigner = GpuAssigner(counting, centroids, cells, Products(), worth=0)
    held = assigner._held
    if held is None:
        raise ValueError("these words do not fit into float16")
    scored = held.ask(sample, count, ALONE)
    assigner._settled(held, sample[:512], held.ask(sample[:512], count, ALONE), count, ALONE)  # compiles
    halves = HalfWords(centroids)
    preparing = min(timed(partial(halves.rows, sample))[0] for _ in range(REPEATS))
    proving = searching = np.inf
    for _ in range(REPEATS):
        counting.rows, counting.seconds = 0, 0.0
        seconds, (words, distances) = timed(lambda: assigner._settled(held, sample, scored, count, ALONE))
        proving, searching = min(proving, seconds - counting.seconds), min(searching, counting.seconds)
    expected = alone.search(sample, count)
    if not (np.array_equal(words, expected[0]) and np.array_equal(distances, expected[1])):
        raise AssertionError("the words are not those of the CPU")
    each = 1e6 / len(sample)
    return {
        "left_to_the_cpu": round(counting.rows / len(sample), 4),
        "preparing_us": round(preparing * each, 3),
        "proving_us": round(proving * each, 3),
        "searching_us": round(searching * each, 3),
        "cpu_alone_us": round(min(timed(lambda: alone.search(sample, count))[0] for _ in range(REPEATS)) * each, 3),
    }


def adding(centroids: NDArray[np.float32], sample: NDArray[np.float32]) -> float:
    """Return seconds of one thread to add descriptors to their words."""
    from ctxdeploy.index.kernels import build

    words = FlatAssigner(centroids).search(sample, 1)[0][:, 0]
    sums, counts = np.zeros(centroids.shape, np.float64), np.zeros(len(centroids), np.int64)
    frozen = sample.view()
    frozen.flags.writeable = False
    return min(timed(lambda: build.sum_by_word(frozen, words, sums, counts, 0, len(sums)))[0] for _ in range(4))


def describe(folder: Path, file: Path, every: int) -> NDArray[np.float32]:
    """Return descriptors of every so many photos of a folder, by the built-in model, and keep them in a file."""
    from ctxdeploy.core import bundle
    from ctxdeploy.models import find_model
    from ctxdeploy.runtime import Extractor, PhotoFailure, find_photos

    extractor = Extractor(bundle.open(find_model(None)))
    found = list(extractor.extract(find_photos(folder)[::every]))
    vectors = np.concatenate([one.descriptors.vectors for one in found if not isinstance(one, PhotoFailure)])
    np.save(file, vectors)
    return vectors


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train, compare, and return the result."""
    if options.photos is None:
        data = np.ascontiguousarray(np.load(options.descriptors), np.float32)
    else:
        data = describe(options.photos, options.descriptors, options.every)
    settings = {"seed": options.seed, "iterations": options.iterations}
    device = Device.parse(options.device)
    seconds, codebook = timed(lambda: Codebook.train(data, options.words, **settings, device=device))
    result: dict[str, Any] = {
        "question": "words by a GPU: what is left to the CPU",
        "device": "cpu" if gpu_of(device) is None else device.label,
        "descriptors": len(data),
        "dim": codebook.dim,
        "words": len(codebook),
        "training": codebook.training,
        "training_seconds": round(seconds, 1),
        "spare": [gpu_assignment.SPARE, gpu_assignment.SPARE_CELLS],
    }
    if result["device"] != "cpu":
        return result
    generator = np.random.default_rng(options.seed)
    sample = data[np.sort(generator.choice(len(data), min(options.sample, len(data)), replace=False))]
    centroids, cells = codebook.centroids, codebook.cells
    result["flat"] = share(centroids, None, sample, 1)
    if cells is not None:
        probed = replace(cells, probes=min(TRAINING_PROBES, len(cells.centres)))
        result["training_cells"] = share(centroids, probed, sample, 1)
        result["query_cells"] = share(centroids, cells, sample, 5)
    result["adding_us"] = round(adding(centroids, sample) * 1e6 / len(sample), 3)
    result["reckoned"] = reckoned(result)
    return result


def reckoned(result: dict[str, Any]) -> dict[str, float]:
    """Return seconds of 16 threads for a k-means of these words from 64 descriptors each, beside the GPU's products."""
    row = result.get("training_cells", result["flat"])
    rows = PER_WORD * result["words"] * ITERATIONS
    cpu = sum(row[name] for name in ("preparing_us", "proving_us", "searching_us")) + result["adding_us"]
    alone = row["cpu_alone_us"] + result["adding_us"]
    return {
        "descriptors_compared": float(rows),
        "cpu_part_s": round(rows * cpu / 1e6 / THREADS, 1),
        "cpu_alone_s": round(rows * alone / 1e6 / THREADS, 1),
        "products_tflop": round(2.0 * rows * result["words"] * result["dim"] / 1e12, 1),
    }


def main() -> None:
    """Read the options, measure, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--descriptors", type=Path, required=True, help="n×D float32; written with --photos")
    parser.add_argument("--photos", type=Path, help="folder to describe by the built-in model")
    parser.add_argument("--every", type=int, default=1, help="of the photos, one of so many")
    parser.add_argument("--words", type=int, default=65536)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--sample", type=int, default=20_000, help="descriptors that are compared")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "gpu_words.json")
    options = parser.parse_args()
    result = measure(options)
    lines = [f"{result['words']:,} words from {result['descriptors']:,} descriptors: {result['training_seconds']} s"]
    for name in ("flat", "training_cells", "query_cells"):
        if name in result:
            row = result[name]
            lines.append(f"{name}: {100 * row['left_to_the_cpu']:.2f} % left to the CPU; µs each: {row}")
    lines += [f"{name}: {value:,}" for name, value in result.get("reckoned", {}).items()]
    publish(result, options.output, lines)


if __name__ == "__main__":
    main()
