"""The photos of a training set in memory, decoded as every photo is, as far as the memory given to them goes."""

from collections import OrderedDict
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import NoPhotosError, PhotoError
from ctxdeploy.core.types import Preprocessing

Image = NDArray[np.uint8]
# Photos in a row that may be unreadable before the set is taken for the wrong folder.
_MOST_UNREADABLE = 100


class PhotoStore:
    """Decoded photos by number; those used last are kept.

    Args:
        paths: files.
        longest: side in pixels to which larger photos are scaled.
        memory: bytes of decoded photos that are kept.

    Attributes:
        held: bytes of the photos that are kept.
        memory: bytes that may be.
        unreadable: why, for each photo that could not be decoded; another stands in for it.
    """

    def __init__(self, paths: tuple[Path, ...], longest: int, memory: int = 4 << 30) -> None:
        self._paths = paths
        self._preprocessing = Preprocessing(image_size=longest)
        self.memory = memory
        self.held = 0
        self._kept: OrderedDict[int, Image] = OrderedDict()
        self._lock = Lock()
        self.unreadable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __reduce__(self) -> tuple[type["PhotoStore"], tuple[tuple[Path, ...], int, int]]:
        """Go to another process without the photos that are kept here."""
        return type(self), (self._paths, self._preprocessing.image_size, self.memory)

    def load(self, number: int) -> Image | None:
        """Return a photo, H×W×3 uint8 RGB, or None if it cannot be decoded."""
        with self._lock:
            if number in self.unreadable:
                return None
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        try:
            image = _decoded(self._paths[number], self._preprocessing)
        except PhotoError as error:
            self.unreadable[number] = str(error)
            return None
        with self._lock:
            self._kept[number] = image
            self.held += image.nbytes
            while self.held > self.memory and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self.held -= oldest.nbytes
        return image

    def readable(self, number: int, others: NDArray[np.int64]) -> int:
        """Return a photo's number, or that of the first readable one after it among ``others``, cyclically.

        Args:
            number: one of ``others``.
            others: sorted; any of them may stand in.

        Raises:
            NoPhotosError: a hundred photos in a row, or all, cannot be read.
        """
        start = int(np.searchsorted(others, number))
        for i in range(min(len(others), _MOST_UNREADABLE)):
            candidate = int(others[(start + i) % len(others)])
            if self.load(candidate) is not None:
                return candidate
        raise NoPhotosError(f"none of the photos from {self._paths[number]} on can be read: {self.unreadable[number]}")


def _decoded(path: Path, preprocessing: Preprocessing) -> Image:
    from ctxdeploy.runtime import decode_photo

    return decode_photo(path, preprocessing).pixels
