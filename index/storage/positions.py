"""The features of a photo, for geometric verification: what a shard with geometry holds.

A feature is its nearest visual word (uint16), x and y (uint16, in 65,535ths of the box around the photo's features:
0.06 pixels in 4000) and its scale (float16, to 0.05 %): 8 bytes. Where codes are kept, there are also the signs of its
residual to the word (D bits), and the photo's size; where descriptors are kept, also the descriptor in int8. The
features of a photo are sorted by word.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.index.codebook.aggregation import code_columns
from ctxdeploy.index.config import keeps
from ctxdeploy.index.storage.format import Arrays

_STEPS = 65535
# The normal numbers of float16.
_SCALES = (6.2e-5, 65504.0)
# Of int8. Against full descriptors 99.2 % of the mutual nearest neighbours of two photos are the same (a query in full,
# a photo in int8); in float16, which takes twice the bytes, 99.9 %, and with one step for a whole photo 97.6 %.
_LEVELS = 127


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """The features of a photo, by rising word.

    Attributes:
        words: F int32, the nearest word of each feature.
        positions: F×2 float32, x and y as they were given (pixels of the photo), to 1/65,535 of their extent.
        scales: F float32, as they were given, to 0.05 %.
        codes: F×ceil(D/64) uint64, the signs of each feature's residual to its word; None where they are not kept.
        vectors: F×D float32, the descriptors, to 1/254 of the largest number of each; None where they are not kept.
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
class PackedFeatures:
    """``Features`` as a shard holds them.

    Attributes:
        words: F uint16.
        positions: F×2 uint16.
        scales: F float16.
        frame: 4 float32: least x and y, extent in x and y.
        codes: F×ceil(D/64) uint64; None where they are not kept, and then there is no size either.
        size: 2 uint32: width and height; 0 and 0 if they are not known.
        vectors: F×D int8; None where they are not kept.
        steps: F float32: what 1 of each vector stands for.
    """

    words: NDArray[np.uint16]
    positions: NDArray[np.uint16]
    scales: NDArray[np.float16]
    frame: NDArray[np.float32]
    codes: NDArray[np.uint64] | None = None
    size: NDArray[np.uint32] | None = None
    vectors: NDArray[np.int8] | None = None
    steps: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(part.nbytes for part in vars(self).values() if part is not None)


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


def pack_features(features: Features, geometry: str) -> PackedFeatures:
    """Pack what an archive keeps of features that ``features_of`` made; their positions have been checked.

    Args:
        features: with codes and vectors.
        geometry: "positions", "codes" or "descriptors".
    """
    places = features.positions.astype(np.float64)
    corner = places.min(axis=0) if len(places) else np.zeros(2)
    frame = np.concatenate([corner, (places.max(axis=0) if len(places) else corner) - corner]).astype(np.float32)
    steps = (places - frame[:2]) * (_STEPS / np.maximum(frame[2:], 1e-30))
    quantised = None if features.vectors is None or not keeps(geometry, "descriptors") else quantise(features.vectors)
    with_codes = keeps(geometry, "codes")
    return PackedFeatures(
        words=features.words.astype(np.uint16),
        positions=np.clip(np.rint(steps), 0, _STEPS).astype(np.uint16),
        scales=features.scales.astype(np.float16),
        frame=frame,
        codes=features.codes if with_codes else None,
        size=np.array(features.size or (0, 0), np.uint32) if with_codes else None,
        vectors=None if quantised is None else quantised[0],
        steps=None if quantised is None else quantised[1],
    )


def quantise(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return F×D int8 and F float32 steps, the largest number of each vector being ±127 steps."""
    largest = np.abs(vectors).max(axis=1, initial=np.float32(0))
    steps = (largest / np.float32(_LEVELS)).astype(np.float32)
    return np.rint(vectors / np.maximum(steps, np.float32(1e-30))[:, None]).clip(-_LEVELS, _LEVELS).astype(
        np.int8
    ), steps


def unpack_features(packed: PackedFeatures) -> Features:
    """Undo ``pack_features``. Never fails: any bits are some features, and words are below 65,536."""
    extent = packed.frame[2:].astype(np.float64) / _STEPS
    with np.errstate(all="ignore"):
        positions = (packed.frame[:2] + packed.positions * extent).astype(np.float32)
        vectors = None
        if packed.vectors is not None and packed.steps is not None:
            vectors = packed.vectors * packed.steps[:, None]
    return Features(
        words=packed.words.astype(np.int32),
        positions=positions,
        scales=packed.scales.astype(np.float32),
        codes=None if packed.codes is None else np.array(packed.codes),
        vectors=vectors,
        size=None if packed.size is None or not packed.size.all() else (int(packed.size[0]), int(packed.size[1])),
    )


def feature_tensors(photos: Iterable[PackedFeatures | None], geometry: str, dim: int) -> Arrays:
    """Return the tensors ``geometry_…`` of a shard, from the features of each of its photos.

    Args:
        photos: all of which keep what ``geometry`` says.
        geometry: "positions", "codes" or "descriptors".
        dim: D.
    """
    nothing = _no_features(geometry, dim)
    packed = [nothing if photo is None else photo for photo in photos]
    parts = [nothing, *packed]
    tensors: Arrays = {
        "geometry_words": np.concatenate([part.words for part in parts]),
        "geometry_positions": np.concatenate([part.positions for part in parts]),
        "geometry_scales": np.concatenate([part.scales for part in parts]),
        "geometry_frames": np.array([part.frame for part in packed], np.float32).reshape(len(packed), 4),
        "geometry_offsets": np.cumsum([0, *(len(part.words) for part in packed)]).astype(np.uint32),
    }
    if keeps(geometry, "codes"):
        tensors["geometry_codes"] = np.concatenate([part.codes for part in parts if part.codes is not None])
        tensors["geometry_sizes"] = np.array([part.size for part in packed], np.uint32).reshape(len(packed), 2)
    if keeps(geometry, "descriptors"):
        tensors["geometry_vectors"] = np.concatenate([part.vectors for part in parts if part.vectors is not None])
        tensors["geometry_steps"] = np.concatenate([part.steps for part in parts if part.steps is not None])
    return tensors


def _no_features(geometry: str, dim: int) -> PackedFeatures:
    nothing = LocalDescriptors(vectors=np.empty((0, dim), np.float32))
    return pack_features(features_of(nothing, np.empty(0, np.int32), np.empty((1, dim), np.float32)), geometry)
