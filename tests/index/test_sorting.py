"""Compaction by name: the same photos become the same bytes, however they came."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.types import FileState, GlobalDescriptor, LocalDescriptors
from ctxdeploy.index import Index, IndexConfig
from ctxdeploy.index.maintenance import compact as compaction

NAMES = ["b", "a/é.jpg", "z", "\udce9.jpg", "日本", "", "B", "\uffff", "m", "🙂", "c"]


def add(index: Index, name: str, vectors: Any, seed: int = 0) -> None:
    """Add a photo that has what the archive keeps."""
    rng = np.random.default_rng([len(vectors), seed])
    places = rng.random((len(vectors), 2)).astype(np.float32)
    photo = LocalDescriptors(vectors=vectors, positions=places)
    vector = rng.normal(size=128).astype(np.float32)
    vector /= np.linalg.norm(vector)
    given = GlobalDescriptor(vector=vector) if index.config.keeps_global else None
    file = FileState(size=len(vectors), mtime_ns=seed)
    index.add(name, photo, file=file, size=(400, 300), global_descriptor=given, replace=True)


def shards_of(path: Path) -> list[tuple[str, ...]]:
    with Index.open(path) as index:
        assert index.verify() == []
        return [tuple(file.sha256 for file in entry.files) for entry in index.state.manifest.shards]


@pytest.mark.parametrize("geometry", ["none", "descriptors"])
@pytest.mark.parametrize("binary", [True, False])
def test_the_order_in_which_photos_came_does_not_show(
    tmp_path: Path, make_photos: Any, make_codebook: Any, geometry: str, binary: bool
) -> None:
    kept = {"global_vectors": "int8", "global_dim": 128} if geometry != "none" else {}
    config = IndexConfig(shard_images=4, geometry=geometry, binary=binary, **kept)
    photos = make_photos(len(NAMES) + 1)
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    with Index.create(calm, make_codebook(), config=config) as index:
        for name in sorted(NAMES, key=lambda name: name.encode("utf-8", "surrogateescape")):
            add(index, name, photos[NAMES.index(name)])
    with Index.create(wild, make_codebook(), config=config) as index:
        add(index, "gone", photos[-1])
        for turn, name in enumerate(NAMES):
            add(index, name, photos[-1], seed=1)
            if turn % 3 == 0:
                index.commit()
        for turn, name in enumerate(reversed(NAMES)):
            add(index, name, photos[NAMES.index(name)])
            if turn % 2:
                index.commit()
        index.remove("gone")
    before = Index.open(wild).search_batch(photos, 20)
    assert shards_of(wild) != shards_of(calm)
    seen: list[tuple[int, int]] = []
    for path in (calm, wild):
        with Index.open(path, writable=True) as index:
            written = index.compact(by_name=True, progress=lambda done, total: seen.append((done, total)))
            assert (written > 0) == (path == wild), "what is in order already is not written again"
            assert index.compact(by_name=True) == 0
            index.collect_garbage()
    assert shards_of(wild) == shards_of(calm) and len(shards_of(wild)) == 3
    assert seen == [(0, 11), (4, 11), (8, 11), (11, 11)]
    with Index.open(wild) as index:
        assert index.search_batch(photos, 20) == before
        assert list(index.names()) == sorted(NAMES, key=lambda name: name.encode("utf-8", "surrogateescape"))


def test_shards_are_cut_by_bytes_too(
    tmp_path: Path, make_photos: Any, make_archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_archive(make_photos(9))
    monkeypatch.setattr(compaction, "MAX_BYTES", 600)
    with Index.open(path, writable=True) as index:
        before = index.search_batch(make_photos(9), 9)
        assert index.compact(by_name=True) == 1
        assert 2 < len(index.state.manifest.shards) <= 9
        assert index.search_batch(make_photos(9), 9) == before and index.verify() == []


def test_an_empty_archive_has_nothing_to_sort(make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(1))
    with Index.open(path, writable=True) as index:
        index.remove("000")
        assert index.compact(by_name=True) == 0 and len(index) == 0
