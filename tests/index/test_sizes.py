"""Sizes that are computed are those of the files that an archive of such photos has."""

from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.core.types import FileState
from ctxdeploy.index import (
    Codebook,
    GlobalQuantiser,
    Index,
    IndexConfig,
    codebook_bytes,
    photo_sizes,
    quantiser_bytes,
    shard_photos,
    statistics_bytes,
)

WORDS, DIM, PHOTOS, GLOBAL_DIM = 64, 96, 300, 48


def made(folder: Path, config: IndexConfig, quantiser: GlobalQuantiser | None = None, *, local: bool = True) -> Index:
    """Return an archive of random photos, whose numbers of descriptors and lengths of names differ."""
    rng = np.random.default_rng(0)
    codebook = Codebook.from_centroids(rng.standard_normal((WORDS, DIM), np.float32)) if local else None
    with Index.create(folder, codebook, config=config, quantiser=quantiser) as index:
        for number in range(PHOTOS):
            count = int(rng.integers(0, 40))
            vectors = rng.standard_normal((count, DIM), np.float32)
            vector = rng.standard_normal(config.global_dim) if config.keeps_global else None
            index.add(
                f"folder/{'a' * int(rng.integers(0, 9))}{number}.jpg",
                vectors if local else None,
                positions=100 * rng.random((count, 2)) if local else None,
                global_descriptor=None if vector is None else vector / np.linalg.norm(vector),
                size=(640, 480) if local else None,
                file=FileState(size=number, mtime_ns=number),
            )
    return Index.open(folder)


def predicted(index: Index) -> int:
    manifest = index.state.manifest
    total = 0
    for entry, shard in zip(manifest.shards, index.state.shards, strict=True):
        features = 0 if shard.geometry_words is None else len(shard.geometry_words)
        sizes = photo_sizes(
            index.config,
            words=manifest.words,
            dim=manifest.dim,
            images=entry.images,
            postings=entry.postings,
            features=features,
            name_bytes=len(shard.names),
        )
        assert sizes.times(2).total == 2 * sizes.total
        total += sizes.total
    return total


@pytest.mark.parametrize("geometry", ["none", "positions", "codes", "descriptors"])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shard_images", [65536, 70])
def test_bytes_of_shards_and_names(tmp_path: Path, geometry: str, binary: bool, shard_images: int) -> None:
    config = IndexConfig(geometry=geometry, binary=binary, shard_images=shard_images)
    with made(tmp_path / "a", config) as index:
        files = [file.bytes for entry in index.state.manifest.shards for file in entry.files]
        assert predicted(index) == sum(files)
        codebook = index.state.manifest.codebook
        assert codebook is not None and 0 < codebook.bytes - codebook_bytes(WORDS, DIM) < 2048


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "pq"])
@pytest.mark.parametrize("search", ["exact", "ivf"])
@pytest.mark.parametrize("local", [True, False])
def test_bytes_of_global_vectors(tmp_path: Path, kind: str, search: str, local: bool) -> None:
    config = IndexConfig(global_vectors=kind, global_dim=GLOBAL_DIM, global_search=search)
    quantiser = None
    if config.needs_quantiser:
        rows = np.random.default_rng(1).standard_normal((256, GLOBAL_DIM)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        quantiser = GlobalQuantiser.train(rows, config, cells=4 if search == "ivf" else None)
    with made(tmp_path / "a", config, quantiser, local=local) as index:
        files = [file.bytes for entry in index.state.manifest.shards for file in entry.files]
        assert predicted(index) == sum(files)
        kept = index.state.manifest.quantiser
        expected = quantiser_bytes(config, 4)
        assert (expected == 0) == (kept is None)
        assert kept is None or 0 < kept.bytes - expected < 2048


def test_bytes_of_statistics(tmp_path: Path) -> None:
    with made(tmp_path / "a", IndexConfig(idf=True)) as index:
        file = index.state.manifest.statistics
        assert file is not None and 0 < file.bytes - statistics_bytes(WORDS, PHOTOS) < 2048


def test_bytes_of_a_codebook_with_cells() -> None:
    rng = np.random.default_rng(0)
    codebook = Codebook.from_centroids(rng.standard_normal((4160, 8), np.float32))
    written = sum(memoryview(piece).nbytes for piece in codebook.encode())
    assert 0 < written - codebook_bytes(4160, 8) < 2048


def test_photos_of_a_shard_end_at_a_gigabyte() -> None:
    assert shard_photos(IndexConfig(), 7000.0) == 65536
    assert shard_photos(IndexConfig(shard_images=100), 7000.0) == 100
    assert shard_photos(IndexConfig(geometry="descriptors"), float(1 << 18)) == 1 << 12
    assert shard_photos(IndexConfig(), 1e12) == 1
