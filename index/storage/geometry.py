"""Where the features of a photo are, in 8 bytes each, for spatial verification.

A feature is its nearest visual word (uint16), x and y (uint16, in 65,535ths of the box around the photo's features:
0.06 pixels in 4000) and its scale (float16, to 0.05 %). Features of a photo are sorted by word.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError

_STEPS = 65535
# What float16 holds as a normal number.
_SCALES = (6.2e-5, 65504.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Geometry:
    """The features of a photo, by rising word.

    Attributes:
        words: F int32, the nearest word of each feature.
        positions: F×2 float32, x and y as they were given (pixels of the photo), to 1/65,535 of their extent.
        scales: F float32, as they were given to 0.05 %.
    """

    words: NDArray[np.int32]
    positions: NDArray[np.float32]
    scales: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """As ``Geometry``, as it stands in a shard.

    Attributes:
        words: F uint16.
        positions: F×2 uint16.
        scales: F float16.
        frame: 4 float32: least x and y, extent in x and y.
    """

    words: NDArray[np.uint16]
    positions: NDArray[np.uint16]
    scales: NDArray[np.float16]
    frame: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.words.nbytes + self.positions.nbytes + self.scales.nbytes + self.frame.nbytes


def pack(words: NDArray[np.int32], positions: Any, scales: Any, name: str) -> Packed:
    """Pack the features of a photo.

    Args:
        words: n, the nearest word of each descriptor.
        positions: n×2 finite numbers, x and y.
        scales: n numbers in 6.2e-5..65504; None for 1.
        name: of the photo, for errors.

    Raises:
        ConfigError: another shape, not finite, or out of range.
    """
    count = len(words)
    if positions is None:
        raise ConfigError(f"{name!r}: the archive keeps geometry: give positions (n×2) and scales with the descriptors")
    places = np.asarray(positions, np.float64)
    sizes = np.ones(count) if scales is None else np.asarray(scales, np.float64)
    if (places.shape != (count, 2) and count) or sizes.shape != (count,):
        raise ConfigError(
            f"{name!r}: {count} descriptors, but positions of shape {places.shape} and scales of {sizes.shape}"
        )
    places = places.reshape(count, 2)
    if not (np.abs(places) < 1e9).all() or not ((sizes >= _SCALES[0]) & (sizes <= _SCALES[1])).all():
        raise ConfigError(f"{name!r}: positions must be below 1e9 and scales in {_SCALES[0]:g}..{_SCALES[1]:g}")
    least = places.min(axis=0) if count else np.zeros(2)
    frame = np.concatenate([least, (places.max(axis=0) if count else least) - least]).astype(np.float32)
    order = np.argsort(words, kind="stable")
    steps = (places[order] - frame[:2]) * (_STEPS / np.maximum(frame[2:], 1e-30))
    return Packed(
        words=words[order].astype(np.uint16),
        positions=np.clip(np.rint(steps), 0, _STEPS).astype(np.uint16),
        scales=sizes[order].astype(np.float16),
        frame=frame,
    )


def unpack(packed: Packed) -> Geometry:
    """Undo ``pack``. Never fails: any bits are some positions, and words are below 65,536."""
    extent = packed.frame[2:].astype(np.float64) / _STEPS
    with np.errstate(all="ignore"):
        positions = (packed.frame[:2] + packed.positions * extent).astype(np.float32)
    return Geometry(words=packed.words.astype(np.int32), positions=positions, scales=packed.scales.astype(np.float32))
