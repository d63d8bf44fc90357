"""Groups of photos that are one photo several times: recompressed, resized a little, cut at an edge."""

from array import array
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.core.text import name_bytes
from ctxdeploy.core.types import FileState
from ctxdeploy.pairs.bridges import by_name, parts_of
from ctxdeploy.pairs.columns import Columns
from ctxdeploy.pairs.judging import matches_of, verifications

if TYPE_CHECKING:
    from ctxdeploy.index import Index, Verification

# Others that each photo is compared with: those that score best.
_TOP = 64
# By score alone: photos that were brightened or compressed anew have more, neighbouring frames of a walk mostly less.
# With positions the score need only find candidates.
_BY_SCORE, _BY_POSITIONS = 0.15, 0.03


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig:
    """What counts as the same photo.

    Attributes:
        min_score: of two photos, in the search for one with the other's archived codes; a photo has 1 with itself. See
            docs/pairs.md for what planted duplicates and neighbouring frames have. None for 0.15, with ``verify`` 0.03.
        verify: only if one photo's frame lies on the other's, by what the archive keeps of their features: see
            ``is_same_frame``.
    """

    min_score: float | None = setting(
        None, "--min-score", "Photos that score this or more are the same.", default_text="0.15, with --verify 0.03"
    )
    verify: bool = setting(False, "--verify", "Only if their frames lie on each other (archives with --geometry).")

    def __post_init__(self) -> None:
        check_types(self)
        if self.min_score is not None and not 0 < self.min_score <= 1:
            raise ConfigError(f"--min-score {self.min_score:g} is not above 0 and at most 1")

    @property
    def least_score(self) -> float:
        """The score that counts."""
        return self.min_score if self.min_score is not None else _BY_POSITIONS if self.verify else _BY_SCORE


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A photo of a group.

    Attributes:
        name: of the photo.
        score: its highest with another photo of the group that it is the same as.
        size: bytes of its file; None if they are not known.
    """

    name: str
    score: float
    size: int | None


def find_duplicates(index: "Index", config: DuplicatesConfig, display: Display) -> list[list[Duplicate]]:
    """Return groups of at least two photos, in order of their first names.

    Two photos are of one group if one can get from one to the other by pairs that are the same; each photo is compared
    with the 64 that score best. The first of a group is the one to keep: the largest file, of equal ones the first by
    name; the others stand by falling score.

    Args:
        index: the archive.
        config: what counts as the same.
        display: where progress goes.

    Raises:
        ConfigError: ``verify``, and the archive keeps no positions.
        ArchiveError: the archive is closed.
    """
    names, pairs = same_pairs(index, config, display)
    best = np.zeros(len(names))
    for ends in (pairs.first, pairs.second):
        np.maximum.at(best, ends, pairs.scores)
    part = parts_of(len(names), pairs.first, pairs.second)
    groups = defaultdict[int, list[int]](list)
    for photo in np.flatnonzero(best):
        groups[int(part[photo])].append(int(photo))
    files = index.known() if groups else {}
    return [_in_order([_duplicate(names[i], float(best[i]), files) for i in group]) for group in groups.values()]


def same_pairs(index: "Index", config: DuplicatesConfig, display: Display) -> tuple[list[str], Columns]:
    """Return the names of all photos, in order, and the pairs of them that are the same; see ``find_duplicates``."""
    matches = matches_of(index) if config.verify else ""
    names, numbers = by_name(index)
    pairs = _alike(index, numbers, config.least_score, display)
    if not config.verify:
        return names, pairs
    kept = np.zeros(len(pairs.first), np.bool_)
    for places, found in verifications(index, names, pairs, matches, display):
        frames = [_frame(index, names[photo]) for photo in (pairs.first[places[0]], *pairs.second[places])]
        kept[places] = [is_same_frame(one, frames[0], other) for one, other in zip(found, frames[1:], strict=True)]
    return names, pairs.at(np.flatnonzero(kept))


def _alike(index: "Index", numbers: dict[str, int], least: float, display: Display) -> Columns:
    """Return the pairs that score at least so much."""
    first, second, scores = array("i"), array("i"), array("d")
    with display.progress("duplicates", len(numbers)) as progress:
        for name, hits in index.search_all(_TOP):
            for hit in takewhile(lambda hit: hit.score >= least, hits):
                first.append(numbers[name])
                second.append(numbers[hit.name])
                scores.append(hit.score)
            progress.advance()
    return Columns.of(first, second, scores, bridge=False).once(len(numbers))


def _duplicate(name: str, score: float, files: Mapping[str, FileState | None]) -> Duplicate:
    state = files.get(name)
    return Duplicate(name=name, score=score, size=None if state is None else state.size)


def _in_order(group: list[Duplicate]) -> list[Duplicate]:
    kept = min(group, key=lambda one: (-(one.size or 0), name_bytes(one.name)))
    return [
        kept,
        *sorted((one for one in group if one is not kept), key=lambda one: (-one.score, name_bytes(one.name))),
    ]


def _frame(index: "Index", name: str) -> NDArray[np.float64]:
    """Return the corners of a photo, x0, y0, x1, y1; of one whose size is not known those of its features."""
    features = index.features(name)
    if features is None or not len(features):
        return np.zeros(4)
    if features.size is not None:
        return np.array([0.0, 0.0, *features.size])
    return np.concatenate([features.positions.min(axis=0), features.positions.max(axis=0)]).astype(np.float64)


# Of planted duplicates 98 % pass this, of pairs of neighbouring frames that score as much one in forty.
_CELLS, _BEND, _INSIDE, _CUT = 30, 0.03, 0.02, 0.08
# A map allows for what stands out of a plane; of a copy the half of the matches that fit best decides.
_ROUNDS, _SHARE = 6, 0.5


def is_same_frame(found: "Verification", frame: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return whether one photo is the other, scaled and cut a little.

    That is: at least 30 inliers; a map that neither turns nor shears, by more than 0.03; one frame within the other but
    for 2 % of its sides, and the other beyond it by at most 8 % of its own on each side. The map is fitted to the half
    of the matches that agree best with it, six times.

    Args:
        found: of the photos.
        frame, other: x0, y0, x1, y1 of the first and the second photo, in its pixels.
    """
    if found.affine is None or found.inliers < _CELLS:
        return False
    affine = _sharpened(found.affine, found.query_points.astype(np.float64), found.photo_points.astype(np.float64))
    linear, shift = affine[:, :2], affine[:, 2]
    area = float(np.linalg.det(linear))
    if not area > 0 or np.abs(linear / np.sqrt(area) - np.eye(2)).max() > _BEND:
        return False
    back = np.linalg.inv(linear).astype(np.float64)
    beyond = _beyond(linear, shift, frame, other), _beyond(back, -back @ shift, other, frame)
    return min(beyond) <= _INSIDE and max(beyond) <= _CUT


def _sharpened(
    affine: NDArray[np.float64], points: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a 2×3 map of points onto others, fitted to those that agree best with it, again and again."""
    rows = np.column_stack([points, np.ones(len(points))])
    for _ in range(_ROUNDS):
        misses = np.linalg.norm(rows @ affine.T - others, axis=1)
        good = misses <= np.quantile(misses, _SHARE)
        affine = np.linalg.lstsq(rows[good], others[good], rcond=None)[0].T
    return affine


def _beyond(
    linear: NDArray[np.float64], shift: NDArray[np.float64], frame: NDArray[np.float64], other: NDArray[np.float64]
) -> float:
    """Return by what share of its side a frame, mapped into another, lies beyond that on the side where it is most."""
    x0, y0, x1, y1 = frame
    corners = np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]]) @ linear.T + shift
    low, high = corners.min(axis=0), corners.max(axis=0)
    return float((np.maximum(other[:2] - low, high - other[2:]) / np.maximum(high - low, 1e-9)).max())
