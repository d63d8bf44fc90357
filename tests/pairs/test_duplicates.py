"""Groups of photos that are one photo several times."""

from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.types import FileState
from ctxdeploy.index import Index
from ctxdeploy.pairs import DuplicatesConfig, find_duplicates

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
