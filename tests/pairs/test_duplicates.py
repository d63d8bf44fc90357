"""Groups of photos that are one photo several times."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.types import FileState
from ctxdeploy.index import Codebook, Index, IndexConfig, Verification
from ctxdeploy.pairs import DuplicatesConfig, find_duplicates
from ctxdeploy.pairs.duplicates import is_same_frame

SILENT = Display(quiet=True)
NAMES = [f"{n}.jpg" for n in range(9)]


def groups_of(archive: Path, least: float) -> list[list[str]]:
    with Index.open(archive) as index:
        return [
            [one.name for one in group] for group in find_duplicates(index, DuplicatesConfig(min_score=least), SILENT)
        ]


def joined(scores: dict[str, dict[str, float]], least: float) -> set[frozenset[str]]:
    """Return groups by joining whatever has a pair between, until nothing changes."""
    groups = [{name} for name in scores]
    while True:
        pair = next(
            ((a, b) for a in groups for b in groups if a is not b and any(scores[x][y] >= least for x in a for y in b)),
            None,
        )
        if pair is None:
            return {frozenset(group) for group in groups if len(group) > 1}
        groups.remove(pair[1])
        pair[0].update(pair[1])


@pytest.mark.parametrize("quantile", [0.5, 0.8, 0.9, 0.97])
def test_groups_are_what_high_scores_join(make_archive, all_scores, some_photos, quantile: float) -> None:
    photos = some_photos(NAMES, scenes=4, seed=2)
    scores = all_scores(photos)
    least = float(np.quantile([scores[a][b] for a in NAMES for b in NAMES if a < b], quantile)) + 1e-7
    found = groups_of(make_archive(photos), least)
    assert {frozenset(group) for group in found} == joined(scores, least)


def test_the_largest_file_is_kept_and_scores_fall(make_archive) -> None:
    vectors = np.random.default_rng(4).standard_normal((40, 16)).astype(np.float32)
    archive = make_archive({"a.jpg": vectors[:38], "other.jpg": -vectors[:5]})
    with Index.open(archive, writable=True) as index:
        for name, kept, size in (("b.jpg", 30, 70), ("c.jpg", 39, 90), ("d.jpg", 40, 90)):
            index.add(name, vectors[:kept], file=FileState(size=size, mtime_ns=1))
    with Index.open(archive) as index:
        (group,) = find_duplicates(index, DuplicatesConfig(min_score=0.5), SILENT)
    assert group[0].name == "c.jpg", "of equal sizes the first by name"
    assert {one.name: one.size for one in group} == {"a.jpg": None, "b.jpg": 70, "c.jpg": 90, "d.jpg": 90}
    scores = [one.score for one in group[1:]]
    assert scores == sorted(scores, reverse=True) and group[-1].name == "b.jpg" and scores[0] > scores[-1]


def test_many_copies_of_one_photo_are_one_group(make_archive, some_photos) -> None:
    photo = some_photos(["a"])["a"]
    names = [f"{n:03d}.jpg" for n in range(150)]
    (group,) = groups_of(make_archive(dict.fromkeys(names, photo)), 0.9)
    assert group == names


def test_photos_without_descriptors_are_no_duplicates(make_archive, some_photos) -> None:
    empty = np.empty((0, 16), np.float32)
    assert groups_of(make_archive({"a": empty, "b": empty}), 0.01) == []


@pytest.mark.parametrize("least", [0, -1, 1.5])
def test_a_least_score_out_of_range_is_refused(least: float) -> None:
    with pytest.raises(ConfigError, match="--min-score"):
        DuplicatesConfig(min_score=least)


def found_at(affine: list[list[float]], inliers: int = 60) -> Verification:
    """A verification whose map is a little off; three matches in four lie where ``affine`` says."""
    random, table = np.random.default_rng(0), np.array(affine, np.float64)
    points = random.uniform(0, 300, (80, 2))
    shown = points @ table[:, :2].T + table[:, 2]
    shown[:20] += random.uniform(-20, 20, (20, 2))
    near = table + np.array([[0.01, -0.01, 5], [0.01, 0.01, -5]])
    both = points.astype(np.float32), shown.astype(np.float32)
    return Verification(inliers=inliers, affine=near, query_points=both[0], photo_points=both[1], box=None)


FRAME = np.array([0.0, 0.0, 800.0, 600.0])
HALF = np.array([0.0, 0.0, 400.0, 300.0])


@pytest.mark.parametrize(
    ("affine", "frame", "other", "is_same"),
    [
        ([[1, 0, 0], [0, 1, 0]], FRAME, FRAME, True),
        ([[0.5, 0, 0], [0, 0.5, 0]], FRAME, HALF, True),
        ([[1, 0, 40], [0, 1, 30]], np.array([0.0, 0.0, 720.0, 540.0]), FRAME, True),  # 5 % cut at each edge
        ([[1, 0, 90], [0, 1, 80]], np.array([0.0, 0.0, 600.0, 450.0]), FRAME, False),  # much more
        ([[1, 0, 60], [0, 1, 0]], FRAME, FRAME, False),  # the camera moved: each shows what the other does not
        ([[1, 0.06, 0], [-0.06, 1, 0]], FRAME, FRAME, False),  # turned
        ([[1, 0, 0], [0, 1.12, 0]], FRAME, FRAME, False),  # stretched
        ([[-1, 0, 800], [0, 1, 0]], FRAME, FRAME, False),  # mirrored
        ([[0, 0, 0], [0, 0, 0]], FRAME, FRAME, False),
    ],
)
def test_one_frame_lies_on_the_other(affine: list[list[float]], frame: Any, other: Any, is_same: bool) -> None:
    assert is_same_frame(found_at(affine), frame, other) is is_same
    if is_same:  # in the other direction too
        linear = np.linalg.inv(np.array(affine)[:, :2])
        back = np.column_stack([linear, -linear @ np.array(affine)[:, 2]])
        assert is_same_frame(found_at(back.tolist()), other, frame)
        assert not is_same_frame(found_at(affine, inliers=29), frame, other)


def test_photos_are_compared_by_their_positions(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    codebook = Codebook(random.standard_normal((512, 16)).astype(np.float32))
    vectors = random.standard_normal((200, 16)).astype(np.float32)
    places = random.uniform(0, 1000, (200, 2)).astype(np.float32)
    # Of half the size: found at twice the scale. The third has the same things elsewhere.
    seen = {"a.jpg": (places, 1.0), "b.jpg": (places / 2, 2.0), "c.jpg": (random.permutation(places), 1.0)}
    with Index.create(tmp_path / "a", codebook, config=IndexConfig(geometry="codes")) as index:
        for name, (shown, scale) in seen.items():
            side = int(1000 / scale)
            index.add(name, vectors, positions=shown, scales=np.full(200, scale), size=(side, side))
    with Index.open(tmp_path / "a") as index:
        (by_score,) = find_duplicates(index, DuplicatesConfig(), SILENT)
        (by_positions,) = find_duplicates(index, DuplicatesConfig(verify=True), SILENT)
    assert [one.name for one in by_score] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [one.name for one in by_positions] == ["a.jpg", "b.jpg"]


def test_an_archive_without_positions_says_what_to_do(make_archive, some_photos) -> None:
    with (
        Index.open(make_archive(some_photos(["a", "b"]))) as index,
        pytest.raises(ConfigError, match=r"keeps nothing of its .* -o NEW --geometry"),
    ):
        find_duplicates(index, DuplicatesConfig(verify=True), SILENT)
