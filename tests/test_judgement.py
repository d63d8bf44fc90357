"""The judgement of an archive: a probability for each hit."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctxdeploy import PhotoIndex
from ctxdeploy.archive import archive_problems
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.core.files import checksum
from ctxdeploy.demo.photos import scene_of, write_photos
from ctxdeploy.index import Codebook, DescriptorSource, Index
from ctxdeploy.judgement import FOUND, JUDGEMENT, LINKS, Judgement, judge_archive, judgement_of
from ctxdeploy.models import built_in

USUAL = Judgement(photos=790, sampled=256, level=-9.3, shape=1.6, low=-0.35, high=0.4, query_words=5)
SCORE = st.floats(0.0, 1.0)
KIND = st.sampled_from(["words", "codes", "descriptors"])
DIM, WORDS = 32, 64


def _weibull(rows: int, columns: int, level: float, shape: float, seed: int) -> NDArray[np.float64]:
    """Return scores of unrelated photos whose law is known."""
    random = np.random.default_rng(seed)
    return np.asarray(np.exp(level + shape * np.log(random.exponential(size=(rows, columns)))))


def _with_selves(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    np.fill_diagonal(scores, np.nan)
    return scores


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    random = np.random.default_rng(7)
    return Codebook(random.normal(size=(WORDS, DIM)).astype(np.float32))


def _photo(random: np.random.Generator, codebook: Codebook, count: int = 60) -> NDArray[np.float32]:
    near = np.asarray(codebook.centroids)[random.integers(WORDS, size=count)]
    return (near + random.normal(size=(count, DIM))).astype(np.float32)


def _archive(path: Path, codebook: Codebook, photos: dict[str, NDArray[np.float32]]) -> Index:
    bundle = bundles.open(built_in("lite-small"), check_hashes=False)
    source = DescriptorSource(model=bundle.model_id, preprocessing=bundle.preprocessing.hash)
    index = Index.create(path, codebook, source=source)
    for name, vectors in photos.items():
        index.add(name, vectors)
    index.commit()
    return index


# The probability itself.


@given(
    scores=st.lists(SCORE, min_size=1, max_size=8),
    inliers=st.lists(st.integers(-1, 256), min_size=8, max_size=8),
    ranking=st.none() | st.lists(SCORE, min_size=50, max_size=50),
    photos=st.integers(0, 10**7),
    stored=st.booleans(),
    kind=KIND,
)
def test_it_is_a_probability(
    scores: list[float],
    inliers: list[int],
    ranking: list[float] | None,
    photos: int,
    stored: bool,
    kind: str,
) -> None:
    top = None if ranking is None else -np.sort(-np.array(ranking))
    verified = np.array(inliers[: len(scores)])
    for given_inliers in (None, verified):
        found = USUAL.probabilities(
            np.array(scores), photos=photos, ranking=top, stored=stored, inliers=given_inliers, matches=kind
        )
        assert found.shape == (len(scores),) and found.dtype == np.float64
        assert np.isfinite(found).all() and (found >= 0).all() and (found <= 1).all()


@given(
    score=SCORE,
    more=st.floats(1.0, 100.0),
    inliers=st.integers(0, 256),
    further=st.integers(0, 256),
    others=st.lists(SCORE, min_size=49, max_size=49),
    photos=st.integers(0, 10**6),
    stored=st.booleans(),
    kind=KIND,
)
def test_it_rises_with_the_score_and_with_the_inliers(
    score: float, more: float, inliers: int, further: int, others: list[float], photos: int, stored: bool, kind: str
) -> None:
    """The ranking is that in which the score stands: a higher one raises what is expected, by less than itself."""

    def probability(score: float, inliers: int | None) -> float:
        ranking = -np.sort(-np.array([score, *others]))
        verified = None if inliers is None else np.array([inliers])
        found = USUAL.probabilities(
            np.array([score]), photos=photos, ranking=ranking, stored=stored, inliers=verified, matches=kind
        )
        return float(found[0])

    for verified in (None, inliers):
        assert probability(score * more, verified) >= probability(score, verified)
    assert probability(score, inliers + further) >= probability(score, inliers)


@given(photos=st.integers(10, 10**6), more=st.integers(1, 10**6), score=st.floats(1e-6, 1.0), stored=st.booleans())
def test_the_same_score_says_less_among_more_photos(photos: int, more: int, score: float, stored: bool) -> None:
    few, many = (
        USUAL.probabilities(np.array([score]), photos=count, stored=stored)[0] for count in (photos, photos + more)
    )
    assert many <= few


@pytest.mark.parametrize("kind", ["words", "codes", "descriptors"])
def test_a_hit_that_was_not_verified_is_judged_by_its_score(kind: str) -> None:
    scores = np.array([0.02, 0.002, 0.001])
    alone = USUAL.probabilities(scores, photos=790)
    some = USUAL.probabilities(scores, photos=790, inliers=np.array([-1, 200, -1]), matches=kind)
    assert some[0] == alone[0] and some[2] == alone[2] and some[1] > alone[1] + 0.2


@given(score=SCORE, inliers=st.integers(0, 256), stored=st.booleans(), kind=KIND)
def test_few_inliers_do_not_lower_it(score: float, inliers: int, stored: bool, kind: str) -> None:
    """A part of a photo has few features, and a scene in relief has no one map."""
    alone, verified = (
        USUAL.probabilities(np.array([score]), photos=790, stored=stored, inliers=np.array([count]), matches=kind)[0]
        for count in (-1, inliers)
    )
    assert verified >= alone


def test_what_no_photo_scores_is_not_found_and_what_none_of_unrelated_ones_scores_is() -> None:
    best = USUAL.expected_best(790)
    found = USUAL.probabilities(np.array([0.0, best, 6 * best]), photos=790)
    assert found[0] < 1e-6 and found[1] < 0.5 and found[2] > 0.99


def test_a_query_that_scores_with_everything_needs_more() -> None:
    usual = USUAL.expected_best(790)
    score = np.array([1.5 * usual])
    plain, busy = (USUAL.probabilities(score, photos=790, ranking=np.full(50, usual * part))[0] for part in (0.35, 0.9))
    assert busy < plain


def test_a_photo_that_was_turned_to_be_asked_needs_more() -> None:
    scores = USUAL.expected_best(790) * np.array([10.0, 2.5, 1.0])
    upright, turned = (USUAL.probabilities(scores, photos=790, turned=turned) for turned in (False, True))
    assert (turned < upright).all()
    assert turned[0] > FOUND and upright[1] > FOUND > turned[1]


def test_a_match_of_a_sure_hit_is_found_and_one_of_a_doubtful_hit_is_not() -> None:
    scores = np.array([0.1, 0.001])
    link = 0.1
    sure = USUAL.probabilities(scores, photos=790, links=np.array([[0.0, link]]))
    assert sure[1] > FOUND and sure[1] <= sure[0]
    doubtful = USUAL.probabilities(np.array([0.002, 0.001]), photos=790, links=np.array([[0.0, link]]))
    assert doubtful[1] <= doubtful[0] < FOUND
    assert (
        USUAL.probabilities(scores, photos=790, links=np.zeros((LINKS, 2))) == USUAL.probabilities(scores, photos=790)
    ).all()


@given(scores=st.lists(SCORE, min_size=3, max_size=3), link=SCORE)
def test_links_never_lower_a_probability(scores: list[float], link: float) -> None:
    alone = USUAL.probabilities(np.array(scores), photos=500)
    linked = USUAL.probabilities(np.array(scores), photos=500, links=np.array([[0.0, link, link], [link, 0.0, link]]))
    assert (linked >= alone).all() and (linked <= max(alone)).all()


# The fit.


@pytest.mark.parametrize(("level", "shape"), [(-9.3, 1.6), (-8.8, 1.1)])
def test_the_law_of_the_scores_is_found_again(level: float, shape: float) -> None:
    scores = _with_selves(_weibull(256, 2048, level, shape, seed=1))
    found = Judgement.fit(scores, photos=10**6)
    assert found.level == pytest.approx(level, abs=0.05) and found.shape == pytest.approx(shape, abs=0.03)
    assert found.sampled == 256 and found.photos == 10**6
    # Of a million such scores the best is known to be near level + shape · log(log(a million)).
    best = np.median(np.log(_weibull(50, 10**5, level, shape, seed=2).max(axis=1)))
    assert math.log(found.expected_best(10**5, stored=True)) == pytest.approx(best, abs=0.15)


def test_photos_of_the_same_hardly_move_it() -> None:
    """Scenes of 10 among 1000, of which a photo scores fifteen times the best unrelated one."""
    scores = _weibull(256, 1000, -9.3, 1.6, seed=3)
    plain = Judgement.fit(_with_selves(scores.copy()), photos=1000)
    scene = np.arange(256)[:, None] // 10 == np.arange(1000)[None] // 10
    related = Judgement.fit(_with_selves(np.where(scene, 0.05, scores)), photos=1000)
    assert math.log(related.expected_best(1000) / plain.expected_best(1000)) == pytest.approx(0.08, abs=0.08)


def test_an_archive_of_one_thing_alone_still_finds_it() -> None:
    scores = np.exp(np.random.default_rng(4).normal(-3.5, 0.6, (64, 64)))
    found = Judgement.fit(_with_selves(scores), photos=64)
    assert found.probabilities(np.array([math.exp(-3.5)]), photos=64)[0] > FOUND


def test_an_archive_of_identical_photos_is_judged(codebook: Codebook, tmp_path: Path) -> None:
    photo = _photo(np.random.default_rng(1), codebook)
    with _archive(tmp_path / "a.ctxindex", codebook, {f"{i}.jpg": photo for i in range(40)}) as index:
        found = judge_archive(index)
        scores = np.array([hit.score for hit in index.search(photo, top=50)])
        assert (found.probabilities(scores, photos=40) > FOUND).all()


@pytest.mark.parametrize("count", [0, 1, 2, 10])
def test_small_archives_are_judged_by_what_is_known_of_others(count: int, codebook: Codebook, tmp_path: Path) -> None:
    random = np.random.default_rng(count)
    photos = {f"{i}.jpg": _photo(random, codebook) for i in range(count)}
    with _archive(tmp_path / "a.ctxindex", codebook, photos) as index:
        found = judge_archive(index)
    assert found.photos == count and found.sampled == (count if count > 1 else 0)
    known = Judgement.fit(np.empty((0, 0)), photos=0)
    assert abs(math.log(found.expected_best(count) / known.expected_best(count))) <= math.log(3) + 1e-9
    sure, unsure = found.probabilities(np.array([0.1, 0.0003]), photos=count)
    assert sure > FOUND > 0.5 > unsure


def test_an_archive_of_another_model_is_judged_by_its_own_photos_alone(codebook: Codebook, tmp_path: Path) -> None:
    """Of its scores nothing is known beforehand: in a small archive in which all score alike, nothing is certain."""
    random = np.random.default_rng(3)
    photo = _photo(random, codebook)
    photos = {f"{i}.jpg": photo + random.normal(0, 0.1, photo.shape).astype(np.float32) for i in range(10)}
    with Index.create(tmp_path / "a.ctxindex", codebook) as index:
        for name, vectors in photos.items():
            index.add(name, vectors)
        index.commit()
        found = judge_archive(index)
        scores = np.array([hit.score for hit in index.search(photo, top=10)])
    assert found.level != Judgement.fit(np.empty((0, 0)), photos=0).level
    assert (found.probabilities(scores, photos=10) < FOUND).all()
    with _archive(tmp_path / "b.ctxindex", codebook, photos) as index:
        assert (judge_archive(index).probabilities(scores, photos=10) > FOUND).all()


def test_photos_without_descriptors_do_no_harm(codebook: Codebook, tmp_path: Path) -> None:
    nothing = np.empty((0, DIM), np.float32)
    with _archive(tmp_path / "a.ctxindex", codebook, {f"{i}.jpg": nothing for i in range(5)}) as index:
        found = judge_archive(index)
    assert math.isfinite(found.level) and found.shape > 0


def test_it_does_not_depend_on_order_or_shards(codebook: Codebook, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    photos = {f"{i:03d}.jpg": _photo(random, codebook) for i in range(60)}
    with _archive(tmp_path / "a.ctxindex", codebook, photos) as index:
        one = judge_archive(index)
        assert judge_archive(index) == one
    with _archive(tmp_path / "b.ctxindex", codebook, {}) as index:
        for number, name in enumerate(reversed(photos)):
            index.add(name, photos[name])
            if number % 25 == 0:
                index.commit()
        index.commit()
        assert judge_archive(index) == one


@pytest.mark.slow  # the built-in network describes 55 photos
def test_real_photos_are_found_and_those_of_something_else_are_not(tmp_path: Path) -> None:
    photos, queries = write_photos(tmp_path)
    others = {"astronaut", "coffee", "moon", "page", "stereo_motorcycle"}
    for path in (*photos.iterdir(), *queries):  # which look like a lawn
        if scene_of(path.name) in ("gravel", "brick"):
            path.unlink()
    with PhotoIndex.create(tmp_path / "demo.ctxindex") as archive:
        archive.add([(path.name, path) for path in sorted(photos.iterdir()) if scene_of(path.name) not in others])
        answers = {scene_of(query.name): archive.search(query) for query in queries if query.exists()}
    assert Judgement.load(tmp_path / "demo.ctxindex") is not None
    for scene, hits in answers.items():
        found = [hit.name for hit in hits if (hit.probability or 0.0) >= FOUND]
        assert {scene_of(name) for name in found} == (set() if scene in others else {scene}), (scene, hits)


# On disk.


def test_it_is_stored_and_read(tmp_path: Path) -> None:
    assert Judgement.load(tmp_path) is None
    USUAL.save(tmp_path)
    assert Judgement.load(tmp_path) == USUAL
    facts = json.loads((tmp_path / JUDGEMENT).read_text())
    assert (facts.pop("format"), facts.pop("format_version")) == ("ctxdeploy-judgement", 1)
    assert facts.pop("checksum") and facts == asdict(USUAL)


def _changed(change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        facts = json.loads(data)
        change(facts)
        return json.dumps({**facts, "checksum": checksum(facts)} if sealed else facts).encode()

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-10],
        lambda data: b"[1]",
        lambda data: b"[" * 50_000,
        lambda data: b"\xff" + data,
        lambda data: data + b" " * (1 << 16),
        _changed(lambda facts: facts.update(level=-8.0), sealed=False),
        _changed(lambda facts: facts.update(level="low")),
        _changed(lambda facts: facts.update(shape=0)),
        _changed(lambda facts: facts.update(level=float("nan"))),
        _changed(lambda facts: facts.pop("photos")),
        _changed(lambda facts: facts.update(format_version=2)),
    ],
)
def test_a_damaged_file_is_one_line_and_is_made_anew(
    damage: Callable[[bytes], bytes], codebook: Codebook, tmp_path: Path
) -> None:
    archive = tmp_path / "a.ctxindex"
    random = np.random.default_rng(6)
    with _archive(archive, codebook, {f"{i}.jpg": _photo(random, codebook) for i in range(3)}) as index:
        sound = judgement_of(index)
        path = archive / JUDGEMENT
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(ArchiveError) as error:
            Judgement.load(archive)
        assert "\n" not in str(error.value) and str(path) in str(error.value)
        assert archive_problems(archive) == [str(error.value)]
        assert judgement_of(index) == sound and Judgement.load(archive) == sound
    assert archive_problems(archive) == []


def test_it_is_fitted_anew_when_a_fifth_of_the_photos_are_others(codebook: Codebook, tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    archive = tmp_path / "a.ctxindex"
    with _archive(archive, codebook, {f"{i}.jpg": _photo(random, codebook) for i in range(10)}) as index:
        assert judgement_of(index, keep=False).photos == 10 and not (archive / JUDGEMENT).exists()
        first = judgement_of(index)
        for number in (10, 11):
            index.add(f"{number}.jpg", _photo(random, codebook))
            index.commit()
            assert judgement_of(index) == first
        index.add("12.jpg", _photo(random, codebook))
        index.commit()
        assert judgement_of(index).photos == 13
        index.remove([f"{i}.jpg" for i in range(6)])
        index.commit()
        assert judgement_of(index).photos == 7


def test_an_archive_that_cannot_be_written_is_judged_all_the_same(
    codebook: Codebook, tmp_path: Path, full_disk: Callable[[], Any]
) -> None:
    random = np.random.default_rng(9)
    with _archive(tmp_path / "a.ctxindex", codebook, {f"{i}.jpg": _photo(random, codebook) for i in range(3)}) as index:
        with full_disk():
            found = judgement_of(index)
        assert found.photos == 3 and not (tmp_path / "a.ctxindex" / JUDGEMENT).exists()


@pytest.mark.parametrize(
    "change", [{"photos": -1}, {"level": math.inf}, {"shape": 0.0}, {"low": 0.5}, {"high": -0.5}, {"query_words": 0}]
)
def test_values_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        replace(USUAL, **change)
