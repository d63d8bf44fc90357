"""Stored photos as queries, restricted searches and all pairs: exactly the scores of the same codes from outside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxdeploy.bench import draw_photos, reference_of
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.index import Aggregated, Hit, Index, IndexConfig, all_pairs, mirror, search, stored
from ctxdeploy.index.kernels import gather

SETTINGS = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Make = Callable[..., Any]


def write(path: Path, codebook: Any, photos: dict[str, Any], config: IndexConfig) -> dict[str, Aggregated]:
    """Write an archive; return the words and codes of its photos as they were added."""
    with Index.create(path, codebook, config=config) as index:
        added = {name: index.aggregate(vectors) for name, vectors in photos.items()}
        for name, photo in added.items():
            index.add_aggregated(name, photo)
    return added


def without(hits: list[Hit], name: str) -> list[Hit]:
    """Return hits but one."""
    return [hit for hit in hits if hit.name != name]


def make_everything_small(patch: pytest.MonkeyPatch) -> None:
    """Groups, blocks and parts of shards for few photos."""
    patch.setattr(search, "TOGETHER", 2)
    patch.setattr(search, "GROUP", 5)
    patch.setattr(search, "GROUP_PHOTOS", 11)
    patch.setattr(search, "MIN_PHOTOS", 3)
    patch.setattr(all_pairs, "BLOCK", 4)
    patch.setattr(stored, "_SHARE", 0.4)
    patch.setattr(stored, "_MANY", 5)


@given(
    shard_images=st.integers(1, 40),
    threads=st.integers(1, 3),
    dim=st.sampled_from([20, 64, 100, 128, 200]),
    binary=st.booleans(),
    assignment=st.integers(1, 3),
    idf=st.booleans(),
    threshold=st.sampled_from([-0.5, 0.0, 0.1]),
    top=st.integers(1, 35),
    few=st.booleans(),
    mirrored=st.sampled_from([0, 90, 1 << 22]),
    seed=st.integers(0, 5),
)
@SETTINGS
def test_stored_photos_ask_as_their_codes_do(
    make_photos: Make,
    make_codebook: Make,
    tmp_path_factory: Any,
    shard_images: int,
    threads: int,
    dim: int,
    binary: bool,
    assignment: int,
    idf: bool,
    threshold: float,
    top: int,
    few: bool,
    mirrored: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    photos = {f"{number:03d}": photo for number, photo in enumerate(make_photos(30, dim, seed))}
    photos["020"] = photos["029"] = photos["009"]
    config = IndexConfig(binary=binary, assignment=assignment, idf=idf, threshold=threshold, shard_images=shard_images)
    path = tmp_path_factory.mktemp("stored") / "archive"
    added = write(path, make_codebook(words=24, dim=dim), photos, config)
    with Index.open(path, writable=True) as index:
        index.remove(["005", "017"])
    kept = [name for name in photos if name not in ("005", "017")]
    among = rng.permutation(kept)[: 3 if few else 20].tolist()
    with pytest.MonkeyPatch.context() as patch, Index.open(path, threads=threads) as index:
        for module in (all_pairs, mirror):
            patch.setattr(module, "KEPT", mirrored)
        if few:
            make_everything_small(patch)
        for name, photo in zip(kept, index.aggregated(kept), strict=True):
            assert np.array_equal(photo.words, added[name].words) and np.array_equal(photo.codes, added[name].codes)
            assert photo.words.dtype == np.int32 and photo.codes.dtype == added[name].codes.dtype
        # Everything else is compared with codes from outside, one query at a time and over all photos.
        whole = {name: index.search(added[name], 30) for name in kept}
        assert index.search_batch(kept, 30) == list(whole.values())
        assert index.search(kept[3], top) == whole[kept[3]][:top]
        expected = [[hit for hit in whole[name] if hit.name in among][:top] for name in kept]
        assert index.search_batch(kept, top, among=among) == expected
        assert [index.search(added[name], top, among=among) for name in kept[:4]] == expected[:4]
        everyone = [(name, without(whole[name], name)[:top]) for name in kept]
        assert list(index.search_all(top)) == everyone
        some = [(name, [hit for hit in without(whole[name], name) if hit.name in among][:top]) for name in kept]
        assert list(index.search_all(top, among=among)) == some
        assert list(index.search_all(top, names=among)) == [pair for pair in everyone if pair[0] in among]
        scores = {name: {hit.name: hit.score for hit in hits} for name, hits in whole.items()}
        matrix = [[scores[name].get(other, 0.0) for other in among] for name in kept]
        assert index.scores(kept, among).tolist() == matrix
        assert index.scores(among, kept).tolist() == [
            [scores[name].get(other, 0.0) for other in kept] for name in among
        ]


@pytest.mark.parametrize(("shard_images", "kept"), [(50, 1 << 22), (7, 1 << 22), (7, 50), (7, 20)])
def test_of_equal_scores_the_first_names_are_kept_whichever_photo_is_asked(
    make_codebook: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_images: int, kept: int
) -> None:
    """Fifty photos of which ten each are the same: more equals than are kept, before, in and behind every block."""
    rng = np.random.default_rng(0)
    different = rng.standard_normal((5, 30, 32), np.float32) * 0.3 + rng.standard_normal((1, 30, 32), np.float32)
    photos = {f"{number:02d}": different[number % 5] for number in rng.permutation(50).tolist()}
    write(tmp_path / "a", make_codebook(words=12, dim=32), photos, IndexConfig(shard_images=shard_images))
    for module, name, value in ((all_pairs, "BLOCK", 4), (all_pairs, "KEPT", kept), (mirror, "KEPT", kept)):
        monkeypatch.setattr(module, name, value)
    added, calls = mirror.Mirror.add, list[int]()
    monkeypatch.setattr(mirror.Mirror, "add", lambda self, *given: (calls.append(0), added(self, *given)))
    with Index.open(tmp_path / "a", threads=2) as index:
        for top in (1, 3, 7, 12):
            calls.clear()
            wanted = [(name, without(index.search(name, 50), name)[:top]) for name in photos]
            assert list(index.search_all(top)) == wanted
            assert bool(calls) == (top * shard_images <= kept)


@pytest.mark.parametrize("binary", [True, False])
def test_common_words_add_up_to_the_score(make_photos: Make, make_codebook: Make, tmp_path: Path, binary: bool) -> None:
    photos = {f"{number:03d}": photo for number, photo in enumerate(make_photos(20))}
    added = write(tmp_path / "a", make_codebook(), photos, IndexConfig(binary=binary, idf=True))
    with Index.open(tmp_path / "a") as index:
        for query in (photos["003"], added["003"], "003"):
            scores = {hit.name: hit.score for hit in index.search(query, 30)}
            for name in photos:
                common = index.common_words(query, name)
                assert common.scores.sum() == pytest.approx(scores.get(name, 0.0), rel=1e-5, abs=1e-9)
                if query is not photos["003"]:
                    assert common.words.tolist() == sorted({*added["003"].words} & {*added[name].words})


def test_equal_photos_do_not_hide_each_other(make_photos: Make, make_codebook: Make, tmp_path: Path) -> None:
    photo, other = make_photos(2)
    names = [f"{number:02d}" for number in range(9)]
    write(tmp_path / "a", make_codebook(), {**dict.fromkeys(names, photo), "x": other}, IndexConfig(shard_images=4))
    with Index.open(tmp_path / "a") as index:
        for name, hits in index.search_all(3):
            if name != "x":
                assert [hit.name for hit in hits] == [one for one in names if one != name][:3]


def test_a_writer_asks_with_what_it_has_just_added(make_photos: Make, make_codebook: Make, tmp_path: Path) -> None:
    photos = make_photos(4)
    with Index.create(tmp_path / "a", make_codebook()) as index:
        index.add("a", photos[0])
        index.add("b", photos[1])
        assert index.search("a")[0].name == "a"
        index.add("a", photos[2], replace=True)
        assert np.array_equal(index.aggregated(["a"])[0].codes, index.aggregate(photos[2]).codes)
        assert [name for name, _ in index.search_all()] == ["b", "a"]


def test_what_is_not_there_is_said(make_photos: Make, make_archive: Make) -> None:
    with Index.open(make_archive(make_photos(6))) as index:
        asked: list[Callable[[], Any]] = [
            lambda: index.search("x.jpg"),
            lambda: index.search("000", among=["x.jpg"]),
            lambda: index.aggregated(["000", "x.jpg"]),
            lambda: index.search_all(names=["x.jpg"]),
            lambda: index.scores(["000"], ["x.jpg"]),
            lambda: index.common_words("000", "x.jpg"),
        ]
        for ask in asked:
            with pytest.raises(ConfigError, match=r"'x\.jpg' is not in .*archive:  ctxdeploy names"):
                ask()
        wrong = Aggregated(words=np.array([3, 2], np.int32), codes=np.zeros((2, 2), np.uint64))
        with pytest.raises(ConfigError, match="its words do not rise"):
            index.search(wrong)
        assert index.search("004") == [] and index.search("000", among=[]) == []
        assert dict(index.search_all())["004"] == [] and index.scores(["004"], ["000", "004"]).tolist() == [[0, 0]]


def test_photos_that_are_done_are_counted(make_photos: Make, make_archive: Make) -> None:
    seen: list[tuple[int, int]] = []
    with Index.open(make_archive(make_photos(70), IndexConfig(shard_images=30))) as index:
        assert len(list(index.search_all(progress=lambda done, total: seen.append((done, total))))) == 70
    assert seen == [(30, 70), (60, 70), (70, 70)]


def test_sums_of_scores(make_photos: Make, make_archive: Make) -> None:
    photos = make_photos(40)
    with Index.open(make_archive(photos, IndexConfig(shard_images=15)), threads=2) as index:
        asked = [[(photos[3], 1.0), ("007", 0.5), ("009", -0.25)], [], [("011", 1.0)], [("012", 0.0)]]
        found = index.search_combined(asked, 50)
        scores = [{hit.name: hit.score for hit in index.search(query, 50)} for query, _ in asked[0]]
        for hit in found[0]:
            first, second, third = (part.get(hit.name, 0.0) for part in scores)
            assert hit.score == first + 0.5 * second + -0.25 * third
        assert found[1:] == [[], index.search("011", 50), []]
        assert index.search_combined(asked * 8, 50) == found * 8  # together, and each alone


def test_queries_whose_words_were_found_ask_alike(make_photos: Make, make_archive: Make) -> None:
    photos = make_photos(40)
    with Index.open(make_archive(photos)) as index:
        queries = [photos[3], "007", photos[9]]
        asked = index.asked(queries)
        assert [(len(one.query.words) > len(one.own.words)) for one in asked] == [True, False, True]
        for expand in (0, 2):
            assert index.search_batch(asked, 9, expand=expand) == index.search_batch(queries, 9, expand=expand)
        assert index.search(asked[0], among=["003", "011"]) == index.search(photos[3], among=["003", "011"])


@pytest.mark.parametrize("assignment", [1, 2])
@pytest.mark.parametrize("binary", [True, False])
def test_with_geometry_a_photos_words_are_known(
    make_photos: Make,
    make_codebook: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assignment: int,
    binary: bool,
) -> None:
    photos, codebook = make_photos(40), make_codebook(words=200)
    added: dict[bool, Any] = {}
    for geometry in (False, True):
        config = IndexConfig(assignment=assignment, binary=binary, geometry=geometry, shard_images=25)
        with Index.create(tmp_path / str(geometry), codebook, config=config) as index:
            for number, vectors in enumerate(photos):
                places = np.zeros((len(vectors), 2), np.float32)
                index.add(f"{number:03d}", vectors, positions=places, scales=np.ones(len(vectors), np.float32))
        with Index.open(tmp_path / str(geometry)) as index:
            names = ["003", "004", "011", "030"]
            added[geometry] = (
                [(one.words.tolist(), one.codes.tolist()) for one in index.aggregated(names)],
                index.search("007", 40),
                index.search_batch(photos[:3], 40, among=["001", "029"]),
                index.search_batch(names * 5, 40, among=["001", "029"]),
            )
            if geometry and assignment == 1:
                monkeypatch.setattr(gather, "of_photos", None)  # not needed
                assert len(index.aggregated(names)) == 4
    assert added[True] == added[False]


def test_the_scores_of_few_photos_are_those_of_a_search(
    make_photos: Make, make_codebook: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With geometry their postings are taken out once for all queries, which are then compared together."""
    photos, codebook = make_photos(40), make_codebook(words=200)
    names, others = ["003", "030", "011"], ["030", "002", "003", "025", "039"]
    with Index.create(tmp_path / "a", codebook, config=IndexConfig(geometry=True, shard_images=25)) as index:
        for number, vectors in enumerate(photos):
            places = np.zeros((len(vectors), 2), np.float32)
            index.add(f"{number:03d}", vectors, positions=places, scales=np.ones(len(vectors), np.float32))
    with Index.open(tmp_path / "a") as index:
        expected = [{hit.name: hit.score for hit in index.search(name, 40)} for name in names]
        wanted = [[scores.get(other, 0.0) for other in others] for scores in expected]
        assert index.scores(names, others).tolist() == wanted
        monkeypatch.setattr(stored, "_SHARE", 0.4)
        taken, asked = stored.take, list[Any]()

        def take(shard: Any, photos: Any, words: Any, config: Any) -> Any:
            asked.append(words)
            return taken(shard, photos, words, config)

        monkeypatch.setattr(stored, "take", take)
        assert index.scores(names, others).tolist() == wanted
        assert asked == [None] * 4  # two shards, for the queries and for the photos


def test_geometry_that_does_not_belong_to_the_postings_is_not_believed(
    make_photos: Make, make_codebook: Make, tmp_path: Path
) -> None:
    photos = make_photos(8)
    with Index.create(tmp_path / "a", make_codebook(), config=IndexConfig(geometry=True)) as index:
        for number, vectors in enumerate(photos):
            index.add(f"{number:03d}", LocalDescriptors(vectors=vectors, positions=np.zeros((len(vectors), 2))))
    with Index.open(tmp_path / "a") as index:
        before = index.aggregated(["001"])[0]
        (shard,) = index.state.shards
        object.__setattr__(shard, "geometry_words", np.zeros_like(shard.geometry_words))
        after = index.aggregated(["001"])[0]
    assert np.array_equal(before.words, after.words) and np.array_equal(before.codes, after.codes)


def test_all_pairs_are_those_of_asmk(make_codebook: Make, tmp_path: Path) -> None:
    pytest.importorskip("asmk")
    rng, words = np.random.default_rng(0), 500
    with Index.create(tmp_path / "a", make_codebook(words=words), config=IndexConfig(shard_images=130)) as index:
        for chunk in draw_photos(300, 60, rng, words):
            for photo in chunk:
                index.add_aggregated(f"{len(index):03d}", photo)
    with Index.open(tmp_path / "a") as index:
        inverted, similarity = reference_of(index)
        names = list(index.names())
        found = dict(index.search_all(20))
        assert list(found) == names
        for number, query in enumerate(index.aggregated(names)):
            packed = np.ascontiguousarray(query.codes).view(np.uint32)
            ranks, values = inverted.search(packed, query.words, similarity_func=similarity, topk=300)
            scores = {names[rank]: value for rank, value in zip(ranks, values, strict=True) if rank != number}
            hits = found[names[number]]
            assert [hit.score for hit in hits] == pytest.approx(sorted(scores.values(), reverse=True)[:20], rel=1e-5)
            assert [hit.score for hit in hits] == pytest.approx([scores[hit.name] for hit in hits], rel=1e-5)


def test_a_snapshot_asks_with_what_it_held(make_photos: Make, make_archive: Make) -> None:
    path = make_archive(make_photos(20), IndexConfig(shard_images=7))
    with Index.open(path) as index:
        before = dict(index.search_all(5))
    with Index.open(path, writable=True) as index:
        index.snapshot("kept")
        running = index.search_all(5)
        first = next(running)
        index.remove(["003", "010"])
        index.compact(purge=True)
        assert dict([first, *running]) == before  # what was begun goes over the state in which it was
        after = dict(index.search_all(5))
        assert sorted(after) == sorted(before.keys() - {"003", "010"})
        assert not {"003", "010"} & {hit.name for hits in after.values() for hit in hits}
        with pytest.raises(ConfigError, match="'003' is not in"):
            index.search("003")
    with Index.open(path, at="kept") as index:
        assert dict(index.search_all(5)) == before and index.search("003")[0].name == "003"
