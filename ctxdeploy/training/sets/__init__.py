"""Sets of photos to train on, one small file for each form that they come in.

photos = joined([read_set("landmarks", "landmarks/"), read_set("photos", "holiday/")])
"""

import os
from collections.abc import Callable
from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.training.sets.landmarks import read_landmarks
from ctxdeploy.training.sets.photo_set import PhotoSet, joined
from ctxdeploy.training.sets.plain import read_photos
from ctxdeploy.training.sets.sfm120k import read_sfm120k
from ctxdeploy.training.sets.weights import read_weights, weighted

__all__ = ["READERS", "PhotoSet", "joined", "read_set", "read_sfm120k", "read_weights", "weighted"]

READERS: dict[str, Callable[[Path], PhotoSet]] = {
    "landmarks": read_landmarks,
    "photos": read_photos,
    "sfm120k": read_sfm120k,
}


def read_set(kind: str, place: str | os.PathLike[str]) -> PhotoSet:
    """Return the photos of a place; of SfM-120k those to train on.

    Args:
        kind: one of ``READERS``.
        place: a folder; of ``photos`` also a list; of ``sfm120k`` also its pickle.

    Raises:
        ConfigError: there is no such kind or place, or the place is not of that kind.
        NoPhotosError: it holds no photos.
    """
    if kind not in READERS:
        raise ConfigError(f"there are no sets of the kind {kind!r}: it is one of {', '.join(READERS)}")
    return READERS[kind](Path(place))
