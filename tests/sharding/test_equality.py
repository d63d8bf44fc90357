"""Answers of an archive whose shards are searched in parts are those of one archive, bit by bit."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index import Hit, Index, Subset
from ctxdeploy.sharding import ShardedIndex

PARTS = (1, 2, 4, 8)
SETTINGS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
LOCAL = ("descriptors", "idf", "floats", "regional", "cells")
Pair = tuple[Index, dict[int, ShardedIndex]]


@pytest.fixture
def both(archives: dict[str, Path], serve: Callable[..., Any]) -> Iterator[Callable[[str], Pair]]:
    """Return a function that opens an archive as one, and over each number of parts."""
    opened: dict[str, Pair] = {}

    def get(name: str) -> Pair:
        if name not in opened:
            path = archives[name]
            opened[name] = Index.open(path), {n: ShardedIndex.open(path, serve(path, n)[0]) for n in PARTS}
        return opened[name]

    yield get
    for one, many in opened.values():
        for index in (one, *many.values()):
            index.close()


def facts(found: list[list[Hit]]) -> list[list[tuple[str, float]]]:
    return [[(hit.name, hit.score) for hit in hits] for hits in found]


def restriction(index: Any, among: str) -> Any:
    """Return photos to search among, chosen by an index."""
    names = list(index.names())
    given = {
        "all": lambda: None,
        "names": lambda: names[3:30:2],
        "few": lambda: [names[5]],
        "none": lambda: [],
        "prefix": lambda: index.subset(prefixes=["b/", "nothing"]),
        "both": lambda: index.subset(prefixes=["a/"], names=[*names[:20], "not there", "\ud800"]),
        "empty": lambda: index.subset(prefixes=["\ud800"]),
    }
    return given[among]()


@SETTINGS
@given(
    name=st.sampled_from(LOCAL),
    parts=st.sampled_from(PARTS),
    top=st.sampled_from([1, 3, 10, 100]),
    expand=st.sampled_from([0, 0, 1, 5]),
    among=st.sampled_from(["all", "all", "names", "few", "none", "prefix", "both", "empty"]),
    idf=st.sampled_from([None, True, False]),
    alpha=st.sampled_from([None, 1.0, 4.0]),
    threshold=st.sampled_from([None, 0.2]),
    unit=st.sampled_from([None, 0.001]),
    queries=st.lists(st.integers(0, 45), max_size=20),
)
def test_searches(both: Callable[[str], Pair], scenes_of: Any, name: str, parts: int, among: str, **given: Any) -> None:
    one, many = both(name)
    sharded, stored = many[parts], list(one.names())
    queries = [
        scenes_of[number] + np.float32(0.1) if number % 3 else stored[number % len(stored)]
        for number in given.pop("queries")
    ]
    unit = given.pop("unit")
    options = {**given, "units": None if unit is None else [unit] * len(queries)}
    wanted = one.search_batch(queries, among=restriction(one, among), **options)
    asked = sharded.asked(queries)  # as queries do it
    found = sharded.for_query().search_batch(asked, among=restriction(sharded, among), **options)
    assert facts(found) == facts(wanted)
    assert facts(sharded.search_batch(queries, among=restriction(sharded, among), **options)) == facts(wanted)


@pytest.fixture
def scenes_of() -> list[Any]:
    random = np.random.default_rng(11)
    return [random.normal(size=(random.integers(0, 60), 40)).astype(np.float32) for _ in range(46)]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", ["descriptors", "cells", "alone"])
def test_searches_by_global_vectors(both: Callable[[str], Pair], name: str, parts: int) -> None:
    one, many = both(name)
    sharded, names = many[parts], list(one.names())
    vectors = np.random.default_rng(5).normal(size=(70, 16)).astype(np.float32)
    assert one.global_cells == sharded.global_cells
    for top in (1, 4, 99):
        for probes in (None, 0, *((1, 3) if name == "cells" else ())):
            for queries in (vectors, vectors[0], vectors[:0], names[:5], names[2]):
                wanted = facts(one.search_global(queries, top, probes=probes))
                assert facts(sharded.search_global(queries, top, probes=probes)) == wanted
        for among in ("names", "few", "none", "prefix", "both"):
            wanted = facts(one.search_global(vectors, top, among=restriction(one, among)))
            assert facts(sharded.search_global(vectors, top, among=restriction(sharded, among))) == wanted
    assert np.array_equal(one.global_vectors(names), sharded.global_vectors(names))


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", LOCAL)
def test_what_is_known_of_photos(both: Callable[[str], Pair], name: str, parts: int) -> None:
    one, many = both(name)
    sharded, names = many[parts], list(one.names())
    assert list(sharded.names()) == names and len(sharded) == len(one) == len(names)
    some = [names[3], names[30], names[3], *names[:9]]
    for idf in (None, True):
        assert np.array_equal(sharded.scores(some, names, idf=idf), one.scores(some, names, idf=idf))
    for mine, other in zip(sharded.aggregated(some), one.aggregated(some), strict=True):
        assert np.array_equal(mine.words, other.words) and np.array_equal(mine.codes, other.codes)
    assert {n: sharded.photo_size(n) for n in names} == {n: one.photo_size(n) for n in names}
    assert sharded.photo_sizes(["x"]) == {"x": None}
    assert [sharded.file_of(n) for n in some] == [one.file_of(n) for n in some]
    for text in (*some, "a/007.jpg", "x", "\ud800", 5):
        assert (text in sharded) == (text in one)
    theirs = one.stored_features(names)
    for photo, features in sharded.stored_features(names).items():
        wanted = theirs[photo]
        assert (features is None) == (wanted is None)
        for field in ("words", "positions", "scales", "codes", "vectors") if features is not None else ():
            assert np.array_equal(getattr(features, field), getattr(wanted, field), equal_nan=field == "positions")
        assert features is None or wanted is None or features.size == wanted.size
    assert sharded.info() == one.info()
    text = "b/\u00e9000\\xe9.jpg"
    assert sharded.printed_name(text) == one.printed_name(text)
    assert sharded.failures() == one.failures() and sharded.manifest == one.manifest


def test_restrictions_say_what_is_not_there(both: Callable[[str], Pair]) -> None:
    one, many = both("descriptors")
    names = list(one.names())
    for prefixes, listed in (
        ([], names[:7]),
        (["a/0", "zz", "b/"], None),
        (["zz"], ["x", *names[:3], "\ud800", "x"]),
        (["\ud800", "a/"], None),
        (["\ud800"], None),
        ([], []),
    ):
        wanted = one.subset(prefixes=prefixes, names=listed)
        for parts, sharded in many.items():
            found = sharded.subset(prefixes=prefixes, names=listed)
            assert isinstance(found, Subset) and len(found) == len(wanted), (prefixes, parts)
            assert (found.unknown, found.unused) == (wanted.unknown, wanted.unused)
            assert sharded.reached(found) == one.reached(wanted)


def test_errors_are_those_of_one_archive(both: Callable[[str], Pair]) -> None:
    one, many = both("floats")
    sharded = many[4]
    rows = np.zeros((2, 40), np.float32)
    for ask in (
        lambda index: index.search_batch(["x"]),
        lambda index: index.search_batch([rows], among=["a/001.jpg", "x"]),
        lambda index: index.search_batch([rows], among=["\ud800"]),
        lambda index: index.search_batch([rows], top=0),
        lambda index: index.search_batch([rows], expand=65),
        lambda index: index.search_batch([rows], alpha=-1.0),
        lambda index: index.search_batch([rows], expand=1, units=[0.0]),
        lambda index: index.search_batch([rows[:, :3]]),
        lambda index: index.search_global(rows),
        lambda index: index.scores(["x"], ["a/001.jpg"]),
        lambda index: index.scores(["a/001.jpg"], ["x"]),
        lambda index: index.aggregated(["x"]),
        lambda index: index.features("x"),
        lambda index: index.file_of("x"),
    ):
        with pytest.raises(ConfigError) as wanted:
            ask(one)
        with pytest.raises(ConfigError) as found:
            ask(sharded)
        assert str(found.value) == str(wanted.value)
    other, _ = both("idf")
    with pytest.raises(ConfigError, match="of another state"):
        sharded.search_batch([rows], among=other.subset(prefixes=["a/"]))
    with pytest.raises(ConfigError, match="of another state"):
        one.search_batch([rows], among=sharded.subset(prefixes=["a/"]))


def test_many_queries_are_cut_into_messages(
    both: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch, scenes_of: list[Any]
) -> None:
    one, many = both("descriptors")
    monkeypatch.setattr("ctxdeploy.sharding.searching.MAX_SENT", 3000)
    monkeypatch.setattr("ctxdeploy.sharding.searching._SCORED", 2)
    monkeypatch.setattr("ctxdeploy.sharding.searching.MAX_PHOTOS", 5)
    monkeypatch.setattr("ctxdeploy.sharding.requests.PAGE", 3)
    monkeypatch.setattr("ctxdeploy.sharding.answering.PAGE", 3)
    names = list(one.names())
    for sharded in many.values():
        assert facts(sharded.search_batch(scenes_of, 5, expand=3)) == facts(one.search_batch(scenes_of, 5, expand=3))
        assert np.array_equal(sharded.scores(names[:7], names), one.scores(names[:7], names))
        assert list(sharded.names()) == names
