"""What a search returns does not depend on sharding, threads or company; and never is it NaN."""

import time
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.index import Hit, Index, IndexConfig
from ctxdeploy.index.search import similarity_table
from ctxdeploy.index.threads import SearchThreads


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("idf", [True, False])
def test_independent_of_sharding_threads_and_batch(
    make_photos: Any, make_archive: Any, binary: bool, idf: bool
) -> None:
    photos = make_photos(24)
    # Equal photos in different shards tie; the lowest name must win everywhere.
    photos[13], photos[21] = photos[3], photos[3]
    whole = make_archive(photos, IndexConfig(binary=binary, idf=idf), "whole")
    split = make_archive(photos, IndexConfig(binary=binary, idf=idf, shard_images=7), "split")
    with Index.open(whole, threads=1) as index:
        expected = [index.search(photo, 8) for photo in photos]
    for path, threads in ((whole, 3), (split, 1), (split, 3)):
        with Index.open(path, threads=threads) as index:
            assert index.search_batch(photos, 8) == expected
            assert [index.search(photo, 8) for photo in photos[10:16]] == expected[10:16]
    assert [hit.name for hit in expected[13][:3]] == ["003", "013", "021"]


def test_more_hits_continue_fewer(make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(40)
    photos[10:20] = [photos[9]] * 10
    with Index.open(make_archive(photos, IndexConfig(shard_images=6))) as index:
        everything = index.search(photos[9], 1000)
        for top in range(1, len(everything) + 2):
            assert index.search(photos[9], top) == everything[:top]
        scores = [hit.score for hit in everything]
        assert scores == sorted(scores, reverse=True) and scores[-1] > 0


def test_hits_are_plain_python(make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(3)
    with Index.open(make_archive(photos)) as index:
        (hit,) = index.search(photos[1], 1)
        assert type(hit) is Hit and type(hit.name) is str and type(hit.score) is float


def test_a_photo_finds_itself_with_score_one(make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(20)
    with Index.open(make_archive(photos, IndexConfig(query_assignment=1))) as index:
        for number in (0, 7, 19):
            assert index.search(photos[number], 1) == [Hit(f"{number:03d}", pytest.approx(1.0, abs=1e-7))]


@pytest.mark.parametrize("idf", [True, False])
def test_nothing_to_search_with_or_in(make_photos: Any, make_archive: Any, idf: bool) -> None:
    nothing = np.empty((0, 128), np.float32)
    with Index.open(make_archive([nothing, *make_photos(2)], IndexConfig(idf=idf))) as index:
        assert index.search(nothing) == []
        assert index.search_batch([nothing, make_photos(1)[0]])[0] == []
        assert index.search_batch([]) == []
    with Index.open(make_archive([nothing], IndexConfig(idf=idf), "empty photo")) as index:
        assert len(index) == 1 and index.search(make_photos(1)[0]) == []


def test_an_archive_without_photos(tmp_path: Any, make_codebook: Any, make_photos: Any) -> None:
    with Index.create(tmp_path / "a", make_codebook()) as index:
        assert index.search(make_photos(1)[0]) == [] and len(index) == 0
    with Index.open(tmp_path / "a") as index:
        assert index.search(make_photos(1)[0], idf=True) == [] and index.info()["words_per_image"] == 0.0


def test_words_that_every_photo_has_do_not_divide_by_zero(make_archive: Any, make_codebook: Any) -> None:
    codebook = make_codebook(words=1)
    photos = [np.ones((3, 128), np.float32), np.ones((2, 128), np.float32)]
    with Index.open(make_archive(photos, IndexConfig(idf=True), codebook=codebook)) as index:
        assert index.search(photos[0]) == []
        assert len(index.search(photos[0], idf=False)) == 2


def test_fewer_words_than_the_assignment_asks_for(make_archive: Any, make_codebook: Any, make_photos: Any) -> None:
    photos = make_photos(4)
    with Index.open(make_archive(photos, IndexConfig(assignment=5), codebook=make_codebook(words=2))) as index:
        assert index.info()["words_per_image"] <= 2 and index.search(photos[0])


@pytest.mark.parametrize(("dim", "bits"), [(1, 32), (64, 64), (96, 96), (100, 128), (128, 128), (1024, 1024)])
def test_table_divides_by_the_packed_length(dim: int, bits: int) -> None:
    table = similarity_table(IndexConfig().scoring(), dim)
    assert len(table) == 64 * -(-dim // 64) + 1
    assert table[0] == 1 and table[bits // 2] == 0 and (table[bits // 2 :] == 0).all()
    assert table[1] == pytest.approx((1 - 2 / bits) ** 3, rel=1e-6)


def test_refused_queries(make_photos: Any, make_archive: Any) -> None:
    index = Index.open(make_archive(make_photos(3)))
    bad = np.full((2, 128), np.nan, np.float32)
    for query, text in ((np.ones((2, 64)), "dimension 64"), (bad, "NaN"), (np.ones(128), "shape")):
        with pytest.raises(ConfigError, match=text):
            index.search(query)
    with pytest.raises(ConfigError, match="--top"):
        index.search(np.ones((1, 128)), top=0)
    with pytest.raises(ConfigError, match="threads"):
        Index.open(index.path, threads=0)
    index.close()
    with pytest.raises(ArchiveError, match="closed"):
        index.search(np.ones((1, 128)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_threads_do_every_task_once_and_in_order(count: int) -> None:
    threads = SearchThreads(count)
    seen: list[int] = []

    def work(task: int) -> int:
        seen.append(task)
        return task * task

    for tasks in (0, 1, 2, 50):
        seen.clear()
        assert threads.run(work, range(tasks)) == [task * task for task in range(tasks)]
        assert sorted(seen) == list(range(tasks))
    threads.close()


@pytest.mark.parametrize("bad", [0, 7])
def test_an_error_in_a_task_is_raised_and_the_threads_stay_of_use(bad: int) -> None:
    threads = SearchThreads(2)

    def work(task: int) -> int:
        time.sleep(0.001)
        if task == bad:
            raise ValueError("bad")
        return task

    for _ in range(3):
        with pytest.raises(ValueError, match="bad"):
            threads.run(work, range(8))
    assert threads.run(work, range(10, 14)) == [10, 11, 12, 13]
    threads.close()
