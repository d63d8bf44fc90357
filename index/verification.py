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
        agreement: cosine of two codes, 1 - 2·differing bits / D, from which on they match; -1..1.
        turn: counter-clockwise quarter turns of the query before it is compared, 0..3.
        image_size: longest side in pixels to which photos were scaled before their features were found.
    """

    matches: str = setting(
        "auto", "--verify-by", "What matches two features.", choices=MATCHES, default_text="the best that is there"
    )
    model: str = setting("affine", "--verify-model", "The map from query to photo.", choices=MODELS)
    agreement: float = 0.32
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
    side = _Side.of(query, config, part)
    turned = _TURNS[config.turn]
    xy = side.points[:, :2] @ turned.T.astype(np.float32)
    asked = replace(side, points=np.column_stack([xy, side.points[:, 2]]).astype(np.float32))
    corners = side.frame.reshape(2, 2) @ turned.T
    frame = np.concatenate([corners.min(axis=0), corners.max(axis=0)])

    def one(photo: Features) -> Verification:
        return _verified(asked, _Side.of(photo, config, None), frame, turned, kind, config)

    return threads.run(one, photos)


# Linear parts of 0 to 3 counter-clockwise quarter turns, with y downwards.
_TURNS = [
    np.array(rows, np.float64) for rows in ([[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]])
]
# Pixels, at the size at which features are found, by which a match may miss: one and a half cells of the network.
_TOLERANCE = 24.0
# Pairs of features that a word may have: a word of more repeats itself, and says nothing about where.
_WORD_PAIRS = 64
_FEWEST = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """A photo as the kernel takes it: lengths in pixels of the scaled photo that the network saw.

    Attributes:
        features: as they were given.
        points: F×3 float32, x, y, scale.
        factor: scaled pixels per pixel.
        frame: x0, y0, x1, y1 in scaled pixels.
        whole: in pixels; None where the size of the photo is not known.
    """

    features: Features
    points: NDArray[np.float32]
    factor: float
    frame: NDArray[np.float64]
    whole: tuple[int, int] | None

    @classmethod
    def of(cls, features: Features, config: VerificationConfig, part: Box | None) -> "_Side":
        places = features.positions.astype(np.float64)
        if part is not None:
            frame = np.array([part.x0, part.y0, part.x1, part.y1], np.float64)
        elif features.size is not None:
            frame = np.array([0.0, 0.0, *features.size], np.float64)
        elif len(places):
            frame = np.concatenate([places.min(axis=0), places.max(axis=0)])
        else:
            frame = np.array([0.0, 0.0, 1.0, 1.0])
        longest = float(max(frame[2] - frame[0], frame[3] - frame[1]))
        factor = min(1.0, config.image_size / longest) if longest > 0 else 1.0
        points = np.column_stack([places * factor, features.scales]).astype(np.float32)
        return cls(features=features, points=points, factor=factor, frame=frame * factor, whole=features.size)


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


def _matches(
    query: Features, photo: Features, kind: str, agreement: float
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    from ctxdeploy.index.kernels import matches as kernels

    if kind == "descriptors":
        left, right = _unit(query.vectors), _unit(photo.vectors)
        pairs, strengths = kernels.mutual(left @ right.T)
        return pairs, strengths
    none = np.empty((0, 0), np.uint64)
    codes, others = (side.codes if kind == "codes" and side.codes is not None else none for side in (query, photo))
    furthest = int((1 - agreement) / 2 * 64 * codes.shape[1])
    pairs, strengths = kernels.of_words(query.words, photo.words, codes, others, furthest, _WORD_PAIRS)
    return pairs, strengths


def _unit(vectors: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if vectors is None:
        raise ConfigError("the features have no descriptors")
    unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _verified(
    query: _Side,
    photo: _Side,
    frame: NDArray[np.float64],
    turned: NDArray[np.float64],
    kind: str,
    config: VerificationConfig,
) -> Verification:
    from ctxdeploy.index.kernels import verification as kernels

    pairs, strengths = _matches(query.features, photo.features, kind, config.agreement)
    found, kept, cells = kernels.fit(
        query.points, photo.points, pairs, strengths, frame, _TOLERANCE, config.model == "affine"
    )
    points = [
        side.features.positions[pairs[kept, column]].astype(np.float32) for column, side in enumerate((query, photo))
    ]
    if len(kept) < _FEWEST:
        nothing = np.empty((0, 2), np.float32)
        return Verification(inliers=0, affine=None, query_points=nothing, photo_points=nothing, box=None)
    affine = found.copy()
    affine[:, :2] = found[:, :2] @ turned * (query.factor / photo.factor)
    affine[:, 2] /= photo.factor
    box = _box(affine, query.frame / query.factor, photo.whole)
    return Verification(inliers=int(cells), affine=affine, query_points=points[0], photo_points=points[1], box=box)


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
    """Return the hits with what was verified, in the order of score · (1 + inliers / 10), ties by score and name.

    Args:
        hits: as a search returns them; their scores stay what they are.
        verifications: of the first hits; the others follow as they were.
        config: of the verification.
    """
    verified = [replace(hit, verification=found) for hit, found in zip(hits, verifications, strict=False)]
    verified.sort(key=lambda hit: (-hit.score * weight(hit.verification), -hit.score, hit.name))
    return [*verified, *hits[len(verified) :]]


def weight(verification: Verification | None) -> float:
    """Return the factor by which a verification raises a score, at least 1."""
    return 1.0 if verification is None else 1.0 + verification.inliers / 10
