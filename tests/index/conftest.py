"""Synthetic photos: descriptors around prototypes that photos share, so that there is something to find."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.index import Codebook, Index, IndexConfig

Photos = list[NDArray[np.float32]]


@pytest.fixture(scope="session")
def make_photos() -> Callable[..., Photos]:
    """Return a function of (count, dim, seed) that makes photos of 0 to 39 descriptors; the fifth has none."""

    def make(count: int, dim: int = 128, seed: int = 0) -> Photos:
        rng = np.random.default_rng(seed)
        prototypes = rng.normal(size=(120, dim))
        photos = []
        for number in range(count):
            length = 0 if number == 4 else int(rng.integers(1, 40))
            chosen = prototypes[rng.integers(0, len(prototypes), length)]
            photos.append((chosen + 0.5 * rng.normal(size=chosen.shape)).astype(np.float32))
        return photos

    return make


@pytest.fixture(scope="session")
def make_codebook() -> Callable[..., Codebook]:
    """Return a function of (words, dim, seed) that makes a codebook of random centroids."""

    def make(words: int = 64, dim: int = 128, seed: int = 7) -> Codebook:
        return Codebook.from_centroids(np.random.default_rng(seed).normal(size=(words, dim)).astype(np.float32))

    return make


@pytest.fixture
def make_archive(tmp_path: Path, make_codebook: Callable[..., Codebook]) -> Callable[..., Path]:
    """Return a function of (photos, config, name, codebook) that writes an archive of photos "000", "001", ..."""

    def make(
        photos: Photos, config: IndexConfig | None = None, name: str = "archive", codebook: Codebook | None = None
    ) -> Path:
        path = tmp_path / name
        codebook = codebook or make_codebook(dim=photos[0].shape[1])
        with Index.create(path, codebook, config=config) as index:
            for number, vectors in enumerate(photos):
                index.add(f"{number:03d}", vectors)
        return path

    return make
