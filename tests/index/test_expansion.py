"""Expansion against plain loops in float64, and what it must never do."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index import Aggregated, Hit, Index, IndexConfig, search
from ctxdeploy.index.expansion import expansion, unrelated

SETTINGS = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Make = Callable[..., Any]


def make_scenes(count: int, dim: int, seed: int, length: int = 30) -> dict[str, Any]:
    """Return photos; three of a scene share most descriptors, but for noise, the first of them all."""
    rng = np.random.default_rng(seed)
    scenes = rng.normal(size=(-(-count // 3), length, dim))
    photos = {}
    for number in range(count):
        shared = length - length // 5 * (number % 3)
        own = rng.normal(size=(length - shared, dim))
        drawn = np.concatenate([scenes[number // 3, :shared], own]) + 0.2 * rng.normal(size=(length, dim))
        photos[f"{number:03d}"] = drawn.astype(np.float32)
    return photos


def write(path: Path, codebook: Any, photos: dict[str, Any], config: IndexConfig) -> Path:
    with Index.create(path, codebook, config=config) as index:
        for name, vectors in photos.items():
            index.add(name, vectors)
    return path


def expanded(
    score: Callable[[Any], dict[str, float]], asked: Any, own: float, stored: dict[str, Any], count: int, unit: float
) -> dict[str, float]:
    """Return the scores of an expanded query as the formula says."""
    total = score(asked)
    hits = sorted((name for name, value in total.items() if value > 0), key=lambda name: (-total[name], name))
    hits = hits[: count + 4]
    copies = [name for name in hits if total[name] >= 0.3 * own]
    others = [name for name in hits if name not in copies][:count]
    weights = {
        name: min(max(total[name] / unit - 1, 0), 1) * min(2 * total[name] / total[others[0]], 1) for name in others
    }
    result = dict(total)
    for name, weight in weights.items():
        for other, value in score(stored[name]).items():
            result[other] += weight * value
    for name in copies:
        result[name] += sum(weights.values())
    return {name: value for name, value in result.items() if value > 0}


@pytest.mark.parametrize(("binary", "alpha"), [(True, 3.0), (False, 3.0), (True, 4.0)])
def test_expansion_is_what_the_formula_says(
    load_reference: Make, make_codebook: Make, tmp_path: Path, binary: bool, alpha: float
) -> None:
    reference = load_reference("asmk_reference")
    dim, codebook = 32, make_codebook(words=24, dim=32)
    photos = make_scenes(15, dim, 1, length=10)
    mean = sum(math.comb(dim, h) * max(1 - 2 * h / dim, 0) ** alpha for h in range(dim + 1)) / 2**dim

    def aggregate(vectors: Any, words: int) -> Any:
        return reference.aggregate(vectors, codebook.centroids, words, binary=binary)

    def score(asked: Any) -> dict[str, float]:
        values = reference.scores(asked, list(stored.values()), binary=binary, alpha=alpha)
        return dict(zip(stored, values, strict=True))

    stored = {name: aggregate(vectors, 1) for name, vectors in photos.items()}
    weighed = 0
    config = IndexConfig(binary=binary, alpha=alpha, shard_images=6)
    with Index.open(write(tmp_path / "a", codebook, photos, config)) as index:
        for query in (photos["000"], photos["005"], photos["004"] + np.float32(0.1)):
            asked, plain = aggregate(query, 5), index.search(query, 99)
            own = reference.scores(asked, [aggregate(query, 1)], binary=binary, alpha=alpha)[0]
            for count, unit in ((1, None), (3, None), (6, None), (6, 0.5 * max(hit.score for hit in plain[1:]))):
                found = {hit.name: hit.score for hit in index.search(query, 99, expand=count, unit=unit)}
                wanted = expanded(score, asked, own, stored, count, unit or 0.107 * math.sqrt(mean))
                assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
                weighed += found != pytest.approx({hit.name: hit.score for hit in plain}, rel=1e-3)
    assert weighed > 3


@given(
    shard_images=st.integers(1, 40),
    threads=st.integers(1, 3),
    binary=st.booleans(),
    dim=st.sampled_from([20, 128]),
    idf=st.booleans(),
    count=st.integers(1, 6),
    top=st.integers(1, 40),
    seed=st.integers(0, 3),
)
@SETTINGS
def test_shards_threads_and_company_change_nothing(
    make_codebook: Make,
    tmp_path_factory: Any,
    shard_images: int,
    threads: int,
    binary: bool,
    dim: int,
    idf: bool,
    count: int,
    top: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("expansion")
    photos, codebook = make_scenes(36, dim, seed), make_codebook(words=40, dim=dim)
    whole = write(folder / "whole", codebook, photos, IndexConfig(binary=binary, idf=idf))
    config = IndexConfig(binary=binary, idf=idf, shard_images=shard_images)
    split = write(folder / "split", codebook, dict(sorted(photos.items(), reverse=True)), config)
    queries = [*list(photos.values())[:9], "010", "011", np.empty((0, dim), np.float32)]
    with Index.open(whole, threads=1) as index:
        queries.append(index.aggregated(["012"])[0])
        expected = [index.search(query, top, expand=count) for query in queries]
    with pytest.MonkeyPatch.context() as patch, Index.open(split, threads=threads) as index:
        assert [index.search(query, top, expand=count) for query in queries[:2]] == expected[:2]
        patch.setattr(search, "TOGETHER", 2)
        patch.setattr(search, "GROUP", 7)
        patch.setattr(search, "GROUP_PHOTOS", 11)
        patch.setattr(search, "MIN_PHOTOS", 3)
        assert index.search_batch(queries, top, expand=count) == expected


def test_a_photo_without_a_partner_is_not_expanded(make_codebook: Make, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def draw() -> Aggregated:
        words = np.sort(rng.choice(1000, 300, replace=False)).astype(np.int32)
        return Aggregated(words=words, codes=rng.integers(0, 1 << 64, (300, 2), dtype=np.uint64))

    with Index.create(tmp_path / "a", make_codebook(words=1000)) as index:
        for number in range(40):
            index.add_aggregated(f"{number:03d}", draw())
        for query in (draw(), "007"):
            plain = index.search(query, 99)
            assert len(plain) == 40 and index.search(query, 99, expand=5) == plain


def test_the_querys_own_photo_changes_no_other_score(make_codebook: Make, tmp_path: Path) -> None:
    photos, codebook = make_scenes(30, 128, 2), make_codebook(words=200)
    query = photos.pop("004")
    without = write(tmp_path / "without", codebook, photos, IndexConfig())
    with_it = write(tmp_path / "with", codebook, {**photos, "004": query, "copy": query}, IndexConfig())
    with Index.open(without) as left, Index.open(with_it) as right:
        expected = left.search(query, 99, expand=3)
        assert [hit.name for hit in expected] != [hit.name for hit in left.search(query, 99)]
        found = right.search(query, 99, expand=3)
        assert [hit.name for hit in found[:2]] == ["004", "copy"] and found[2:] == expected
        names = [name for name in right.names() if name not in ("004", "copy")]
        assert right.search(query, 99, expand=3, among=names) == expected


def test_hits_that_are_known_are_not_searched_for_again(
    make_codebook: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_scenes(30, 128, 3)
    with Index.open(write(tmp_path / "a", make_codebook(words=200), photos, IndexConfig())) as index:
        queries: list[Any] = [photos["004"], "011"]
        expected = index.search_batch(queries, 20, expand=3)
        searches = list[int]()
        combined = search.Searcher.search_combined

        def counted(self: Any, combinations: Any, top: int, **others: Any) -> Any:
            searches.append(top)
            return combined(self, combinations, top, **others)

        monkeypatch.setattr(search.Searcher, "search_combined", counted)
        for depth, wanted in ((7, [20]), (30, [20]), (6, [7, 20])):
            known = index.search_batch(queries, depth)
            searches.clear()
            assert index.search_batch(queries, 20, expand=3, first=(depth, known)) == expected
            assert searches == wanted


def test_without_expansion_nothing_changes(make_photos: Make, make_archive: Make) -> None:
    photos = make_photos(12)
    with Index.open(make_archive(photos)) as index:
        assert index.search(photos[0], expand=0) == index.search(photos[0])
        for wrong in (-1, 65, True, 2.0, "3"):
            with pytest.raises(ConfigError, match=r"give --expand as a whole number in 0\.\.64"):
                index.search(photos[0], expand=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dim", "alpha", "threshold"), [(8, 3.0, 0.0), (64, 2.5, 0.1), (128, 3.0, -0.5)])
def test_what_unrelated_photos_score(dim: int, alpha: float, threshold: float) -> None:
    rng = np.random.default_rng(0)
    similarity = 1 - 2 * rng.binomial(dim, 0.5, 2_000_000) / dim
    counted = np.where((similarity >= threshold) & (similarity > 0), np.maximum(similarity, 0) ** alpha, 0)
    scoring = IndexConfig(alpha=alpha, threshold=threshold).scoring()
    assert unrelated(scoring, dim) == pytest.approx(0.107 * math.sqrt(counted.mean()), rel=0.01)


def test_no_dimension_is_too_large_and_no_photo_passes_a_threshold_of_one() -> None:
    assert 0 < unrelated(IndexConfig().scoring(), 4096) < unrelated(IndexConfig().scoring(), 128)
    assert (
        expansion([Hit("a", 0.01)], 0.5, 1, unrelated(IndexConfig(threshold=1.0, alpha=3).scoring(), 128)).copies == []
    )
    assert expansion([Hit("a", 0.5)], 0.5, 1, 0.0).asking == []


def test_a_weak_hit_does_not_ask_with_the_weight_of_a_strong_one() -> None:
    """Views of the moon at 0.12, a photo of coins at 0.005, which is twice what unrelated photos score."""
    hits = [Hit("moon", 0.12), Hit("moon too", 0.06), Hit("coins", 0.005), Hit("sand", 0.002)]
    asking = expansion(hits, 1.0, 5, 0.0025).asking
    assert asking == [("moon", 1.0), ("moon too", 1.0), ("coins", pytest.approx(0.005 / 0.06))]
    assert expansion(hits[2:], 1.0, 5, 0.0025).asking == [("coins", 1.0)]


@pytest.mark.parametrize("units", [[0.0], [float("nan")], [float("inf")], [], [0.1, 0.1]])
def test_units_that_are_refused(make_codebook: Make, tmp_path: Path, units: list[float]) -> None:
    photos = make_scenes(4, 32, 0)
    with (
        Index.open(write(tmp_path / "a", make_codebook(words=8, dim=32), photos, IndexConfig())) as index,
        pytest.raises(ConfigError, match="of 1 query"),
    ):
        index.search_batch(["000"], expand=1, units=units)
