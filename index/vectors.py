"""One place that says which arrays of descriptors are accepted."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import ConfigError

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
