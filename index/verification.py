"""Whether one map explains how the features of a query lie in a photo, and the ranking of hits by that.

A match of two features alone gives a scale and a shift, for descriptors know no rotation; the map that most matches
agree with is refined to an affine one. The idea is fast spatial matching (Philbin et al., CVPR 2007). Nothing is drawn
by chance: the same features give the same map, whatever the threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.core.types import Box
from ctxdeploy.index.config import Hit, Verification
from ctxdeploy.index.storage.positions import Features
from ctxdeploy.index.threads import ALONE, SearchThreads

MATCHES = ("auto", "descriptors", "codes", "words")
MODELS = ("affine", "similarity")


@dataclass(frozen=True, kw_only=True)
class VerificationConfig:
    """How features of a query and of a photo are matched, and which map may explain the matches.

    Attributes:
        matches: ``descriptors``: each the other's nearest by all D dimensions; ``codes``: of one word, with similar
            codes; ``words``: of one word; ``auto``: the first of these that both sides have.
        model: ``affine``, or ``similarity``: one scale and rotation, no shear.
        agreement: cosine of two codes, 1 - 2·differing bits / D, from which on they match; -1..1. Two codes of one word
            by chance have 0; from -1 to 0.15 rankings are the same, at 0.3 they lose 2 points of mAP.
        turn: counter-clockwise quarter turns of the query before it is compared, 0..3.
        image_size: longest side in pixels to which photos were scaled before their features were found.
    """

    matches: str = setting(
        "auto", "--verify-by", "What matches two features.", choices=MATCHES, default_text="the best that is there"
    )
    model: str = setting("affine", "--verify-model", "The map from query to photo.", choices=MODELS)
    agreement: float = 0.0
    turn: int = 0
    image_size: int = 1024

    def __post_init__(self) -> None:
        check_types(self)
        for flag, value, known in (("--verify-by", self.matches, MATCHES), ("--verify-model", self.model, MODELS)):
            if value not in known:
                raise ConfigError(f"{flag} {value!r} is unknown: give {', '.join(known)}")
        if not -1.0 <= self.agreement <= 1.0:
            raise ConfigError(f"agreement {self.agreement} is not a number in -1..1")
        if not 0 <= self.turn <= 3:
            raise ConfigError(f"turn {self.turn} is not a number of quarter turns, 0..3")
        if not 16 <= self.image_size <= 16384:
            raise ConfigError(f"image size {self.image_size} is outside 16..16384")


def verify(
    query: Features,
    photos: Sequence[Features],
    config: VerificationConfig = VerificationConfig(),
    threads: SearchThreads = ALONE,
    *,
    part: Box | None = None,
) -> list[Verification]:
    """Compare a query with photos that it found.

    Args:
        query: its features; of a part of a photo, those of the part.
        photos: the features of each.
        config: what to match, and which maps.
        threads: that take the photos in turn.
        part: the part of its photo that the query is; None for a whole photo.

    Returns:
        One verification per photo, in order; without a map where fewer than 4 matches agree.

    Raises:
        ConfigError: the features have not what ``config.matches`` needs; dimensions differ.
    """
    kind = _matched(query, photos, config.matches)
    asked = _Side.of(query, config, kind, part=part, turn=config.turn)
    return threads.run(lambda photo: _verified(asked, _Side.of(photo, config, kind), config, kind), photos)


# Linear parts of 0 to 3 counter-clockwise quarter turns, with y downwards.
_TURNS = [
    np.array(rows, np.float64) for rows in ([[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]])
]
# Pixels, at the size at which features are found, by which a match may miss: four cells of the network. From 40 on
# rankings of 150 queries are as good; scenes are not flat.
_TOLERANCE = 64.0
# Pairs of features that a word may have. More of them take time and say little about where; 64 lose 2 points of mAP.
_WORD_PAIRS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """A photo as the kernels take it: lengths in pixels of the scaled photo that the network saw.

    Attributes:
        features: as they were given.
        points: F×3 float32, x, y, scale; turned.
        numbers: what ``kernels.matches.quantised`` makes of the descriptors; None if others are matched.
        factor: scaled pixels per pixel.
        frame: x0, y0, x1, y1 of the photo or its part, in pixels.
        turn: linear part of the turn.
    """

    features: Features
    points: NDArray[np.float32]
    numbers: NDArray[np.int16] | None
    factor: float
    frame: NDArray[np.float64]
    turn: NDArray[np.float64]

    @classmethod
    def of(
        cls, features: Features, config: VerificationConfig, kind: str, *, part: Box | None = None, turn: int = 0
    ) -> "_Side":
        from ctxdeploy.index.kernels import matches as match_kernels
        from ctxdeploy.index.kernels import verification as kernels

        frame = _frame(features, part)
        longest = float(max(frame[2] - frame[0], frame[3] - frame[1]))
        factor = min(1.0, config.image_size / longest) if longest > 0 else 1.0
        places, scales = np.ascontiguousarray(features.positions), np.ascontiguousarray(features.scales)
        numbers = None
        if kind == "descriptors" and features.vectors is not None:
            numbers = match_kernels.quantised(np.ascontiguousarray(features.vectors, np.float32))
        points = kernels.points(places, scales, factor, _TURNS[turn])
        return cls(features=features, points=points, numbers=numbers, factor=factor, frame=frame, turn=_TURNS[turn])


def _frame(features: Features, part: Box | None) -> NDArray[np.float64]:
    """Return x0, y0, x1, y1 of a part, a photo, or all places of features, whatever is known."""
    if part is not None:
        return np.array([part.x0, part.y0, part.x1, part.y1], np.float64)
    if features.size is not None:
        return np.array([0.0, 0.0, *features.size], np.float64)
    places = features.positions[np.isfinite(features.positions).all(axis=1)].astype(np.float64)
    if not len(places):
        return np.array([0.0, 0.0, 1.0, 1.0])
    return np.concatenate([places.min(axis=0), places.max(axis=0)])


def _matched(query: Features, photos: Sequence[Features], wanted: str) -> str:
    """Return what matches features: as wanted, or the best that all have."""
    have = {
        "descriptors": all(side.vectors is not None for side in (query, *photos)),
        "codes": all(side.codes is not None for side in (query, *photos)),
        "words": True,
    }
    if wanted == "auto":
        return next(kind for kind, there in have.items() if there)
    if not have[wanted]:
        raise ConfigError(f"--verify-by {wanted}: the features have no {wanted}: give another, or --verify-by auto")
    return wanted


def _matches(query: _Side, photo: _Side, config: VerificationConfig, kind: str) -> "_Pairs":
    from ctxdeploy.index.kernels import matches as kernels

    left, right = query.features, photo.features
    _check_dimensions(left, right, kind)
    if query.numbers is not None and photo.numbers is not None:
        pairs, weights = kernels.mutual(query.numbers, len(left), kernels.packed(photo.numbers), len(right))
        return pairs, weights
    codes, others = (_NO_CODES if kind == "words" or s.codes is None else s.codes for s in (left, right))
    furthest = int((1 - config.agreement) / 2 * 64 * codes.shape[1])
    pairs, weights = kernels.of_words(left.words, right.words, codes, others, furthest, _WORD_PAIRS)
    return pairs, weights


def _check_dimensions(left: Features, right: Features, kind: str) -> None:
    sides = [side.vectors if kind == "descriptors" else side.codes for side in (left, right)]
    dims = [side.shape[1] for side in sides if side is not None]
    if kind != "words" and len(dims) == 2 and dims[0] != dims[1]:
        of = "dimensions" if kind == "descriptors" else "columns"
        raise ConfigError(f"{kind} of {dims[0]} and {dims[1]} {of} cannot be compared: they are of different models")


_Pairs = tuple[NDArray[np.int32], NDArray[np.int32]]
_NO_CODES = np.empty((0, 0), np.uint64)


def _verified(query: _Side, photo: _Side, config: VerificationConfig, kind: str) -> Verification:
    from ctxdeploy.index.kernels import verification as kernels

    pairs, weights = _matches(query, photo, config, kind)
    frame = (query.frame.reshape(2, 2) @ query.turn.T) * query.factor
    sides = np.concatenate([frame.min(axis=0), frame.max(axis=0)])
    is_affine = config.model == "affine"
    found, kept, cells, weight = kernels.fit(query.points, photo.points, pairs, weights, sides, _TOLERANCE, is_affine)
    matched = pairs[kept]
    places = [np.asarray(side.features.positions[matched[:, i]], np.float32) for i, side in enumerate((query, photo))]
    affine = None
    if len(kept):
        affine = np.column_stack([found[:, :2] @ query.turn * query.factor, found[:, 2]]) / photo.factor
    return Verification(
        inliers=int(cells),
        affine=affine,
        query_points=places[0],
        photo_points=places[1],
        box=None if affine is None else _box(affine, query.frame, photo.features.size),
        similarity=float(weight / kernels.FULL),
    )


def _box(affine: NDArray[np.float64], frame: NDArray[np.float64], size: tuple[int, int] | None) -> Box | None:
    """Return the box around the frame as the map has it, cut to the photo; None if nothing is left of it."""
    x0, y0, x1, y1 = frame
    corners = np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]]) @ affine[:, :2].T + affine[:, 2]
    low, high = corners.min(axis=0), corners.max(axis=0)
    if size is not None:
        low, high = np.clip(low, 0, size), np.clip(high, 0, size)
    if not (np.isfinite([*low, *high]).all() and (high > low).all()):
        return None
    return Box(x0=float(low[0]), y0=float(low[1]), x1=float(high[0]), y1=float(high[1]))


def rank(
    hits: Sequence[Hit], verifications: Sequence[Verification], config: VerificationConfig = VerificationConfig()
) -> list[Hit]:
    """Return hits with what was verified, in the order of score · (1 + similarity of the verification).

    A verification only ever raises a hit, so that those that were not looked at, the weaker ones, stay behind. Of equal
    ones that with more inliers comes first, then the higher score, then the name.

    Args:
        hits: as a search returns them; their scores stay what they are.
        verifications: of the first hits; the others follow as they were.
        config: of the verification.
    """
    verified = [replace(hit, verification=found) for hit, found in zip(hits, verifications, strict=False)]
    verified.sort(key=_place)
    return [*verified, *hits[len(verified) :]]


def _place(hit: Hit) -> tuple[float, int, float, str]:
    found = hit.verification
    inliers, similarity = (0, 0.0) if found is None else (found.inliers, found.similarity)
    return -hit.score * (1.0 + similarity), -inliers, -hit.score, hit.name
