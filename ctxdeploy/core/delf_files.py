"""Files of the DELF library: arrays (``.datum``, ``.delg_global``) and local descriptors (``.delf``, ``.delg_local``).

They are protocol buffers (``datum.proto``, ``feature.proto``), read here without the library.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.protobuf import fields, varints
from ctxdeploy.core.reading import TooManyBytesError, read_regular
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import LocalDescriptors

# 1000 descriptors of 128 dimensions have 0.6 MB, a PCA of 1024×1024 has 4 MB.
_MAX_BYTES = 256 << 20
_MAX_DIM = 8192
_TINY = 1e-30


def read_datum(path: Path) -> NDArray[np.float32]:
    """Return the array of a ``.datum`` or ``.delg_global`` file.

    Raises:
        ConfigError: the file cannot be read, is damaged, or holds something else.
    """
    shown = printable(str(path))
    try:
        return _datum(memoryview(_bytes(path)))
    except (ValueError, IndexError, OverflowError) as error:
        raise ConfigError(f"{shown} is not an array as the DELF library writes it (DatumProto): {error}") from error


def read_local(path: Path) -> LocalDescriptors:
    """Return the descriptors of a ``.delf`` or ``.delg_local`` file, strongest first.

    Positions are the authors' x and y, in pixels of the photo that they were made from. Scales are factors of the image
    pyramid, the inverse of those in the file; attention is the file's strength, divided by the largest. A file of a
    photo without descriptors is empty and does not say of how many dimensions they would be: its vectors are 0×0.

    Raises:
        ConfigError: the file cannot be read, is damaged, or holds something else, or numbers that are not finite.
    """
    shown = printable(str(path))
    try:
        return _features(memoryview(_bytes(path)))
    except (ValueError, IndexError, OverflowError) as error:
        raise ConfigError(
            f"{shown} does not hold descriptors as the DELF library writes them (DelfFeatures): {error}"
        ) from error


def _bytes(path: Path) -> bytes:
    try:
        return read_regular(path, _MAX_BYTES)
    except TooManyBytesError as error:
        raise ConfigError(f"{printable(str(path))}: {error.strerror}") from error
    except OSError as error:
        raise ConfigError(f"{printable(str(path))} cannot be read: {error.strerror or error}") from error


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message is expected")
    return value


def _datum(data: memoryview) -> NDArray[np.float32]:
    """Return the array of a DatumProto: its shape, and its floats, packed or one by one."""
    shape: list[int] | None = None
    parts: list[memoryview] = []
    for number, value in fields(data):
        if number == 1:
            shape = []
            for _, sizes in fields(_message(value)):
                shape += [sizes] if isinstance(sizes, int) else varints(sizes)
        elif number == 2:
            parts += [_message(floats) for _, floats in fields(_message(value))]
        else:
            raise ValueError(f"field {number}, of numbers that are not float32")
    if shape is None or len(shape) > 4:
        raise ValueError("it has no shape" if shape is None else f"a shape of {len(shape)} axes")
    found = np.frombuffer(b"".join(parts), "<f4")
    if math.prod(shape) != found.size:
        raise ValueError(f"{found.size:,} numbers, but its shape is {shape}")
    return found.reshape(shape).astype(np.float32)


def _features(data: memoryview) -> LocalDescriptors:
    vectors: list[NDArray[np.float32]] = []
    places: list[list[float]] = []
    for number, value in fields(data):
        if number != 1:
            raise ValueError(f"field {number}")
        place, vector = [0.0] * 5, None
        for part, content in fields(_message(value)):
            if part == 1:
                vector = _datum(_message(content)).ravel()
            elif 2 <= part <= 6 and not isinstance(content, int) and len(content) == 4:
                place[part - 2] = float(np.frombuffer(content, "<f4")[0])
        if vector is None or not 1 <= vector.size <= _MAX_DIM or (vectors and vector.size != vectors[0].size):
            raise ValueError(f"descriptor {len(vectors) + 1} is missing or of another size")
        vectors.append(vector)
        places.append(place)
    if not vectors:
        return LocalDescriptors(vectors=np.zeros((0, 0), np.float32))
    matrix, numbers = np.stack(vectors), np.array(places, np.float32)
    if not (np.isfinite(matrix).all() and np.isfinite(numbers).all() and (numbers[:, 2] > 0).all()):
        raise ValueError("numbers that are not finite, or a scale that is not positive")
    strength = numbers[:, 4]
    if strength.min() < 0:
        raise ValueError("a strength below 0")
    order = np.argsort(-strength, kind="stable")
    return LocalDescriptors(
        vectors=matrix[order],
        attention=strength[order] / max(float(strength.max()), _TINY),
        positions=numbers[order, :2],
        scales=1 / numbers[order, 2],
    )
