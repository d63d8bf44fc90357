"""What does it cost to keep features for geometric verification, and what do quantised descriptors still match?

    python benchmarks/geometry.py --photos minibench/images    # two minutes of extraction, one of the rest

Photos are extracted once; then archives with each ``--geometry`` take turns in keeping them. Timed are adding (the
assignment and the commit included) and the reading of the features of a hundred photos. Descriptors that were kept in
int8, in float16 or with one step for a whole photo are compared with the full ones: of the mutual nearest neighbours
of each photo and the next, how many are the same, the first photo being in full as a query is.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.bench import photo_files, publish
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.types import PhotoDescriptors
from ctxdeploy.index import Codebook, Index, IndexConfig
from ctxdeploy.index.config import GEOMETRIES
from ctxdeploy.index.storage.positions import quantise
from ctxdeploy.indexing.codebook import codebook_of
from ctxdeploy.models import find_model
from ctxdeploy.runtime import Extractor, PhotoSource

READ = 100
Vectors = NDArray[np.float32]


def stored(folder: Path, photos: Sequence[PhotoDescriptors], codebook: Codebook, rounds: int) -> dict[str, Any]:
    """Return bytes and milliseconds of each setting, which take turns."""
    times: dict[str, list[tuple[float, float]]] = {geometry: [] for geometry in GEOMETRIES}
    facts: dict[str, Any] = {}
    for turn in range(rounds + 1):  # the first is untimed
        for geometry in GEOMETRIES:
            path = folder / f"{geometry}-{turn}"
            start = time.perf_counter()
            with Index.create(path, codebook, config=IndexConfig(geometry=geometry)) as index:
                index.add_many(photos)
            added = time.perf_counter() - start
            with Index.open(path) as index:
                names = list(index.names())[:READ]
                start = time.perf_counter()
                for name in names:
                    index.features(name)
                read = time.perf_counter() - start
                kept = index.info()["features"]
            if turn:
                times[geometry].append((added / len(photos), read / len(names) * READ))
            bytes_a_photo = sum(file.stat().st_size for file in (path / "shards").iterdir()) / len(photos)
            facts[geometry] = {"bytes_a_photo": round(bytes_a_photo), "bytes_a_feature": kept["bytes_each"]}
    for geometry, spent in times.items():
        added, read = (1e3 * min(column) for column in zip(*spent, strict=True))
        facts[geometry]["add_ms_a_photo"] = round(added, 2)
        facts[geometry]["read_100_photos_ms"] = None if geometry == "none" else round(read, 2)
    return facts


def in_int8(vectors: Vectors) -> Vectors:
    """Return what an archive gives back."""
    numbers, steps = quantise(vectors)
    return numbers * steps[:, None]


def in_float16(vectors: Vectors) -> Vectors:
    """Return vectors as float16 holds them."""
    return vectors.astype(np.float16).astype(np.float32)


def in_one_step(vectors: Vectors) -> Vectors:
    """Return vectors in int8 with one step for all."""
    step = np.float32(np.abs(vectors).max(initial=1e-30) / 127)
    return np.rint(vectors / step) * step


KEPT: dict[str, Callable[[Vectors], Vectors]] = {
    "int8": in_int8,
    "float16": in_float16,
    "int8, one step a photo": in_one_step,
}


def matches(photos: Sequence[PhotoDescriptors]) -> dict[str, Any]:
    """Return the share of mutual nearest neighbours (by cosine) that are found among quantised vectors too."""
    full = 0
    counts = dict.fromkeys(KEPT, 0)
    for left, right in pairwise(photos):
        query, photo = left.descriptors.vectors, right.descriptors.vectors
        if not len(query) or not len(photo):
            continue
        wanted = mutual(query, photo)
        full += len(wanted)
        for name, way in KEPT.items():
            counts[name] += len(wanted & mutual(query, way(photo)))
    return {"matches": full, "kept": {name: round(count / max(full, 1), 4) for name, count in counts.items()}}


def mutual(query: Vectors, photo: Vectors) -> set[tuple[int, int]]:
    """Return the pairs that are each the other's most similar."""
    similar = unit(query) @ unit(photo).T
    there, back = similar.argmax(axis=1), similar.argmax(axis=0)
    return {(int(i), int(j)) for i, j in enumerate(there) if back[j] == i}


def unit(vectors: Vectors) -> Vectors:
    """Return vectors of length 1."""
    scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return scaled


def main() -> None:
    """Read the options, measure, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder; sample photos without it")
    parser.add_argument("--count", type=int, default=200, help="photos, spread over the folder")
    parser.add_argument("--model", help="bundle, or the name of a model with a codebook")
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each setting")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "geometry.json")
    options = parser.parse_args()
    bundle = bundles.open(find_model(options.model))
    codebook = codebook_of(bundle)
    if codebook is None:
        parser.error(f"{bundle.path} carries no codebook: give another --model")
    with tempfile.TemporaryDirectory() as folder:
        files = photo_files(options.photos, options.count, Path(folder))
        sources = [PhotoSource(name=file.name, path=file) for file in files]
        photos = [found for found in Extractor(bundle).extract(sources) if isinstance(found, PhotoDescriptors)]
        photos.sort(key=lambda photo: photo.name)
        settings = stored(Path(folder), photos, codebook, options.rounds)
    result = {
        "question": "bytes and time of what --geometry keeps, and what quantised descriptors still match",
        "photos": len(photos),
        "descriptors_a_photo": round(sum(len(photo.descriptors) for photo in photos) / max(len(photos), 1), 1),
        "dim": codebook.dim,
        "settings": settings,
        **matches(photos),
    }
    lines = [
        f"{name}: {facts['bytes_a_feature']} bytes a feature, {facts['bytes_a_photo'] / 1e3:.0f} kB a photo, added in "
        f"{facts['add_ms_a_photo']} ms"
        + ("" if name == "none" else f", features of {READ} photos read in {facts['read_100_photos_ms']} ms")
        for name, facts in settings.items()
    ]
    publish(result, options.output, [*lines, f"of {result['matches']} matches: {result['kept']}"])


if __name__ == "__main__":
    main()
