"""What does it cost to aggregate and add a photo of 1000 descriptors, assignment excluded, beside the package `asmk`?

Descriptors (D = 128) lie around 400 of 65,536 centroids; both get the same words. Ours: `aggregate` and
`Index.add_aggregated` for each photo, and the commit (sort, write, sync) divided by the photos. The reference:
`ASMKKernel.aggregate_image` and `IVF.add`, in memory. Photos alternate, and each side goes first every other time.

    python benchmarks/add.py
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import DIM, WORDS, memory_mb, provenance, publish, summary, timed
from numpy.typing import NDArray

from ctxdeploy.index import Codebook, Index
from ctxdeploy.index.codebook.aggregate import aggregate


def make_photo(centroids: NDArray[np.float32], descriptors: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return descriptors n×D, and the word of each n×1: about 400 different ones."""
    chosen = rng.integers(0, WORDS, 435)
    words = chosen[rng.integers(0, len(chosen), descriptors)].astype(np.int32)
    noise = 0.3 * rng.standard_normal((descriptors, DIM), np.float32)
    return centroids[words] + noise, words[:, None]


def reference(centroids: NDArray[np.float32]) -> tuple[Any, Any]:
    """Return the reference's kernel and an empty inverted file."""
    from asmk.codebook import Codebook as Words
    from asmk.inverted_file import IVF
    from asmk.kernel import ASMKKernel

    words = Words(None, size=WORDS)
    words.centroids = centroids
    return ASMKKernel(words, binary=True), IVF.initialize_empty(codebook_size=WORDS, use_idf=False)


def add_theirs(kernel: Any, inverted: Any, number: int, vectors: Any, words: Any) -> None:
    """Aggregate and add one photo as the reference does."""
    codes, found = kernel.aggregate_image(vectors, words)
    inverted.add(codes, found, np.full(len(found), number))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Add the same photos to both."""
    rng = np.random.default_rng(options.seed)
    centroids = rng.standard_normal((WORDS, DIM), np.float32)
    kernel, inverted = reference(centroids)
    ours: list[float] = []
    theirs: list[float] = []
    parts: dict[str, list[float]] = {"aggregate": [], "add": []}
    counts = []
    codebook = Codebook.from_centroids(centroids)
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        Index.create(Path(folder) / "archive", codebook) as index,
    ):
        for number in range(options.photos + 20):
            vectors, words = make_photo(centroids, options.descriptors, rng)
            if number == 20:  # compiled and warm
                index.commit()
            if number % 2:
                other, _ = timed(partial(add_theirs, kernel, inverted, number, vectors, words))
            aggregated, photo = timed(partial(aggregate, vectors, words, centroids, binary=True))
            added, _ = timed(partial(index.add_aggregated, f"{number}", photo))
            if number % 2 == 0:
                other, _ = timed(partial(add_theirs, kernel, inverted, number, vectors, words))
            if number >= 20:
                counts.append(len(photo.words))
                parts["aggregate"].append(aggregated)
                parts["add"].append(added)
                ours.append(aggregated + added)
                theirs.append(other)
        committed, _ = timed(index.commit)
    commit = committed / options.photos
    ours_ms = summary([value + commit for value in ours])
    theirs_ms = summary(theirs)
    return {
        "question": "milliseconds to aggregate and add a photo, assignment excluded",
        "descriptors": options.descriptors,
        "photos": options.photos,
        "words_a_photo": float(np.median(counts)),
        "ours_with_commit": ours_ms,
        "ours_parts": {name: summary(values) for name, values in parts.items()},
        "ours_commit_ms_a_photo": round(commit * 1000, 4),
        "reference": theirs_ms,
        "ratio": round(theirs_ms["median_ms"] / ours_ms["median_ms"], 1),
        "peak_memory_mb_of_both": memory_mb(),
        **provenance(),
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the medians."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.9), layout="constrained")
    axes = figure.subplots()
    parts = [result["ours_parts"]["aggregate"]["median_ms"], result["ours_parts"]["add"]["median_ms"]]
    parts.append(result["ours_commit_ms_a_photo"])
    left = 0.0
    for label, value, colour in zip(
        ("aggregate", "add", "commit"), parts, ("#2a78b0", "#6aa8d0", "#b0c8d8"), strict=True
    ):
        axes.barh("ctxdeploy", value, left=left, label=label, color=colour)
        left += value
    axes.barh("asmk", result["reference"]["median_ms"], color="#888888")
    axes.set_xlabel(f"ms a photo of {result['descriptors']} descriptors, assignment excluded")
    axes.legend(fontsize=7)
    figure.savefig(path)


def main() -> None:
    """Read the options, measure, write the JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--descriptors", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="for the archive; the default is the temporary folder")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "add.json")
    options = parser.parse_args()
    publish(measure(options), options.output, plot)


if __name__ == "__main__":
    main()
