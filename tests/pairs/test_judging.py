"""Pairs that are compared by geometry, and left out by their probability."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctxdeploy import PhotoIndex
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index import Codebook, Index, IndexConfig, VerificationConfig, verify
from ctxdeploy.judgement import judgement_of
from ctxdeploy.pairs import PairsConfig, encode_pairs

NAMES = [f"{scene}{n}.jpg" for scene in "abc" for n in range(3)]


@pytest.fixture
def archive(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that makes an archive of three scenes, each seen from three places, and 40 others."""

    def make(geometry: str) -> Path:
        random = np.random.default_rng(7)
        path = tmp_path / f"{geometry}.ctxindex"
        codebook = Codebook(random.standard_normal((2048, 64)).astype(np.float32))
        scenes = random.standard_normal((3, 60, 64))
        places = random.uniform(50, 900, (3, 60, 2))
        with Index.create(path, codebook, config=IndexConfig(geometry=geometry)) as index:
            for number, name in enumerate(NAMES):
                scene, view = divmod(number, 3)
                vectors = (scenes[scene] + 0.25 * random.standard_normal((60, 64))).astype(np.float32)
                shown = (places[scene] * (1 - 0.1 * view) + 10 * view).astype(np.float32)
                where = {} if geometry == "none" else {"positions": shown, "scales": np.ones(60), "size": (1000, 1000)}
                index.add(name, vectors, **where)
            for number in range(40):
                vectors = random.standard_normal((60, 64)).astype(np.float32)
                shown = random.uniform(0, 1000, (60, 2)).astype(np.float32)
                where = {} if geometry == "none" else {"positions": shown, "scales": np.ones(60), "size": (1000, 1000)}
                index.add(f"n{number}.jpg", vectors, **where)
        return path

    return make


def same_scene(name: str, other: str) -> bool:
    return name[0] == other[0] != "n"


@pytest.mark.parametrize(
    ("geometry", "matches"), [("codes", "codes"), ("descriptors", "descriptors"), ("positions", "words")]
)
def test_inliers_and_probabilities_are_those_of_the_pairs_one_by_one(archive, geometry: str, matches: str) -> None:
    path = archive(geometry)
    with PhotoIndex.open(path) as photos, Index.open(path) as index:
        found = photos.pairs(PairsConfig(top=4, verify=True, min_probability=0))
        judgement = judgement_of(index, keep=False)
        depth = judgement.depth(len(index))
        assert found.inliers is not None and found.probabilities is not None
        for (name, other, score), inliers, probability in zip(found, found.inliers, found.probabilities, strict=True):
            (wanted,) = verify(index.features(name), [index.features(other)], VerificationConfig(matches=matches))
            assert inliers == wanted.inliers
            views = []
            for asked in (name, other):
                ranking = np.array(
                    [hit.score for hit in index.search(asked, top=depth + 1) if hit.name != asked][:depth]
                )
                views += judgement.probabilities(
                    np.array([score]),
                    photos=len(index),
                    ranking=ranking,
                    stored=True,
                    inliers=np.array([inliers]),
                    matches=matches,
                ).tolist()
            assert probability == pytest.approx(max(views))


def test_pairs_that_are_not_sure_are_left_out(archive) -> None:
    path = archive("codes")
    with PhotoIndex.open(path) as photos:
        all_pairs = photos.pairs(PairsConfig(top=4, verify=True, min_probability=0))
        sure = photos.pairs(PairsConfig(top=4, verify=True, min_probability=0.5))
        usual = photos.pairs(PairsConfig(top=4, verify=True))
        by_score = photos.pairs(PairsConfig(top=4, min_probability=0.5))
    assert all_pairs.probabilities is not None
    found = list(zip(all_pairs, all_pairs.probabilities.tolist(), strict=True))
    assert list(sure) == [pair for pair, probability in found if probability >= 0.5]
    assert list(usual) == [pair for pair, probability in found if probability >= 0.05], "where nothing else is said"
    assert len(sure) < len(all_pairs)
    assert sum(same_scene(*pair[:2]) for pair in sure) == 9 > sum(not same_scene(*pair[:2]) for pair in sure)
    assert sum(same_scene(*pair[:2]) for pair in by_score) == 9 and by_score.inliers is None


def test_bridges_are_compared_and_judged_too(archive) -> None:
    with PhotoIndex.open(archive("codes")) as photos:
        found = photos.pairs(PairsConfig(top=4, verify=True, min_probability=0.9, connected=True))
    assert found.parts == 1 and found.probabilities is not None and found.inliers is not None
    assert len(found.bridges) >= 40, "the photos of nothing are in no sure pair"
    assert (found.inliers[found.bridges] >= 0).all() and not np.isnan(found.probabilities).any()
    others = np.setdiff1d(np.arange(len(found)), found.bridges)
    assert (found.probabilities[others] >= 0.9).all()


def test_photos_that_were_not_asked_lend_no_probability(archive) -> None:
    with PhotoIndex.open(archive("codes")) as photos:
        found = photos.pairs(PairsConfig(top=2, verify=True, min_probability=0.5, queries=["a0.jpg"], mapped=NAMES))
    assert [(name, other) for name, other, _ in found] in (
        [("a0.jpg", "a1.jpg"), ("a0.jpg", "a2.jpg")],
        [("a0.jpg", "a2.jpg"), ("a0.jpg", "a1.jpg")],
    )


def test_csv_has_what_is_known_of_each_pair(archive) -> None:
    with PhotoIndex.open(archive("codes")) as photos:
        found = photos.pairs(PairsConfig(top=2, verify=True))
    assert found.inliers is not None and found.probabilities is not None
    head, *lines = b"".join(encode_pairs(found, "csv")).decode().splitlines()
    assert head == "name,other,score,inliers,probability"
    rows = zip(found, found.inliers.tolist(), found.probabilities.tolist(), strict=True)
    assert lines == [f"{n},{o},{s!r},{inliers},{sure!r}" for (n, o, s), inliers, sure in rows]
    assert b"".join(encode_pairs(found, "hloc")).decode().splitlines() == [f"{n} {o}" for n, o, _ in found]


def test_an_archive_without_geometry_says_what_to_do(archive) -> None:
    path = archive("none")
    with (
        PhotoIndex.open(path) as photos,
        pytest.raises(
            ConfigError,
            match=r"--verify compares their positions: .* -o NEW --geometry",
        ),
    ):
        photos.pairs(PairsConfig(verify=True))


@pytest.mark.parametrize("least", [-0.1, 1.1])
def test_a_probability_out_of_range_is_refused(least: float) -> None:
    with pytest.raises(ConfigError, match="--min-probability"):
        PairsConfig(min_probability=least)
