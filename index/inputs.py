"""What is given to an archive: photos, and the arrays of descriptors that are accepted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.index.storage.names import encode_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """A photo to add.

    Attributes:
        name: any text.
        vectors: n×D descriptors, or anything with an attribute ``vectors``; n = 0 is indexed and never found.
        positions: n×2, x and y, only for archives that keep geometry; by default the attribute of ``vectors``.
        scales: n, as ``positions``; 1 if there are none.
        size, mtime_ns: of the photo's file, for ``known``; -1 if unknown.
    """

    name: str
    vectors: Any
    positions: Any = None
    scales: Any = None
    size: int = -1
    mtime_ns: int = -1


def as_photo(item: Photo | tuple[str, Any]) -> Photo:
    """Return a photo, of a pair of name and vectors too."""
    if isinstance(item, Photo):
        return item
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ConfigError(f"{item!r} is neither a Photo nor a pair of name and vectors"[:300])
    return Photo(name=item[0], vectors=item[1])


def check_file(name: str, size: int, mtime_ns: int) -> None:
    """Raise ``ConfigError`` unless an archive can hold the name, and size and time of change of the file."""
    encode_name(name)
    for value in (size, mtime_ns):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not -1 <= value < 1 << 63:
            raise ConfigError(f"size or mtime_ns {value!r} of {name!r} is no whole number, or outside -1..2^63")


# Squared distances of such vectors, summed over 4096 dimensions, stay far below float32's 3.4e38; beyond it every
# word would be infinitely far.
LARGEST = 1e15


def as_vectors(source: Any, dim: int | None, what: str) -> NDArray[np.float32]:
    """Return n×D float32 descriptors, C-contiguous, from an array or anything with an attribute ``vectors``.

    Args:
        source: the descriptors; none at all (length 0, any second size) is valid.
        dim: the D that is needed, or None for any.
        what: for the error text, such as "query".

    Raises:
        ConfigError: not two-dimensional, another D, not finite, or beyond 1e15.
    """
    try:
        array = np.asarray(getattr(source, "vectors", source))
    except (ValueError, TypeError, RuntimeError) as error:  # rows of several lengths, a tensor on another device
        raise ConfigError(f"{what}: the descriptors are no array: {error}") from error
    if array.ndim > 0 and len(array) == 0:
        return np.empty((0, dim or (array.shape[1] if array.ndim == 2 else 0)), np.float32)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ConfigError(
            f"{what}: descriptors of shape {array.shape} and type {array.dtype}, but n×D numbers are needed"
        )
    if dim is not None and array.shape[1] != dim:
        raise ConfigError(f"{what}: descriptors have dimension {array.shape[1]}, but the codebook has {dim}")
    vectors = np.ascontiguousarray(array, dtype=np.float32)
    sound = np.abs(vectors) <= LARGEST  # False for NaN
    if not sound.all():
        row = int(np.flatnonzero(~sound.all(axis=1))[0])
        raise ConfigError(f"{what}: descriptor {row} holds NaN, infinity or a number beyond {LARGEST:g}")
    return vectors
