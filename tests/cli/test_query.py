"""Options of a query, and several queries at once."""

from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.index import Hit, Index
from ctxdeploy.query import Answer, QueryConfig, ask_many, photo_source
from ctxdeploy.runtime import Extractor, PhotoSource


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (("--alpha", 1), {"alpha": 1.0}),
        (("--threshold", 0.2), {"threshold": 0.2}),
        (("--idf",), {"idf": True}),
        (("--no-idf", "--alpha", 0), {"idf": False, "alpha": 0.0}),
    ],
)
def test_scores_are_those_of_the_settings(call, bundle: Bundle, photos, shared_archive, flags, settings) -> None:
    query = photos.parent / "queries" / "coffee_3.jpg"
    answer = call("query", query, "--index", shared_archive, "--json", *flags).json[0]
    descriptors = Extractor(bundle).extract_one(query)
    with Index.open(shared_archive) as index:
        hits, plain = index.search(descriptors, **settings), index.search(descriptors)
    assert [(hit["name"], hit["score"]) for hit in answer["results"]] == [(hit.name, hit.score) for hit in hits]
    assert hits == plain if settings == {"idf": False} else hits != plain


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--alpha", 101), "alpha 101.0 is not a number in 0..100"),
        (("--threshold", 2), "threshold 2.0 is not a number in -1..1"),
        (("--alpha", 2.5, "--threshold", -0.5), "whole alpha"),
        (("--alpha", "nan"), "alpha nan"),
    ],
)
def test_settings_out_of_range(call, photos: Path, shared_archive: Path, flags, words: str) -> None:
    result = call("query", photos / "coins_0.jpg", "--index", shared_archive, *flags)
    assert result.code == 2
    assert words in result.err


def test_one_result_is_not_several(call, photos: Path, shared_archive: Path) -> None:
    query = ("query", photos / "coins_0.jpg", "--index", shared_archive)
    assert ": 1 result for " in call(*query, "--top", 1).out
    assert ": 2 results for " in call(*query, "--top", 2).out


def test_answers_of_several_are_those_of_each(call, photos: Path, shared_archive: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no photo")
    queries = sorted((photos.parent / "queries").iterdir())
    result = call("query", *queries[:3], tmp_path / "bad.jpg", *queries[3:], "--index", shared_archive, "--json")
    assert result.code == 14
    assert [answer["query"] for answer in result.json] == [str(query) for query in queries]
    for query, answer in zip(queries, result.json, strict=True):
        alone = call("query", query, "--index", shared_archive, "--json").json[0]
        assert answer["results"] == alone["results"]


class _Clock:
    """The time as ``ctxdeploy.query`` sees it: it passes where a test lets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr("ctxdeploy.query.time", made)
    return made


class _Extractor:
    """Takes 10 ms; ``bad`` cannot be read."""

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock

    def extract_one(self, photo: PhotoSource, box: object) -> LocalDescriptors:
        self.clock.now += 0.01
        if photo.name == "bad":
            raise PhotoError("bad")
        return LocalDescriptors(
            vectors=np.zeros((1, 4), np.float32),
            attention=np.ones(1, np.float32),
            positions=np.zeros((1, 2), np.float32),
            scales=np.ones(1, np.float32),
        )


class _Index:
    """Takes ``seconds`` a search, and notes for how many queries each was."""

    def __init__(self, seconds: float, clock: _Clock) -> None:
        self.seconds, self.clock, self.groups = seconds, clock, list[int]()

    def search_batch(self, queries, top, *, alpha, threshold, idf):
        self.groups.append(len(queries))
        self.clock.now += self.seconds
        return [[Hit(str(number), 1.0)] for number in range(len(queries))]


def _ask(index: _Index, photos: list[Path]) -> list[Answer | PhotoError]:
    return list(ask_many(index, _Extractor(index.clock), map(photo_source, photos), QueryConfig()))


def test_queries_wait_for_each_other_where_searching_is_what_takes_time(clock: _Clock) -> None:
    index = _Index(0.4, clock)
    photos = [Path(str(number)) for number in range(100)]
    photos[7] = Path("bad")
    answers = _ask(index, photos)
    assert index.groups[0] == 1  # the first answer waits for nobody
    assert sum(index.groups) == 99
    assert len(index.groups) <= 4
    assert isinstance(answers[7], PhotoError)
    assert [answer.photo.path for answer in answers if isinstance(answer, Answer)] == photos[:7] + photos[8:]


def test_nobody_waits_where_searching_takes_no_time(clock: _Clock) -> None:
    index = _Index(0.0, clock)
    _ask(index, [Path(str(number)) for number in range(10)])
    assert index.groups == [1] * 10


def test_queries_that_all_fail_search_for_nothing(clock: _Clock) -> None:
    index = _Index(0.0, clock)
    assert [str(error) for error in _ask(index, [Path("bad"), Path("bad")])] == ["bad", "bad"]
    assert index.groups == []


def test_an_archive_without_photos_says_so(call, archive: Path, photos: Path) -> None:
    names = call("names", archive).out.split()
    assert call("remove", archive, *names).code == 0
    result = call("query", photos / "coins_0.jpg", "--index", archive)
    assert result.code == 0 and "0 results" in result.out
    assert result.err == f"{archive} holds no photos so far: add some with  ctxdeploy index DIR -o {archive}\n"
    assert call("query", photos / "coins_0.jpg", "--index", archive, "-q").err == ""
