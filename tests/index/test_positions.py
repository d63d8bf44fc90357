"""Geometry: what comes back, how exactly, for how many bytes; and that it survives compaction, merging and damage."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.files import piece_bytes
from ctxdeploy.core.types import LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import Codebook, Index, IndexConfig
from ctxdeploy.index.storage.format import decode, encode
from ctxdeploy.index.storage.positions import pack_positions, unpack_positions

CONFIG = IndexConfig(geometry=True, shard_images=4)


def features(vectors: Any, seed: int = 0) -> dict[str, Any]:
    """Return positions in a photo of 4000×3000 pixels and HOW's scales."""
    rng = np.random.default_rng(seed)
    scales = rng.choice([2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25], len(vectors))
    return {"positions": rng.random((len(vectors), 2)) * (4000, 3000), "scales": scales}


def expected(codebook: Codebook, vectors: Any, facts: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return words, positions and scales by rising word."""
    words = codebook.assign(vectors)[:, 0]
    order = np.argsort(words, kind="stable")
    return words[order], facts["positions"][order], facts["scales"][order]


def check(index: Index, name: str, wanted: tuple[Any, Any, Any]) -> None:
    """Compare a photo's geometry with what was given."""
    found = index.features(name)
    assert found is not None and len(found) == len(wanted[0])
    assert (found.words.dtype, found.positions.dtype, found.scales.dtype) == (np.int32, np.float32, np.float32)
    assert np.array_equal(found.words, wanted[0])
    assert np.allclose(found.positions, wanted[1], rtol=0, atol=4000 / 65535)
    assert np.allclose(found.scales, wanted[2], rtol=5e-4, atol=0)


@pytest.fixture
def photos(make_photos: Any) -> Any:
    """Return ten photos of 16 dimensions, one without descriptors."""
    return make_photos(10, 16)


def fill(path: Path, codebook: Codebook, photos: Any, first: int = 0) -> None:
    """Write an archive of photos "000" onwards."""
    with Index.create(path, codebook, config=CONFIG) as index:
        for number, vectors in enumerate(photos, first):
            index.add(f"{number:03d}", vectors, **features(vectors, number))


def test_round_trip_through_compaction_and_merging(tmp_path: Path, photos: Any, make_codebook: Any) -> None:
    codebook = make_codebook(dim=16)
    fill(tmp_path / "a", codebook, photos[:6])
    fill(tmp_path / "b", codebook, photos[6:], 6)
    wanted = {
        f"{number:03d}": expected(codebook, vectors, features(vectors, number)) for number, vectors in enumerate(photos)
    }
    with Index.open(tmp_path / "a", writable=True) as index:
        index.merge(tmp_path / "b")
        index.commit()
        for name, facts in wanted.items():
            check(index, name, facts)
        index.remove(["000", "007"])
        index.add("001", photos[5], replace=True, **features(photos[5], 99))
        index.compact(purge=True)
        index.collect_garbage()
    wanted["001"] = expected(codebook, photos[5], features(photos[5], 99))
    with Index.open(tmp_path / "a") as index:
        assert index.verify() == []
        for name in index.names():
            check(index, name, wanted[name])
        for name in ("000", "007", "unknown"):
            with pytest.raises(ConfigError, match="is not in"):
                index.features(name)


def test_bytes_per_feature(tmp_path: Path, make_codebook: Any) -> None:
    rng = np.random.default_rng(0)
    sizes = []
    for geometry in (False, True):
        path = tmp_path / str(geometry)
        with Index.create(path, make_codebook(dim=16), config=IndexConfig(geometry=geometry)) as index:
            for number in range(20):
                index.add(str(number), rng.normal(size=(1000, 16)), positions=rng.random((1000, 2)) * 4000)
        sizes.append(sum(file.stat().st_size for file in (path / "shards").iterdir()))
    assert 8 <= (sizes[1] - sizes[0]) / 20_000 <= 9


@given(
    st.lists(
        st.tuples(
            st.integers(0, 65535),
            st.floats(-9e8, 9e8, width=32),
            st.floats(-9e8, 9e8, width=32),
            st.floats(6.2e-5, 65504.0),
        ),
        max_size=30,
    )
)
def test_precision(rows: list[tuple[int, float, float, float]]) -> None:
    words = np.array([row[0] for row in rows], np.int32)
    places = np.array([row[1:3] for row in rows], np.float32).reshape(len(rows), 2)
    scales = np.array([row[3] for row in rows], np.float32)
    descriptors = LocalDescriptors(vectors=np.zeros((len(rows), 1), np.float32), positions=places, scales=scales)
    found = unpack_positions(pack_positions(words, descriptors, "x"))
    order = np.argsort(words, kind="stable")
    assert np.array_equal(found.words, words[order])
    places = places.astype(np.float64)
    extent = np.ptp(places, axis=0) if rows else np.zeros(2)
    # Half a step, and what float32 itself cannot hold.
    tolerance = extent / 65535 * 0.51 + np.abs(places).max(axis=0, initial=0.0) * 2.5e-7
    assert (np.abs(found.positions - places[order]) <= tolerance + 1e-30).all()
    assert np.allclose(found.scales, scales[order], rtol=5e-4, atol=0)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, r"give positions \(n×2\)"),
        ({"positions": np.zeros((2, 2))}, "3 descriptors, but positions of shape"),
        ({"positions": np.zeros((3, 3))}, "3 descriptors, but positions of shape"),
        ({"positions": np.zeros((3, 2)), "scales": np.ones(2)}, "scales of"),
        ({"positions": np.full((3, 2), np.nan)}, "give positions"),
        ({"positions": np.array([[0, 0], [0, np.nan], [1, 1]])}, "positions must be below"),
        ({"positions": np.full((3, 2), 1e9)}, "positions must be below"),
        ({"positions": np.zeros((3, 2)), "scales": np.zeros(3)}, "scales in"),
        ({"positions": np.zeros((3, 2)), "scales": np.full(3, 1e5)}, "scales in"),
        ({"positions": np.zeros((3, 2)), "scales": np.full(3, np.nan)}, "scales in"),
    ],
)
def test_refused(tmp_path: Path, make_codebook: Any, facts: dict[str, Any], text: str) -> None:
    with Index.create(tmp_path / "a", make_codebook(dim=16), config=CONFIG) as index:
        with pytest.raises(ConfigError, match=text):
            index.add("a", np.ones((3, 16)), **facts)
        with pytest.raises(ConfigError, match="the archive keeps geometry: add descriptors with positions"):
            index.add_aggregated("a", index.aggregate(np.ones((3, 16))))
        assert len(index) == 0


def test_too_many_words(tmp_path: Path) -> None:
    codebook = Codebook.from_centroids(np.arange(65537, dtype=np.float32)[:, None])
    with pytest.raises(ConfigError, match="geometry holds words up to 65536, but the codebook has 65537"):
        Index.create(tmp_path / "a", codebook, config=CONFIG)
    assert not (tmp_path / "a").exists()


def test_positions_come_with_the_descriptors(tmp_path: Path, make_codebook: Any, photos: Any) -> None:
    codebook = make_codebook(dim=16)
    facts = features(photos[0])
    local = SimpleNamespace(vectors=photos[0], **facts)
    with Index.create(tmp_path / "a", codebook, config=CONFIG) as index:
        index.add("object", local)
        index.add("given", local, positions=facts["positions"] / 2)
        given = {name: values.astype(np.float32) for name, values in facts.items()}
        described = LocalDescriptors(vectors=photos[0], **given)
        index.add_many([PhotoDescriptors(name="many", descriptors=described), ("pair", local)])
        index.add("plain", photos[0], positions=facts["positions"])
        index.add("none", np.empty((0, 16)), positions=np.empty((0, 2)))
        wanted = expected(codebook, photos[0], facts)
        index.commit()
        for name in ("object", "many", "pair"):
            check(index, name, wanted)
        check(index, "given", (wanted[0], wanted[1] / 2, wanted[2]))
        check(index, "plain", (wanted[0], wanted[1], np.ones(len(photos[0]))))
        check(index, "none", (np.empty(0), np.empty((0, 2)), np.empty(0)))


def test_an_archive_without_geometry_takes_positions_and_has_none(make_archive: Any, photos: Any) -> None:
    path = make_archive(photos)
    with Index.open(path, writable=True) as index:
        index.add("x", photos[0], **features(photos[0]))
        index.commit()
        assert index.features("x") is None and index.features("000") is None


@pytest.mark.parametrize("binary", [True, False])
def test_damage_is_found(tmp_path: Path, make_codebook: Any, photos: Any, binary: bool) -> None:
    with Index.create(tmp_path / "a", make_codebook(dim=16), config=IndexConfig(geometry=True, binary=binary)) as index:
        index.add("a", photos[0], **features(photos[0]))
    (shard,) = (tmp_path / "a" / "shards").iterdir()
    arrays, metadata = decode(shard.read_bytes(), "x")
    for name, value, text in (
        ("geometry_words", 64, "geometry_words holds 64, but there are 64 words"),
        ("geometry_frames", np.nan, "geometry_frames hold NaN"),
    ):
        changed = {**arrays, name: np.full_like(arrays[name], value)}
        shard.write_bytes(b"".join(piece_bytes(piece) for piece in encode(changed, metadata)))
        with Index.open(tmp_path / "a") as index:
            assert index.features("a") is not None, "any bits are some geometry"
            assert any(text in problem for problem in index.verify())


def test_features_of_a_query(tmp_path: Path, make_codebook: Any, photos: Any) -> None:
    codebook = make_codebook(dim=16)
    facts = features(photos[0])
    given = {name: values.astype(np.float32) for name, values in facts.items()}
    query = LocalDescriptors(vectors=photos[0], **given)
    words, positions, scales = expected(codebook, photos[0], given)
    vectors = photos[0][np.argsort(codebook.assign(photos[0])[:, 0], kind="stable")]
    with Index.create(tmp_path / "a", codebook) as index:
        found = index.features(query, size=(4000, 3000))
        nothing = index.features(LocalDescriptors(vectors=np.empty((0, 16), np.float32)))
        with pytest.raises(ConfigError, match=r"'query': .* give positions \(n×2\)"):
            index.features(LocalDescriptors(vectors=photos[0]))
        with pytest.raises(ConfigError, match="query: descriptors have dimension 3"):
            index.features(LocalDescriptors(vectors=np.ones((2, 3), np.float32)))
    assert found is not None and found.codes is not None and found.vectors is not None and found.size == (4000, 3000)
    assert np.array_equal(found.words, words) and np.array_equal(found.positions, positions)
    assert np.array_equal(found.scales, scales) and np.array_equal(found.vectors, vectors)
    signs = vectors.astype(np.float64) - codebook.centroids[words].astype(np.float64) > 0
    assert found.codes.shape == (len(words), 1)
    for code, bits in zip(found.codes[:, 0], signs, strict=True):
        assert [bool(int(code) >> d & 1) for d in range(64)] == [*bits, *[False] * 48]
    assert nothing is not None and len(nothing) == 0
