"""Geometry: what comes back, how exactly, for how many bytes; and that it survives compaction, merging and damage."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.core.errors import ArchiveError, ConfigError, MismatchError
from ctxdeploy.core.files import piece_bytes
from ctxdeploy.core.types import LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import Codebook, Features, Index, IndexConfig
from ctxdeploy.index.storage.format import decode, encode
from ctxdeploy.index.storage.positions import features_of, pack_features, unpack_features

POSITIONS = IndexConfig(geometry="positions", shard_images=4)
KEPT = ["positions", "codes", "descriptors"]
SIZE = (4000, 3000)


def features(vectors: Any, seed: int = 0) -> dict[str, Any]:
    """Return positions in a photo of 4000×3000 pixels and HOW's scales."""
    rng = np.random.default_rng(seed)
    scales = rng.choice([2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25], len(vectors))
    return {"positions": rng.random((len(vectors), 2)) * SIZE, "scales": scales}


def expected(codebook: Codebook, vectors: Any, facts: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return words, positions and scales by rising word."""
    words = codebook.assign(vectors)[:, 0]
    order = np.argsort(words, kind="stable")
    return words[order], facts["positions"][order], facts["scales"][order]


def check(index: Index, name: str, wanted: tuple[Any, Any, Any]) -> Features:
    """Compare a photo's features with what was given."""
    found = index.features(name)
    assert found is not None and len(found) == len(wanted[0])
    assert (found.words.dtype, found.positions.dtype, found.scales.dtype) == (np.int32, np.float32, np.float32)
    assert np.array_equal(found.words, wanted[0])
    assert np.allclose(found.positions, wanted[1], rtol=0, atol=4000 / 65535)
    assert np.allclose(found.scales, wanted[2], rtol=5e-4, atol=0)
    return found


def check_kept(found: Features, codebook: Codebook, vectors: Any, geometry: str, size: tuple[int, int] | None) -> None:
    """Compare codes, size and vectors with what follows from the descriptors, bit by bit and in float64."""
    assert (found.codes is None, found.size) == ((True, None) if geometry == "positions" else (False, size))
    assert (found.vectors is None) == (geometry != "descriptors")
    ordered = vectors[np.argsort(codebook.assign(vectors)[:, 0], kind="stable")] if len(vectors) else vectors
    if found.codes is not None:
        assert (found.codes.dtype, found.codes.shape) == (np.uint64, (len(vectors), -(-codebook.dim // 64)))
        for row, word, code in zip(ordered, found.words, found.codes, strict=True):
            number = sum(int(part) << 64 * column for column, part in enumerate(code))
            signs = [float(a) - float(b) > 0 for a, b in zip(row, codebook.centroids[word], strict=True)]
            assert number == sum(int(sign) << d for d, sign in enumerate(signs))
    if found.vectors is not None:
        assert found.vectors.dtype == np.float32 and found.vectors.shape == ordered.shape
        half_a_step = np.abs(ordered).max(axis=1, keepdims=True, initial=0.0) / 254
        assert (np.abs(found.vectors - ordered) <= half_a_step * 1.0001).all()


@pytest.fixture
def photos(make_photos: Any) -> Any:
    """Return ten photos of 16 dimensions, one without descriptors."""
    return make_photos(10, 16)


def fill(path: Path, codebook: Codebook, photos: Any, config: IndexConfig, first: int = 0) -> None:
    """Write an archive of photos "000" onwards; the size of every third is not known."""
    with Index.create(path, codebook, config=config) as index:
        for number, vectors in enumerate(photos, first):
            size = None if number % 3 == 2 else (4000 + number, 3000)
            index.add(f"{number:03d}", vectors, **features(vectors, number), size=size)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("geometry", KEPT)
def test_round_trip_through_compaction_and_merging(
    tmp_path: Path, photos: Any, make_codebook: Any, geometry: str, binary: bool
) -> None:
    codebook = make_codebook(dim=16)
    config = IndexConfig(geometry=geometry, shard_images=4, binary=binary)
    fill(tmp_path / "a", codebook, photos[:6], config)
    fill(tmp_path / "b", codebook, photos[6:], config, 6)
    given = {f"{number:03d}": (vectors, number) for number, vectors in enumerate(photos)}

    def check_all(index: Index) -> None:
        for name in index.names():
            vectors, seed = given[name]
            found = check(index, name, expected(codebook, vectors, features(vectors, seed)))
            check_kept(found, codebook, vectors, geometry, None if seed % 3 == 2 else (4000 + seed, 3000))

    with Index.open(tmp_path / "a", writable=True) as index:
        index.merge(tmp_path / "b")
        index.commit()
        assert len(list(index.names())) == 10
        check_all(index)
        index.snapshot("all")
        index.remove(["000", "007"])
        index.add("001", photos[5], replace=True, **features(photos[5], 99), size=(4099, 3000))
        index.compact(purge=True)
        index.collect_garbage()
    with Index.open(tmp_path / "a", at="all") as index:
        check_all(index)
        before = index.info()["features"]
    given["001"] = photos[5], 99
    sizes = {"positions": 8, "codes": 16, "descriptors": 16 + 16 + 4}
    with Index.open(tmp_path / "a") as index:
        assert index.verify() == []
        check_all(index)
        count = sum(len(given[name][0]) for name in index.names())
        assert index.info()["features"] == {"kept": geometry, "count": count, "bytes_each": sizes[geometry]}
        assert index.info()["format_version"] == (2 if geometry == "positions" else 3)
        for name in ("000", "007", "unknown"):
            with pytest.raises(ConfigError, match="is not in"):
                index.features(name)
    assert before["count"] == sum(map(len, photos))


def test_features_of_a_photo_from_a_file_are_those_of_a_query(tmp_path: Path, photos: Any, make_codebook: Any) -> None:
    codebook = make_codebook(dim=16)
    fill(tmp_path / "a", codebook, photos, IndexConfig(geometry="codes"))
    with Index.open(tmp_path / "a") as index:
        for number, vectors in enumerate(photos):
            facts = {name: values.astype(np.float32) for name, values in features(vectors, number).items()}
            stored, asked = index.features(f"{number:03d}"), index.features(LocalDescriptors(vectors=vectors, **facts))
            assert stored is not None and asked is not None and asked.size is None
            assert np.array_equal(stored.words, asked.words) and np.array_equal(stored.codes, asked.codes)


@pytest.mark.parametrize("dim", [16, 128])
def test_bytes_per_feature(tmp_path: Path, make_codebook: Any, dim: int) -> None:
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(1000, dim)) for _ in range(20)]
    sizes = {}
    for geometry in ("none", *KEPT):
        path = tmp_path / geometry
        config = IndexConfig(geometry=geometry)
        with Index.create(path, make_codebook(dim=dim), config=config) as index:
            for number, array in enumerate(vectors):
                index.add(str(number), array, positions=rng.random((1000, 2)) * 4000)
        sizes[geometry] = sum(file.stat().st_size for file in (path / "shards").iterdir())
        each = (sizes[geometry] - sizes["none"]) / 20_000
        assert config.feature_bytes(dim) <= each <= config.feature_bytes(dim) + (geometry != "none") * 0.1
    assert [IndexConfig(geometry=geometry).feature_bytes(128) for geometry in ("none", *KEPT)] == [0, 8, 24, 156]


def test_true_and_false_stand_for_codes_and_none(tmp_path: Path, make_codebook: Any) -> None:
    assert [IndexConfig(geometry=value).geometry for value in (True, False)] == ["codes", "none"]  # type: ignore[arg-type]
    for value in (1, None, "Codes", ["codes"], ""):
        with pytest.raises(ConfigError, match="is not one of none, positions, codes, descriptors"):
            IndexConfig(geometry=value)  # type: ignore[arg-type]
    assert IndexConfig(geometry="codes").keeps("positions") and not IndexConfig(geometry="codes").keeps("descriptors")


@pytest.mark.parametrize(
    ("geometry", "needed", "text"),
    [
        (
            "none",
            "codes",
            "{} keeps nothing of .* --verify compares their codes: .* --geometry$",
        ),
        (
            "positions",
            "codes",
            "{} keeps no codes of .* --verify compares their codes: .* --geometry$",
        ),
        ("codes", "descriptors", "{} keeps no descriptors of .* -o NEW --geometry descriptors$"),
        ("descriptors", "codes", ""),
        ("codes", "codes", ""),
    ],
)
def test_an_archive_that_keeps_too_little_says_what_to_do(
    tmp_path: Path, make_codebook: Any, geometry: str, needed: str, text: str
) -> None:
    with Index.create(tmp_path / "a", make_codebook(dim=16), config=IndexConfig(geometry=geometry)) as index:
        if not text:
            index.check_keeps(needed, "--verify")
            return
        with pytest.raises(ConfigError, match=text.format(tmp_path / "a")) as caught:
            index.check_keeps(needed, "--verify")
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("here", "there"), [("codes", "positions"), ("none", "codes"), ("codes", "descriptors")])
def test_archives_that_keep_different_geometry_are_not_merged(
    tmp_path: Path, photos: Any, make_codebook: Any, here: str, there: str
) -> None:
    for name, geometry in (("a", here), ("b", there)):
        fill(tmp_path / name, make_codebook(dim=16), photos[:2], IndexConfig(geometry=geometry))
    with (
        Index.open(tmp_path / "a", writable=True) as index,
        pytest.raises(MismatchError, match=f"geometry is {here} here and {there} there; .* one --geometry"),
    ):
        index.merge(tmp_path / "b")


def test_a_shard_is_of_the_lowest_format_that_can_hold_it(tmp_path: Path, photos: Any, make_codebook: Any) -> None:
    for geometry, version in (("none", "2"), ("positions", "2"), ("codes", "3"), ("descriptors", "3")):
        fill(tmp_path / geometry, make_codebook(dim=16), photos[:3], IndexConfig(geometry=geometry))
        (shard,) = (tmp_path / geometry / "shards").iterdir()
        assert decode(shard.read_bytes(), "x")[1]["format_version"] == version


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((0, 5), "has a side outside"),
        ((5, 1 << 32), "has a side outside"),
        ((5,), "is not a pair"),
        ((5.0, 6.0), "is not a pair"),
        (5, "is not a pair"),
        ("ab", "is not a pair"),
    ],
)
def test_impossible_sizes(tmp_path: Path, make_codebook: Any, size: Any, text: str) -> None:
    with Index.create(tmp_path / "a", make_codebook(dim=16), config=IndexConfig(geometry="codes")) as index:
        with pytest.raises(ConfigError, match=text):
            index.add("a", np.ones((1, 16)), positions=np.zeros((1, 2)), size=size)
        assert len(index) == 0


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
    centroids = np.zeros((65536, 1), np.float32)
    found = unpack_features(pack_features(features_of(descriptors, words, centroids), "positions"))
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
    with Index.create(tmp_path / "a", make_codebook(dim=16), config=POSITIONS) as index:
        with pytest.raises(ConfigError, match=text):
            index.add("a", np.ones((3, 16)), **facts)
        with pytest.raises(ConfigError, match="the archive keeps geometry: add descriptors with positions"):
            index.add_aggregated("a", index.aggregate(np.ones((3, 16))))
        assert len(index) == 0


def test_too_many_words(tmp_path: Path) -> None:
    codebook = Codebook.from_centroids(np.arange(65537, dtype=np.float32)[:, None])
    with pytest.raises(ConfigError, match="geometry holds words up to 65536, but the codebook has 65537"):
        Index.create(tmp_path / "a", codebook, config=POSITIONS)
    assert not (tmp_path / "a").exists()


def test_positions_come_with_the_descriptors(tmp_path: Path, make_codebook: Any, photos: Any) -> None:
    codebook = make_codebook(dim=16)
    facts = features(photos[0])
    local = SimpleNamespace(vectors=photos[0], **facts)
    with Index.create(tmp_path / "a", codebook, config=POSITIONS) as index:
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
    with Index.create(
        tmp_path / "a", make_codebook(dim=16), config=IndexConfig(geometry="descriptors", binary=binary)
    ) as index:
        index.add("a", photos[0], **features(photos[0]))
        index.add("b", photos[1], **features(photos[1]))
    (shard,) = (tmp_path / "a" / "shards").iterdir()
    arrays, metadata = decode(shard.read_bytes(), "x")
    falling = arrays["geometry_words"].copy()
    falling[len(photos[0]) - 1] = 0
    for name, value, text in (
        ("geometry_words", falling, "geometry_words do not rise within every photo"),
        ("geometry_codes", 1 << 16, "geometry_codes have bits set beyond the dimension"),
        ("geometry_sizes", np.array([7, 0], np.uint32), "geometry_sizes hold a width without a height"),
        ("geometry_steps", np.nan, "geometry_steps hold NaN"),
        ("geometry_steps", -1.0, "geometry_steps hold NaN, infinity or a number below 0"),
        ("geometry_words", 64, "geometry_words holds 64, but there are 64 words"),
        ("geometry_frames", np.nan, "geometry_frames hold NaN"),
    ):
        changed = {**arrays, name: np.full_like(arrays[name], 0) + np.asarray(value, arrays[name].dtype)}
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


def test_a_flipped_bit_in_a_descriptor_is_found_and_repaired(tmp_path: Path, photos: Any, make_codebook: Any) -> None:
    codebook, config = make_codebook(dim=16), IndexConfig(geometry="descriptors", shard_images=4)
    fill(tmp_path / "a", codebook, photos, config)
    with Index.open(tmp_path / "a") as index:
        first = index.state.shards[0].path
    data = bytearray(first.read_bytes())
    arrays, _ = decode(bytes(data), "x")
    vectors = arrays["geometry_vectors"]
    place = bytes(data).index(vectors.tobytes())
    data[place + vectors.size // 2] ^= 1
    first.write_bytes(data)
    with Index.open(tmp_path / "a") as index:
        assert any(first.name in problem for problem in index.verify())
    assert list(Index.repair(tmp_path / "a").lost) == [f"{number:03d}" for number in range(4)]
    with Index.open(tmp_path / "a") as index:
        assert index.verify() == [] and len(index) == 6
        for number, vectors in enumerate(photos[4:], 4):
            found = check(index, f"{number:03d}", expected(codebook, vectors, features(vectors, number)))
            check_kept(found, codebook, vectors, "descriptors", None if number % 3 == 2 else (4000 + number, 3000))


@pytest.mark.parametrize("tensor", ["geometry_codes", "geometry_sizes", "geometry_vectors", "geometry_steps"])
def test_a_tensor_of_another_length_or_type_does_not_open(
    tmp_path: Path, photos: Any, make_codebook: Any, tensor: str
) -> None:
    fill(tmp_path / "a", make_codebook(dim=16), photos[:3], IndexConfig(geometry="descriptors"))
    (shard,) = (tmp_path / "a" / "shards").iterdir()
    arrays, metadata = decode(shard.read_bytes(), "x")
    whole = {name: np.array(array) for name, array in arrays.items()}
    wide = {"geometry_steps": np.float64, "geometry_vectors": np.uint8}.get(tensor, np.int64)
    without = {name: array for name, array in whole.items() if name != tensor}
    for changed, text in (
        ({**whole, tensor: whole[tensor][:-1]}, f"{tensor} is .* is needed"),
        ({**whole, tensor: whole[tensor].astype(wide)}, f"{tensor} is .* is needed"),
        (without, "its tensors are"),
    ):
        shard.write_bytes(b"".join(piece_bytes(piece) for piece in encode(changed, metadata)))
        with pytest.raises(ArchiveError, match=text):
            Index.open(tmp_path / "a")
