"""Archives of synthetic photos, and scores of all photos against all in plain loops."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.index import Codebook, Index, IndexConfig

DIM = 16
Photos = Mapping[str, NDArray[np.float32]]
Scores = dict[str, dict[str, float]]


@pytest.fixture(scope="session")
def codebook() -> Codebook:
    """Twelve words."""
    centroids = np.random.default_rng(1).standard_normal((12, DIM)).astype(np.float32)
    return Codebook(centroids)


@pytest.fixture
def make_archive(codebook: Codebook, tmp_path: Path) -> Callable[[Photos], Path]:
    """Return a function that makes an archive of photos, given by name as n×16 descriptors, in shards of three."""
    count = 0

    def make(photos: Photos) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / f"made-{count}.ctxindex"
        with Index.create(path, codebook, config=IndexConfig(shard_images=3)) as index:
            for name, vectors in photos.items():
                index.add(name, vectors)
        return path

    return make


@pytest.fixture(scope="session")
def all_scores(load_reference: Callable[[str], ModuleType], codebook: Codebook) -> Callable[[Photos], Scores]:
    """Return a function that scores all photos against all, in plain loops, each with one word a descriptor."""
    reference = load_reference("asmk_reference")

    def score(photos: Photos) -> Scores:
        centroids = codebook.centroids.astype(np.float64)
        parts = {
            name: reference.aggregate(vectors.astype(np.float64), centroids, 1, binary=True)
            for name, vectors in photos.items()
        }
        return {
            name: dict(zip(parts, reference.scores(part, list(parts.values()), binary=True), strict=True))
            for name, part in parts.items()
        }

    return score


@pytest.fixture(scope="session")
def some_photos() -> Callable[..., dict[str, NDArray[np.float32]]]:
    """Return a function that makes photos of a few scenes, which share descriptors, under given names."""

    def make(names: list[str], *, scenes: int = 4, seed: int = 0) -> dict[str, NDArray[np.float32]]:
        random = np.random.default_rng(seed)
        base = random.standard_normal((scenes, 12, DIM))
        return {
            name: (base[place % scenes][: random.integers(4, 12)] + 0.4 * random.standard_normal(DIM)).astype(
                np.float32
            )
            for place, name in enumerate(names)
        }

    return make
