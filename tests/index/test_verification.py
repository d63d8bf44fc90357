"""Maps that verification finds, and the ranking by them, beside plain loops in float64."""

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Box
from ctxdeploy.index import Features, Hit, SearchThreads, Verification, VerificationConfig, rank, verify
from ctxdeploy.index.kernels import matches as match_kernels
from ctxdeploy.index.kernels import verification as kernels
from tests.reference import verification as reference

KINDS = ("words", "codes", "descriptors")
SCALES = np.array([0.353, 0.5, 0.707, 1.0, 1.414], np.float32)


def features(rng: np.random.Generator, count: int = 120, size: tuple[int, int] = (640, 480)) -> Features:
    return Features(
        words=np.sort(rng.integers(0, 400, count)).astype(np.int32),
        positions=(rng.random((count, 2)) * size).astype(np.float32),
        scales=rng.choice(SCALES, count),
        codes=rng.integers(0, 1 << 63, (count, 2)).astype(np.uint64) << np.uint64(1),
        vectors=rng.standard_normal((count, 32)).astype(np.float32),
        size=size,
    )


def seen(
    query: Features, affine: Any, rng: np.random.Generator, wrong: int = 0, size: tuple[int, int] = (4000, 4000)
) -> Features:
    """Return the photo in which a map shows a query, with some features elsewhere."""
    positions = query.positions.astype(np.float64) @ affine[:, :2].T + affine[:, 2]
    positions[rng.permutation(len(query))[:wrong]] = rng.random((wrong, 2)) * size
    ratio = np.sqrt(np.linalg.det(affine[:, :2]))
    return replace(
        query, positions=positions.astype(np.float32), scales=(query.scales / ratio).astype(np.float32), size=size
    )


def moved(scale: float, x: float, y: float, bend: float = 0.0) -> Any:
    return np.array([[scale, bend, x], [-bend, scale * 1.1, y]])


@pytest.mark.parametrize("matches", ["auto", *KINDS])
def test_a_photo_lies_in_itself_as_it_is(matches: str) -> None:
    photo = features(np.random.default_rng(0))
    found = verify(photo, [photo], VerificationConfig(matches=matches))[0]
    assert found.affine is not None
    np.testing.assert_allclose(found.affine, [[1, 0, 0], [0, 1, 0]], atol=1e-3)
    assert found.box is not None
    assert np.allclose([found.box.x0, found.box.y0, found.box.x1, found.box.y1], [0, 0, 640, 480], atol=0.1)
    assert found.inliers > 80
    np.testing.assert_array_equal(found.query_points, found.photo_points)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1 << 16), scale=st.floats(0.4, 2.5), bend=st.floats(-0.2, 0.2), wrong=st.integers(0, 60))
def test_an_affine_map_is_found_among_wrong_matches(
    kind: str, seed: int, scale: float, bend: float, wrong: int
) -> None:
    rng = np.random.default_rng(seed)
    query, affine = features(rng), moved(scale, 500, 700, bend * scale)
    found = verify(query, [seen(query, affine, rng, wrong)], VerificationConfig(matches=kind, image_size=4000))[0]
    assert found.affine is not None
    # Wrong matches that lie near by chance (less than the tolerance of 64) pull the map, at the rim most.
    expected = query.positions @ affine[:, :2].T + affine[:, 2]
    here = query.positions @ found.affine[:, :2].T + found.affine[:, 2]
    assert np.median(np.abs(here - expected)) < 32
    assert len(found.query_points) >= 0.9 * (120 - wrong)


def test_the_box_is_the_querys_part_as_the_map_has_it_within_the_photo() -> None:
    rng = np.random.default_rng(3)
    query = features(rng)
    photo = seen(query, moved(2, -100, 50), rng, size=(1000, 900))
    found = verify(query, [photo], part=Box(x0=40, y0=10, x1=640, y1=300))[0]
    assert found.box is not None
    assert np.allclose([found.box.x0, found.box.y0, found.box.x1, found.box.y1], [0, 72, 1000, 710], atol=1)
    unknown = verify(query, [replace(photo, size=None)], part=Box(x0=40, y0=10, x1=640, y1=300))[0]
    assert unknown.box is not None
    assert np.allclose([unknown.box.x0, unknown.box.x1], [-20, 1180], atol=1)


def test_the_box_of_a_small_part_is_exact_though_a_larger_one_explains_as_much() -> None:
    rng = np.random.default_rng(4)
    part = Box(x0=100, y0=100, x1=400, y1=400)
    query = features(rng)
    query = replace(query, positions=rng.uniform(100, 400, query.positions.shape).astype(np.float32))
    # Every match proposes a scale of 4/3, by which also the tenth that lies wrong, far from the middle, is explained.
    photo = replace(query, scales=(query.scales * 0.75).astype(np.float32), size=(640, 640))
    places = query.positions.copy()
    far = np.argsort(-np.linalg.norm(places - 250, axis=1))[: len(places) // 10]
    places[far] = 250 + (places[far] - 250) * 1.5
    found = verify(query, [replace(photo, positions=places)], part=part)[0]
    assert found.box is not None and len(found.query_points) >= 0.9 * len(places)
    assert np.allclose([found.box.x0, found.box.y0, found.box.x1, found.box.y1], [100, 100, 400, 400], atol=3)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_turned_query_has_a_map_that_turns(turn: int) -> None:
    rng = np.random.default_rng(turn)
    query = features(rng)
    linear = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), turn)
    affine = np.column_stack([linear * 0.8, [900, 800]])
    photo = seen(query, affine, rng, wrong=70)
    found = verify(query, [photo], VerificationConfig(turn=turn, image_size=4000))[0]
    assert found.affine is not None
    np.testing.assert_allclose(found.affine, affine, atol=8)
    assert np.abs(found.affine - affine)[:, :2].max() < 0.03


def test_large_photos_are_compared_at_the_size_at_which_features_were_found() -> None:
    rng = np.random.default_rng(5)
    query = features(rng)
    # Sixteen times as large as the network saw it: scales are those of the small photo.
    photo = replace(query, positions=query.positions * 25.6, size=(16384, 12288))
    found = verify(query, [photo])[0]
    assert found.affine is not None
    np.testing.assert_allclose(found.affine, [[25.6, 0, 0], [0, 25.6, 0]], atol=0.01)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_matches_and_maps_equal_plain_loops(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    query = features(rng, 60)
    photo = seen(query, moved(1.4, 30, -20, 0.1), rng, wrong=25, size=(900, 900))
    noise = rng.integers(0, 1 << 63, (60, 2)).astype(np.uint64) & rng.integers(0, 1 << 63, (60, 2)).astype(np.uint64)
    assert query.codes is not None and query.vectors is not None
    photo = replace(
        photo,
        codes=query.codes ^ noise,
        vectors=query.vectors + rng.standard_normal((60, 32)).astype(np.float32),
    )
    if kind == "descriptors":
        found = reference.mutual(query.vectors, photo.vectors)
        pairs = sorted(found)
        weights = [max(int(found[pair] ** 8 * reference.FULL), 1) for pair in pairs]
    else:
        codes = None if kind == "words" else query.codes
        different = reference.of_words(query.words, photo.words, codes, photo.codes, 64, 256)
        pairs = sorted(different)
        weights = [reference.FULL + (0 if kind == "words" else 64 - different[pair]) for pair in pairs]
    places = [
        [(float(x), float(y), float(s)) for (x, y), s in zip(side.positions, side.scales, strict=True)]
        for side in (query, photo)
    ]
    affine, kept, cells, weight = reference.fit(*places, pairs, weights, (0, 0, 640, 480))
    result = verify(query, [photo], VerificationConfig(matches=kind))[0]
    assert len(kept) > 10
    np.testing.assert_array_equal(result.query_points, query.positions[[pairs[i][0] for i in kept]])
    np.testing.assert_array_equal(result.photo_points, photo.positions[[pairs[i][1] for i in kept]])
    assert result.affine is not None
    np.testing.assert_allclose(result.affine.ravel(), affine, rtol=1e-4, atol=1e-2)
    assert result.inliers == cells
    assert result.similarity == pytest.approx(weight / reference.FULL, rel=2e-3)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_few_features_have_no_map(kind: str, count: int) -> None:
    rng = np.random.default_rng(0)
    photo = features(rng)
    few = Features(
        words=photo.words[:count],
        positions=photo.positions[:count],
        scales=photo.scales[:count],
        codes=None if photo.codes is None else photo.codes[:count],
        vectors=None if photo.vectors is None else photo.vectors[:count],
    )
    for query, other in ((few, photo), (photo, few), (few, few)):
        found = verify(query, [other], VerificationConfig(matches=kind))[0]
        assert found.affine is None and found.box is None
        assert found.inliers == 0 and found.similarity == 0
        assert found.query_points.shape == found.photo_points.shape == (0, 2)


@pytest.mark.parametrize("model", ["affine", "similarity"])
def test_odd_positions_give_finite_maps_or_none(model: str) -> None:
    rng = np.random.default_rng(0)
    photo = features(rng)
    count = len(photo)
    line = np.column_stack([np.arange(count), np.arange(count)]).astype(np.float32)
    unknown = photo.positions.copy()
    unknown[::2] = np.nan
    odd = [
        np.full((count, 2), 7, np.float32),
        line,
        photo.positions * np.float32(1e6),
        photo.positions - np.float32(9e8),
        np.full((count, 2), np.nan, np.float32),
        unknown,
        np.where(photo.positions > 300, np.float32(np.inf), photo.positions),
    ]
    for positions in odd:
        for size in (None, (640, 480)):
            other = replace(photo, positions=positions, size=size)
            for query, shown in ((photo, other), (other, photo), (other, other)):
                found = verify(query, [shown], VerificationConfig(model=model))[0]
                assert found.affine is None or np.isfinite(found.affine).all()
                assert 0 <= found.inliers <= 256
    line_map = verify(
        replace(photo, positions=line), [replace(photo, positions=line)], VerificationConfig(model=model)
    )[0]
    assert line_map.affine is not None
    np.testing.assert_allclose(line_map.affine, [[1, 0, 0], [0, 1, 0]], atol=1e-3)


def test_a_similarity_has_no_shear() -> None:
    rng = np.random.default_rng(1)
    query = features(rng)
    photo = seen(query, moved(1.2, 10, 20, 0.1), rng)
    affine = verify(query, [photo], VerificationConfig(model="similarity"))[0].affine
    assert affine is not None
    assert affine[0, 0] == affine[1, 1] and affine[0, 1] == -affine[1, 0]


def test_each_feature_is_in_one_match() -> None:
    rng = np.random.default_rng(0)
    query = replace(features(rng), words=np.repeat(np.arange(12), 10).astype(np.int32))
    place = np.array([[300, 300]], np.float32)
    crowd = replace(
        query, positions=(place + rng.random((120, 2)) * 20).astype(np.float32), scales=np.ones(120, np.float32)
    )
    found = verify(crowd, [crowd], VerificationConfig(matches="words"))[0]
    assert len(found.query_points) > 60
    for points in (found.query_points, found.photo_points):
        assert len(np.unique(points, axis=0)) == len(points)


def test_threads_and_company_change_nothing() -> None:
    rng = np.random.default_rng(0)
    query = features(rng)
    photos = [seen(query, moved(0.5 + i / 10, i, i), rng, wrong=8 * i) for i in range(12)]
    alone = [verify(query, [photo])[0] for photo in photos]
    for threads in (1, 2, 5):
        for found, expected in zip(verify(query, photos, threads=SearchThreads(threads)), alone, strict=True):
            assert found.inliers == expected.inliers and found.similarity == expected.similarity
            assert (found.affine is None) == (expected.affine is None)
            assert found.affine is None or np.array_equal(found.affine, np.asarray(expected.affine))


@given(
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(1, 40),
    st.integers(0, 1 << 16),
)
def test_nearest_of_both_sides(rows: int, columns: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = (rng.standard_normal((n, dim)).astype(np.float32) for n in (rows, columns))
    numbers = [match_kernels.quantised(side) for side in (left, right)]
    found, weights = match_kernels.mutual(numbers[0], rows, match_kernels.packed(numbers[1]), columns)
    if dim == 1 or not (rows and columns):  # all cosines are 1 or -1
        assert len(found) <= min(rows, columns)
        return
    expected = {pair: cosine for pair, cosine in reference.mutual(left, right).items() if cosine > 0.01}
    unsure = {pair for pair in map(tuple, found.tolist()) if pair not in expected}
    assert len(unsure) <= 1 and expected.keys() <= {*map(tuple, found.tolist())}
    for (q, p), weight in zip(found.tolist(), weights.tolist(), strict=True):
        if (q, p) in expected:
            assert abs(weight - expected[q, p] ** 8 * kernels.FULL) < 10


def test_equal_descriptors_match_once_and_the_first() -> None:
    same = np.ones((5, 8), np.float32)
    numbers = match_kernels.quantised(same)
    found, weights = match_kernels.mutual(numbers, 5, match_kernels.packed(numbers), 5)
    assert found.tolist() == [[0, 0]]
    assert weights[0] >= kernels.FULL * 0.99
    nothing = match_kernels.quantised(np.array([[0, 0], [np.nan, 1], [np.inf, 0], [1e-30, 0]], np.float32))
    assert (nothing[:3] == 0).all()


_PROGRAM = """
import hashlib, numpy as np
from ctxdeploy.index.kernels import matches, products
rng = np.random.default_rng(0)
left = rng.standard_normal((90, 37)).astype(np.float32)
right = left[::-1] + rng.standard_normal((90, 37)).astype(np.float32)
numbers = [matches.quantised(np.ascontiguousarray(side)) for side in (left, right)]
found, weights = matches.mutual(numbers[0], 90, matches.packed(numbers[1]), 90)
print(len(found), hashlib.sha256(found.tobytes() + weights.tobytes()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.long
def test_matches_are_the_same_on_other_processors(tmp_path: Any) -> None:
    machines = [
        {},
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+popcnt"},
        {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
    ]
    printed = [
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, **machine, "NUMBA_CACHE_DIR": str(tmp_path / str(number))},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for number, machine in enumerate(machines)
    ]
    assert int(printed[0].split()[0]) > 50
    assert len(set(printed)) == 1


def test_hits_that_no_map_explains_keep_their_order_and_follow() -> None:
    rng = np.random.default_rng(0)
    photo = features(rng)
    hits = [Hit("a", 0.3), Hit("b", 0.2), Hit("c", 0.1)]
    ranked = rank(hits, verify(photo, [features(rng), photo]))
    assert [hit.name for hit in ranked] == ["b", "a", "c"]
    assert [hit.score for hit in ranked] == [0.2, 0.3, 0.1]
    assert [hit.verification is None for hit in ranked] == [False, False, True]


def test_the_order_of_equal_hits_is_total() -> None:
    def found(inliers: int, similarity: float) -> Verification:
        none = np.empty((0, 2), np.float32)
        return Verification(
            inliers=inliers, affine=None, query_points=none, photo_points=none, box=None, similarity=similarity
        )

    hits = [Hit("d", 0.5), Hit("a", 0.5), Hit("c", 0.25), Hit("b", 0.5)]
    ranked = rank(hits, [found(3, 1.0), found(3, 1.0), found(3, 3.0), found(4, 1.0)])
    assert [hit.name for hit in ranked] == ["b", "a", "d", "c"]


def test_what_is_not_there_is_said() -> None:
    photo = features(np.random.default_rng(0))
    with pytest.raises(ConfigError, match="--verify-by descriptors: the features have no descriptors"):
        verify(photo, [replace(photo, vectors=None)], VerificationConfig(matches="descriptors"))
    with pytest.raises(ConfigError, match="--verify-by 'nothing' is unknown"):
        VerificationConfig(matches="nothing")
    with pytest.raises(ConfigError, match="turn 4 is not a number of quarter turns"):
        VerificationConfig(turn=4)
    with pytest.raises(ConfigError, match="32 and 16 dimensions"):
        assert photo.vectors is not None
        verify(photo, [replace(photo, vectors=photo.vectors[:, :16].copy())])
