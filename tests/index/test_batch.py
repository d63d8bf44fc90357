"""A batch, any division into shards and threads, and any order of insertion: exactly the hits of a plain search."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxdeploy.index import Hit, Index, IndexConfig, search
from ctxdeploy.index.batch import make_batch

SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, codebook: Any, photos: dict[str, Any], config: IndexConfig) -> Path:
    """Write an archive of photos in the order of the dictionary."""
    with Index.create(path, codebook, config=config) as index:
        for name, vectors in photos.items():
            index.add(name, vectors)
    return path


def make_groups_small(monkeypatch: Any) -> None:
    """Groups of two to five queries, and parts of a shard for few photos."""
    monkeypatch.setattr(search, "TOGETHER", 2)
    monkeypatch.setattr(search, "GROUP", 5)
    monkeypatch.setattr(search, "GROUP_PHOTOS", 11)
    monkeypatch.setattr(search, "MIN_PHOTOS", 3)


@given(
    queries=st.integers(0, 12),
    shard_images=st.integers(1, 30),
    threads=st.integers(1, 4),
    dim=st.sampled_from([20, 64, 100, 128, 200]),
    binary=st.booleans(),
    idf=st.booleans(),
    threshold=st.sampled_from([-0.5, 0.0, 0.1, 0.9]),
    top=st.integers(1, 30),
    seed=st.integers(0, 5),
)
@SETTINGS
def test_a_batch_equals_single_searches(
    make_photos: Any,
    make_codebook: Any,
    tmp_path_factory: Any,
    queries: int,
    shard_images: int,
    threads: int,
    dim: int,
    binary: bool,
    idf: bool,
    threshold: float,
    top: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("batch")
    photos = make_photos(26, dim, seed)
    photos[20] = photos[9]
    named = {f"{number:03d}": photo for number, photo in enumerate(photos)}
    asked = [*make_photos(12, dim, seed + 100)[:-2], photos[9], photos[3]][:queries]
    codebook = make_codebook(words=24, dim=dim)
    config = IndexConfig(binary=binary, idf=idf, threshold=threshold)
    whole = write(folder / "whole", codebook, named, config)
    config = IndexConfig(binary=binary, idf=idf, threshold=threshold, shard_images=shard_images)
    order = np.random.default_rng(seed).permutation(26)
    split = write(folder / "split", codebook, {f"{i:03d}": photos[i] for i in order}, config)
    with Index.open(whole, threads=1) as index:
        expected = [index.search(query, top) for query in asked]
    with pytest.MonkeyPatch.context() as patch:
        make_groups_small(patch)
        for path in (whole, split):
            with Index.open(path, threads=threads) as index:
                assert index.search_batch(asked, top) == expected
                assert [index.search(query, top) for query in asked[-2:]] == expected[-2:]


def test_many_queries_in_a_large_shard(make_codebook: Any, tmp_path: Path, monkeypatch: Any) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(search, "GROUP_PHOTOS", 700)
    monkeypatch.setattr(search, "MIN_PHOTOS", 100)
    photos = {f"{number:04d}": rng.normal(size=(6, 128)).astype(np.float32) for number in range(2000)}
    path = write(tmp_path / "a", make_codebook(words=20), photos, IndexConfig())
    queries = [photos[f"{number:04d}"][:4] for number in range(0, 200, 5)]
    with Index.open(path, threads=1) as index:
        expected = [index.search(query, 25) for query in queries]
    assert len(queries) >= search.TOGETHER
    for threads in (1, 3):
        with Index.open(path, threads=threads) as index:
            assert index.search_batch(queries, 25) == expected
    with Index.open(path, threads=3) as index:
        assert [index.search(query, 25) for query in queries] == expected


@pytest.mark.parametrize("binary", [True, False])
def test_equal_scores_are_ordered_by_name(make_photos: Any, make_codebook: Any, tmp_path: Path, binary: bool) -> None:
    photo, other = make_photos(2)
    # By bytes: capitals first, then ASCII, then what UTF-8 takes more bytes for, whatever Python makes of surrogates.
    names = ["B", "a", "b", "ä", "\N{GRINNING FACE}", "z", "\udc80", "10", "9"]
    expected = sorted(names, key=lambda name: name.encode("utf-8", "surrogateescape"))
    rng = np.random.default_rng(0)
    for shard_images in (1, 2, 5, 100):
        order = rng.permutation(names).tolist()
        photos = {**dict.fromkeys(order, photo), "other": other}
        config = IndexConfig(binary=binary, shard_images=shard_images)
        path = write(tmp_path / f"{shard_images}", make_codebook(), photos, config)
        with Index.open(path, threads=2) as index:
            for top in range(1, len(names) + 1):
                assert [hit.name for hit in index.search(photo, top)] == expected[:top]


def test_very_many_equal_scores(make_codebook: Any, tmp_path: Path) -> None:
    vector = np.ones((1, 128), np.float32)
    names = [f"{number * 7919 % 9973:05d}" for number in range(9973)]
    config = IndexConfig(shard_images=3000)
    path = write(tmp_path / "a", make_codebook(words=4), dict.fromkeys(names, vector), config)
    with Index.open(path) as index:
        assert [hit.name for hit in index.search(vector, 40)] == sorted(names)[:40]
        assert [hit.name for hit in index.search(vector, 20000)] == sorted(names)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_that_are_none_in_a_damaged_float_shard(
    make_photos: Any, make_archive: Any, monkeypatch: Any, value: float
) -> None:
    photos = make_photos(12)
    path = make_archive(photos, IndexConfig(binary=False))
    monkeypatch.setattr(search, "TOGETHER", 2)
    with Index.open(path) as index:
        (shard,) = index.state.shards
        codes = np.array(shard.codes)
        codes[shard.images == 3] = value
        object.__setattr__(shard, "codes", codes)
        hits = index.search(photos[3], 20)
        assert hits and all(np.isfinite(hit.score) for hit in hits)
        assert index.search_batch([photos[3]] * 3, 20) == [hits] * 3
        if not np.isfinite(value):
            assert "003" not in [hit.name for hit in hits]


def test_removed_photos_are_never_hits(make_photos: Any, make_archive: Any, monkeypatch: Any) -> None:
    photos = make_photos(12)
    path = make_archive(photos, IndexConfig(shard_images=5))
    with Index.open(path) as index:
        (before,) = index.search_batch([photos[3]], 20)
        snapshot = index.state
        factors = [part.copy() for part in snapshot.factors(False)]
        factors[0][3] = 0
        monkeypatch.setattr(type(snapshot), "factors", lambda self, idf: tuple(factors))
        monkeypatch.setattr(search, "TOGETHER", 2)
        expected = [hit for hit in before if hit.name != "003"]
        assert len(expected) == len(before) - 1
        assert index.search_batch([photos[3]], 20) == [expected]
        assert index.search_batch([photos[3]] * 4, 20) == [expected] * 4


def test_an_empty_query_in_a_batch(make_photos: Any, make_archive: Any, monkeypatch: Any) -> None:
    photos = make_photos(8)
    monkeypatch.setattr(search, "TOGETHER", 2)
    with Index.open(make_archive(photos)) as index:
        first, last = index.search(photos[0]), index.search(photos[7])
        assert isinstance(first[0], Hit)
        assert index.search_batch([photos[0], photos[4], photos[7]]) == [first, [], last]


def test_a_batch_sorts_by_word_then_query() -> None:
    def query(words: list[int], code: int) -> Any:
        codes = np.array([[code * 10 + word] for word in words], np.uint64)
        return search.Aggregated(words=np.array(words, np.int32), codes=codes)

    parts = [query([2, 5], 1), query([1, 5, 9], 2), query([5], 3)]
    batch = make_batch(parts, [np.ones(len(part.words), np.float32) for part in parts], [1.0, 2.0, 3.0])
    assert batch.words.tolist() == [1, 2, 5, 9] and batch.starts.tolist() == [0, 1, 2, 5, 6]
    assert batch.owners.tolist() == [1, 0, 0, 1, 2, 1]
    assert batch.codes[:, 0].tolist() == [21, 12, 15, 25, 35, 29] and len(batch) == 3
