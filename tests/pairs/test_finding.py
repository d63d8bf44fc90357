"""Pairs against all scores in plain loops: which there are, in what order, and how parts are joined."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxdeploy import PhotoIndex
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index import Index
from ctxdeploy.pairs import PairsConfig

NAMES = [f"a/{n}.jpg" for n in (1, 2, 3, 10, 11)] + [f"b/x{n}.jpg" for n in range(1, 8)] + ["solo.jpg", "é.jpg"]
# Scores of the archive are in float32; those of the reference in float64.
CLOSE = {"rel": 1e-5, "abs": 1e-9}


def expected(
    scores: dict[str, dict[str, float]],
    top: int,
    *,
    queries: Callable[[str], bool] = lambda name: True,
    mapped: Callable[[str], bool] = lambda name: True,
    allowed: Callable[[str, str], bool] = lambda one, other: True,
    least: float = 0.0,
) -> dict[tuple[str, str], float]:
    """Return the score of each pair, its names in order, from all scores."""
    pairs = {}
    for name in filter(queries, scores):
        row = [(score, other) for other, score in scores[name].items() if other != name and mapped(other)]
        good = [(score, other) for score, other in row if score > 0 and score >= least and allowed(name, other)]
        for score, other in sorted(good, key=lambda hit: (-hit[0], hit[1].encode()))[:top]:
            pairs[min(name, other), max(name, other)] = score
    return pairs


def as_dict(pairs: Any) -> dict[tuple[str, str], float]:
    found = list(pairs)
    made = {(min(name, other), max(name, other)): score for name, other, score in found}
    assert len(made) == len(found), "a pair is there twice"
    assert all(name != other for name, other, _ in found)
    return made


def same(found: dict[tuple[str, str], float], wanted: dict[tuple[str, str], float]) -> None:
    assert found.keys() == wanted.keys()
    assert list(found.values()) == pytest.approx([wanted[key] for key in found], **CLOSE)


@pytest.mark.parametrize("top", [1, 2, 5, 13, 1000])
def test_pairs_are_those_of_all_scores(make_archive, all_scores, some_photos, top: int) -> None:
    photos = some_photos(NAMES)
    with PhotoIndex.open(make_archive(photos)) as index:
        found = list(index.pairs(PairsConfig(top=top)))
    same(as_dict(found), expected(all_scores(photos), top))
    assert all(name < other for name, other, _ in found)
    order = [(name.encode(), -score, other.encode()) for name, other, score in found]
    assert order == sorted(order)


def test_symmetric_gives_both_directions(make_archive, some_photos) -> None:
    photos = some_photos(NAMES)
    with PhotoIndex.open(make_archive(photos)) as index:
        once, both = (list(index.pairs(PairsConfig(top=3, symmetric=is_both))) for is_both in (False, True))
    turned = [(other, name, score) for name, other, score in once]
    assert sorted(both) == sorted([*once, *turned])


def test_queries_and_mapped_by_prefix_by_file_and_by_names(
    make_archive, all_scores, some_photos, tmp_path: Path
) -> None:
    photos = some_photos(NAMES)
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"b/x1.jpg\r\nb/x2.jpg\n\n\xc3\xa9.jpg\n")
    some = {"b/x1.jpg", "b/x2.jpg", "é.jpg"}
    wanted = expected(all_scores(photos), 2, queries=some.__contains__, mapped=lambda name: name.startswith("a/"))
    with PhotoIndex.open(make_archive(photos)) as index:
        for queries in (str(listed), some, sorted(some)):
            found = list(index.pairs(PairsConfig(top=2, queries=queries, mapped="a/")))
            same(as_dict(found), wanted)
            assert {name for name, _, _ in found} <= some, "the photo that looked for the other stands first"
        by_star = as_dict(index.pairs(PairsConfig(top=2, queries="b/x*", mapped="b/*")))
        same(by_star, expected(all_scores(photos), 2, queries=lambda n: n[0] == "b", mapped=lambda n: n[0] == "b"))


def test_each_pair_once_where_photos_look_and_are_looked_for(make_archive, all_scores, some_photos) -> None:
    photos = some_photos(NAMES)
    with PhotoIndex.open(make_archive(photos)) as index:
        found = as_dict(index.pairs(PairsConfig(top=4, queries="b/", mapped=NAMES[3:9])))
    scores = all_scores(photos)
    same(found, expected(scores, 4, queries=lambda name: name[0] == "b", mapped=NAMES[3:9].__contains__))


def test_neighbours_of_a_sequence_are_left_out_before_the_best_are_taken(make_archive, all_scores, some_photos) -> None:
    photos = some_photos(NAMES)
    places = {name: place for place, name in enumerate(NAMES)}  # NAMES are in natural order within each folder

    def apart(one: str, other: str) -> bool:
        return one[:2] != other[:2] or "/" not in one or abs(places[one] - places[other]) >= 3

    scores = all_scores(photos)
    with PhotoIndex.open(make_archive(photos)) as index:
        found = as_dict(index.pairs(PairsConfig(top=4, skip_neighbours=3)))
        same(as_dict(index.pairs(PairsConfig(top=4, skip_neighbours=1))), expected(scores, 4))
    same(found, expected(scores, 4, allowed=apart))
    assert ("a/10.jpg", "a/3.jpg") not in found and ("a/1.jpg", "a/10.jpg") in expected(scores, 13)


def test_pairs_below_the_least_score_are_left_out(make_archive, all_scores, some_photos) -> None:
    photos = some_photos(NAMES)
    scores = all_scores(photos)
    least = sorted(score for row in scores.values() for score in row.values())[len(NAMES) ** 2 * 3 // 4] + 1e-7
    with PhotoIndex.open(make_archive(photos)) as index:
        found = as_dict(index.pairs(PairsConfig(top=13, min_score=least)))
    same(found, expected(scores, 13, least=least))
    assert 0 < len(found) < len(NAMES) * (len(NAMES) - 1) / 2


def parts(names: list[str], pairs: dict[tuple[str, str], float]) -> list[set[str]]:
    """Return what pairs join, by walking from photo to photo."""
    left, found = set(names), list[set[str]]()
    while left:
        part, ahead = set[str](), [min(left)]
        while ahead:
            name = ahead.pop()
            if name not in part:
                part.add(name)
                ahead += [b if a == name else a for a, b in pairs if name in (a, b)]
        found.append(part)
        left -= part
    return found


def best_forest(
    scores: dict[str, dict[str, float]], pairs: dict[tuple[str, str], float]
) -> dict[tuple[str, str], float]:
    """Return the bridges that Kruskal's algorithm takes from all pairs, best first."""
    names = sorted(scores)
    edges = sorted(
        (-scores[a][b], a.encode(), b.encode(), a, b) for a in names for b in names if a < b and scores[a][b]
    )
    taken: dict[tuple[str, str], float] = {}
    for cost, _, _, a, b in edges:
        if not any({a, b} <= part for part in parts(names, {**pairs, **taken})):
            taken[a, b] = -cost
    return taken


@pytest.mark.parametrize(("seed", "scenes", "least"), [(1, 1, 0.0), (2, 4, 0.1), (3, 7, 0.4), (4, 9, 0.9)])
def test_connected_takes_the_best_bridges(
    make_archive, all_scores, some_photos, seed: int, scenes: int, least: float
) -> None:
    check_bridges(make_archive, all_scores, some_photos, seed, scenes, 13, least)


@pytest.mark.slow
@given(
    seed=st.integers(0, 10**6),
    scenes=st.integers(1, 9),
    count=st.integers(2, 14),
    least=st.sampled_from([0, 0.1, 0.4, 0.9]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_connected_takes_the_best_bridges_of_any_photos(
    make_archive, all_scores, some_photos, seed: int, scenes: int, count: int, least: float
) -> None:
    check_bridges(make_archive, all_scores, some_photos, seed, scenes, count, least)


def check_bridges(
    make_archive: Any, all_scores: Any, some_photos: Any, seed: int, scenes: int, count: int, least: float
) -> None:
    names = random.Random(seed).sample(NAMES, count)
    photos = some_photos(names, scenes=scenes, seed=seed)
    photos[names[-1]] = photos[names[-1]][:0]  # a photo without descriptors
    scores = all_scores(photos)
    with PhotoIndex.open(make_archive(photos)) as index, pytest.MonkeyPatch.context() as patch:
        plain = as_dict(index.pairs(PairsConfig(top=1, min_score=least)))
        found = index.pairs(PairsConfig(top=1, min_score=least, connected=True))
        # Fewer others are kept of each photo, and parts are asked for photos outside alone.
        patch.setattr("ctxdeploy.pairs.bridges._KEPT", 1 + seed % 2)
        patch.setattr("ctxdeploy.pairs.bridges._TOGETHER", seed % 3)
        again = index.pairs(PairsConfig(top=1, min_score=least, connected=True))
    pairs, wanted = as_dict(found), best_forest(scores, plain)
    added = {key: score for key, score in pairs.items() if key not in plain}
    assert sum(added.values()) == pytest.approx(sum(wanted.values()), **CLOSE)
    assert len(added) == len(wanted) == len(found.bridges)
    assert as_dict(found.at(found.bridges)) == added
    left = parts(names, pairs)
    assert found.parts == len(left)
    assert found.alone == sorted((next(iter(part)) for part in left if len(part) == 1), key=str.encode)
    assert names[-1] in found.alone and found.without_descriptors == 1
    assert list(found) == list(again)


def test_bridges_are_no_neighbours_and_lie_within_the_photos_that_are_meant(make_archive, some_photos) -> None:
    photos = some_photos(NAMES, scenes=5, seed=4)
    with PhotoIndex.open(make_archive(photos)) as index:
        config = PairsConfig(top=1, min_score=0.9, connected=True, skip_neighbours=2, queries="b/", mapped="b/")
        found = index.pairs(config)
    assert len(found.bridges) > 0
    for name, other, _ in found:
        assert name.startswith("b/") and other.startswith("b/")
        assert abs(int(name[3:-4]) - int(other[3:-4])) >= 2


def test_order_of_addition_shards_and_threads_change_nothing(make_archive, some_photos) -> None:
    photos = some_photos(NAMES)
    turned = dict(reversed(list(photos.items())))
    config = PairsConfig(top=3, connected=True, min_score=0.2)
    results = []
    for made in (photos, turned):
        with PhotoIndex.open(make_archive(made)) as index:
            results.append(list(index.pairs(config)))
    assert results[0] == results[1]


def test_removed_photos_are_in_no_pair(make_archive, all_scores, some_photos) -> None:
    photos = some_photos(NAMES)
    archive = make_archive(photos)
    with Index.open(archive, writable=True) as index:
        index.remove(NAMES[4:9])
    left = {name: vectors for name, vectors in photos.items() if name not in NAMES[4:9]}
    with PhotoIndex.open(archive) as index:
        same(as_dict(index.pairs(PairsConfig(top=3))), expected(all_scores(left), 3))


def test_an_empty_archive_has_no_pairs(make_archive) -> None:
    with PhotoIndex.open(make_archive({})) as index:
        found = index.pairs(PairsConfig(connected=True))
    assert (len(found), found.parts, found.alone) == (0, 0, [])


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"top": 0}, "--top 0"),
        ({"min_score": -0.1}, "--min-score -0.1"),
        ({"skip_neighbours": -1}, "--skip-neighbours -1"),
        ({"connected": True, "queries": "a/"}, "--connected is for pairs within one set"),
        ({"queries": 3}, "--queries 3"),
    ],
)
def test_settings_that_cannot_be_are_refused(config: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PairsConfig(**config)


@pytest.mark.parametrize(
    ("photos", "text"),
    [
        ("nowhere/", "no photo of the archive begins so"),
        ("gone.txt", "gone.txt cannot be read"),
        (["a/1.jpg", "other.jpg"], "1 name of 2 not in the archive: other.jpg"),
        ([], "the list is empty"),
    ],
)
def test_lists_that_name_nothing_are_refused(make_archive, some_photos, photos: Any, text: str) -> None:
    with PhotoIndex.open(make_archive(some_photos(NAMES))) as index, pytest.raises(ConfigError, match=text):
        index.pairs(PairsConfig(mapped=photos))


def test_natural_order_takes_numbers_of_any_length() -> None:
    from ctxdeploy.pairs.selection import Sequences

    long = "9" * 5000
    names = [f"{long}.jpg", "10.jpg", "2.jpg", "a.jpg", "deep/2.jpg"]
    near = Sequences(names).near
    pairs = {(a, b) for a in range(5) for b in range(5) if near(np.array([a]), np.array([b]), 2)[0] and a < b}
    assert pairs == {(0, 1), (1, 2), (0, 3)}
