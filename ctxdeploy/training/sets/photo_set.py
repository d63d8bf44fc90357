"""Photos, and what is known about which of them show the same."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.core.text import counted, printable


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotoSet:
    """Photos to train on. Arrays are copied, and read-only.

    Attributes:
        name: for people.
        paths: n files, at least one.
        classes: n int64, the landmark of each photo; -1 for a photo that no other one is known to match.
        pairs: P×2 int64, numbers of a query and of a photo that shows the same, as the data set has them. Any two
            photos of a landmark are a pair where this is None, and in landmarks of which no photo is a query here.
        factors: n float64, how often the landmark of each photo is drawn; None for all alike.
    """

    name: str
    paths: tuple[Path, ...]
    classes: NDArray[np.int64]
    pairs: NDArray[np.int64] | None = None
    factors: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if not self.paths:
            raise NoPhotosError(f"the set {self.name} holds no photos")
        classes = _numbers(self.classes, f"{self.name}: classes", (len(self.paths),))
        if classes.min() < -1:
            raise ConfigError(f"{self.name}: {classes.min()} is not a class: they count from 0, -1 is none")
        object.__setattr__(self, "classes", classes)
        if self.pairs is not None:
            pairs = _numbers(self.pairs, f"{self.name}: pairs", (len(self.pairs), 2))
            outside = pairs[(pairs < 0) | (pairs >= len(self.paths))]
            if len(outside):
                raise ConfigError(f"{self.name}: a pair names photo {outside[0]}, of {len(self.paths)}")
            alone = pairs[pairs[:, 0] == pairs[:, 1]]
            if len(alone):
                raise ConfigError(f"{self.name}: photo {alone[0, 0]} is paired with itself")
            object.__setattr__(self, "pairs", pairs if len(pairs) else None)

    def __len__(self) -> int:
        return len(self.paths)

    def metadata(self) -> dict[str, Any]:
        """Return counts, and a sha256 by which other data is noticed.

        It is of the paths relative to the folder that holds them all, the sizes of the files (-1 where there is none),
        classes and pairs: the same when the folder was moved, another when a photo was added, removed or cut.
        """
        classes, sizes = np.unique(self.classes[self.classes >= 0], return_counts=True)
        return {
            "name": self.name,
            "photos": len(self),
            "landmarks": len(classes),
            "photos_of_landmarks": int(sizes.sum()),
            "pairs": None if self.pairs is None else len(self.pairs),
            "sha256": self._sha256(),
        }

    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for name, size in zip(_relative(self.paths), map(_size, self.paths), strict=True):
            digest.update(f"{size} ".encode() + os.fsencode(name) + b"\0")
        for numbers in (self.classes, self.pairs):
            digest.update(b"none" if numbers is None else numbers.astype("<i8").tobytes())
        # Nothing for sets without: runs of older versions go on.
        if self.factors is not None:
            digest.update(self.factors.astype("<f8").tobytes())
        return digest.hexdigest()


def joined(sets: Sequence[PhotoSet]) -> PhotoSet:
    """Return the photos of all sets in their order, the classes numbered from 0 on without gaps, set after set.

    Raises:
        ConfigError: there is no set, or a photo is in two of them: it would be told to differ from itself.
    """
    if not sets:
        raise ConfigError("there are no photos to train on: give at least one set")
    seen: dict[Path, str] = {}
    classes, pairs = [], []
    photos = landmarks = 0
    for photo_set in sets:
        for path in dict.fromkeys(map(Path.absolute, photo_set.paths)):
            if path in seen:
                where = f"both {printable(seen[path])} and {printable(photo_set.name)}"
                raise ConfigError(f"{printable(str(path))} is in {where}: give each photo once")
            seen[path] = photo_set.name
        compact, count = _compact(photo_set.classes)
        classes.append(np.where(compact >= 0, compact + landmarks, -1))
        if photo_set.pairs is not None:
            pairs.append(photo_set.pairs + photos)
        photos, landmarks = photos + len(photo_set), landmarks + count
    return PhotoSet(
        name=" + ".join(photo_set.name for photo_set in sets),
        paths=tuple(path for photo_set in sets for path in photo_set.paths),
        classes=np.concatenate(classes),
        pairs=np.concatenate(pairs) if pairs else None,
    )


def check_files(paths: Iterable[Path], name: str, remedy: str) -> None:
    """Raise ``ConfigError`` if files are missing: how many, the first of them, and what helps."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ConfigError(
            f"{name}: {counted(len(missing), 'photo')} missing, the first is {printable(str(missing[0]))}: {remedy}"
        )


def _compact(classes: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Return the classes numbered from 0 on in the order of their numbers, and how many there are."""
    known = np.unique(classes[classes >= 0])
    return np.where(classes >= 0, np.searchsorted(known, classes), -1), len(known)


def _numbers(values: Any, what: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return a read-only copy as int64.

    Raises:
        ConfigError: there are other numbers than whole ones, or it has another shape.
    """
    array = np.asarray(values)
    if array.shape != shape or (array.dtype.kind not in "iu" and array.size):
        raise ConfigError(f"{what} are {array.dtype} of shape {array.shape}, not whole numbers of shape {shape}")
    if array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ConfigError(f"{what}: {array.max()} is too large")
    copy = array.astype(np.int64)
    copy.flags.writeable = False
    return copy


def _relative(paths: tuple[Path, ...]) -> list[str]:
    """Return the paths relative to the folder that holds them all, with ``/``."""
    absolute = [str(path.absolute()) for path in paths]
    common = os.path.commonpath([str(path.absolute().parent) for path in paths])
    return [name[len(common) :].replace(os.sep, "/").lstrip("/") for name in absolute]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # reading it will say why
        return -1
