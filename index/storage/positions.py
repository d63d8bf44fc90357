"""Where the features of a photo are, in 8 bytes each, for spatial verification: what a shard with geometry holds.

A feature is its nearest visual word (uint16), x and y (uint16, in 65,535ths of the box around the photo's features:
0.06 pixels in 4000) and its scale (float16, to 0.05 %). The features of a photo are sorted by word.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.index.codebook.aggregation import code_columns
from ctxdeploy.index.storage.format import Arrays

_STEPS = 65535
# The normal numbers of float16.
_SCALES = (6.2e-5, 65504.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """The features of a photo, by rising word.

    Attributes:
        words: F int32, the nearest word of each feature.
        positions: F×2 float32, x and y as they were given (pixels of the photo), to 1/65,535 of their extent.
        scales: F float32, as they were given, to 0.05 %.
        codes: F×ceil(D/64) uint64, the signs of each feature's residual to its word; None where they are not kept.
        vectors: F×D float32, the descriptors; None where they are not kept.
        size: (width, height) of the photo in pixels; None where it is not known.
    """

    words: NDArray[np.int32]
    positions: NDArray[np.float32]
    scales: NDArray[np.float32]
    codes: NDArray[np.uint64] | None = None
    vectors: NDArray[np.float32] | None = None
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedPositions:
    """``Features`` as a shard holds them.

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


def check_positions(descriptors: LocalDescriptors, name: str) -> None:
    """Raise ``ConfigError`` unless positions are known and below 1e9, and scales in 6.2e-5..65504."""
    places, scales = descriptors.positions, descriptors.scales
    if len(places) and np.isnan(places).all():
        raise ConfigError(f"{name!r}: geometry needs to know where descriptors are: give positions (n×2) and scales")
    if not (np.abs(places) < 1e9).all() or not ((scales >= _SCALES[0]) & (scales <= _SCALES[1])).all():
        raise ConfigError(f"{name!r}: positions must be below 1e9 and scales in {_SCALES[0]:g}..{_SCALES[1]:g}")


def features_of(
    descriptors: LocalDescriptors,
    words: NDArray[np.int32],
    centroids: NDArray[np.float32],
    *,
    size: tuple[int, int] | None = None,
) -> Features:
    """Return the features of a photo's descriptors, all that there is of them.

    Args:
        descriptors: n, with positions.
        words: n, the nearest word of each descriptor.
        centroids: W×D float32.
        size: (width, height) of the photo; None if it is not known.
    """
    from ctxdeploy.index.kernels import build as build_kernels

    order = np.argsort(words, kind="stable")
    words, vectors = words[order], descriptors.vectors[order]
    return Features(
        words=words,
        positions=descriptors.positions[order],
        scales=descriptors.scales[order],
        codes=build_kernels.pack(vectors - centroids[words], code_columns(centroids.shape[1])),
        vectors=vectors,
        size=size,
    )


def pack_positions(words: NDArray[np.int32], descriptors: LocalDescriptors, name: str) -> PackedPositions:
    """Pack the positions and scales of a photo's descriptors.

    Args:
        words: n, the nearest word of each descriptor.
        descriptors: n, with positions below 1e9 and scales in 6.2e-5..65504.
        name: of the photo, for errors.

    Raises:
        ConfigError: positions are not known, not finite or too large, or scales are out of range.
    """
    check_positions(descriptors, name)
    count = len(words)
    places, scales = descriptors.positions.astype(np.float64), descriptors.scales
    corner = places.min(axis=0) if count else np.zeros(2)
    frame = np.concatenate([corner, (places.max(axis=0) if count else corner) - corner]).astype(np.float32)
    order = np.argsort(words, kind="stable")
    steps = (places[order] - frame[:2]) * (_STEPS / np.maximum(frame[2:], 1e-30))
    return PackedPositions(
        words=words[order].astype(np.uint16),
        positions=np.clip(np.rint(steps), 0, _STEPS).astype(np.uint16),
        scales=scales[order].astype(np.float16),
        frame=frame,
    )


def unpack_positions(packed: PackedPositions) -> Features:
    """Undo ``pack_positions``. Never fails: any bits are some positions, and words are below 65,536."""
    extent = packed.frame[2:].astype(np.float64) / _STEPS
    with np.errstate(all="ignore"):
        positions = (packed.frame[:2] + packed.positions * extent).astype(np.float32)
    return Features(words=packed.words.astype(np.int32), positions=positions, scales=packed.scales.astype(np.float32))


def position_tensors(photos: Iterable[PackedPositions | None]) -> Arrays:
    """Return the tensors ``geometry_…`` of a shard, from the positions of each of its photos."""
    nothing = PackedPositions(
        words=np.empty(0, np.uint16),
        positions=np.empty((0, 2), np.uint16),
        scales=np.empty(0, np.float16),
        frame=np.zeros(4, np.float32),
    )
    packed = [nothing if photo is None else photo for photo in photos]
    parts = [nothing, *packed]
    return {
        "geometry_words": np.concatenate([part.words for part in parts]),
        "geometry_positions": np.concatenate([part.positions for part in parts]),
        "geometry_scales": np.concatenate([part.scales for part in parts]),
        "geometry_frames": np.array([part.frame for part in packed], np.float32).reshape(len(packed), 4),
        "geometry_offsets": np.cumsum([0, *(len(part.words) for part in packed)]).astype(np.uint32),
    }
