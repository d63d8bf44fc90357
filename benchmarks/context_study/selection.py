"""How many descriptors of a photo? The strongest K, or a share of its positions, for queries of several sizes.

Landmarks that a checkpoint has not seen are asked of an archive of photos of at most 512 pixels, with the words of
training photos that are described alike. Every setting is taken from descriptors of all positions.

    python benchmarks/context_study/selection.py first/model.pth --landmarks landmarks --landmarks places \\
        --photos trainphotos --weights held-out.csv --validate val
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study import mean_by_scene, precisions_of, words_of
from whole import add_photo_options, described, photo_set_of, pyramid

from ctxdeploy.bench import publish
from ctxdeploy.core.scoring import GroundTruth, load_ground_truth
from ctxdeploy.index import Codebook, Index
from ctxdeploy.runtime import find_photos

SIZES = (512, 320, 224)
# The strongest so many of all positions, and of a share of them at most.
SETTINGS = (
    (1000, 1.0),
    (700, 1.0),
    (500, 1.0),
    (350, 1.0),
    (1000, 0.25),
    (700, 0.33),
    (700, 0.25),
    (500, 0.33),
    (500, 0.25),
)
# More than a photo of 512 pixels has positions, at the five scales.
_EVERY = 5000
Vectors = Mapping[str, np.ndarray]


def main() -> None:
    """Describe, score, publish."""
    options = _arguments()
    torch.set_num_threads(options.threads)
    truth, photo_set = load_ground_truth(options.validate), photo_set_of(options)
    if truth is None:
        raise SystemExit(f"there is no gnd.json in {options.validate}")
    network = pyramid(options.checkpoint, _EVERY)
    files = [photo.path for photo in find_photos(options.validate) if photo.path is not None]
    photos = dict(described(network, files, SIZES[0]))
    truth = truth.restricted(list(photos))
    queries = {query for scene in truth.scenes.values() for query in scene}
    asked = {size: dict(described(network, [f for f in files if f.name in queries], size)) for size in SIZES}
    chosen = np.unique(np.linspace(0, len(photo_set) - 1, options.photos_of_words).astype(int))
    others = [vectors for _, vectors in described(network, [photo_set.paths[i] for i in chosen], SIZES[0])]
    rows = [_row(top, share, photos, others, asked, truth) for top, share in SETTINGS]
    positions = {size: float(np.median([len(v) for v in of.values()])) for size, of in asked.items()}
    publish({"positions": positions, "settings": rows}, options.output, [_line(row) for row in rows])


def _row(
    top: int, share: float, photos: Vectors, others: Sequence[np.ndarray], asked: Mapping[int, Vectors], truth: Any
) -> dict[str, Any]:
    cut = [_cut(vectors, top, share) for vectors in others]
    archive = {name: _cut(vectors, top, share) for name, vectors in photos.items()}
    archive |= {f"other {i}": vectors for i, vectors in enumerate(cut[1::2])}
    queries = {size: {name: _cut(vectors, top, share) for name, vectors in of.items()} for size, of in asked.items()}
    found = _scores(words_of(cut[::2]), archive, queries, truth)
    mean = float(np.mean([len(vectors) for vectors in archive.values()]))
    return {"top_k": top, "top_share": share, "descriptors": mean, "mAP": found}


def _cut(vectors: np.ndarray, top: int, share: float) -> np.ndarray:
    return vectors[: min(top, int(np.ceil(share * len(vectors))))]


def _scores(
    codebook: Codebook, archive: Vectors, queries: Mapping[int, Vectors], truth: GroundTruth
) -> dict[int, dict[str, float]]:
    """Return mean average precisions in percent by the size of the queries."""
    with tempfile.TemporaryDirectory() as folder:
        with Index.create(Path(folder, "a.ctxindex"), codebook) as index:
            index.add_many(archive.items())
        with Index.open(Path(folder, "a.ctxindex")) as index:
            return {size: _by_kind(index, of, truth) for size, of in queries.items()}


def _by_kind(index: Index, queries: Vectors, truth: GroundTruth) -> dict[str, float]:
    precisions = precisions_of(index, queries, truth)
    return {name: round(mean_by_scene(part, precisions), 2) for name, part in truth.parts().items()}


def _line(row: Mapping[str, Any]) -> str:
    by_size = ", ".join(f"{size} px {scores['map']:.1f}" for size, scores in row["mAP"].items())
    return f"K {row['top_k']}, share {row['top_share']} ({row['descriptors']:.0f} descriptors): mAP {by_size}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of a network that has not seen the landmarks of --validate")
    add_photo_options(parser)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results" / "selection.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
