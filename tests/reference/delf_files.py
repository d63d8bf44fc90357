"""A writer of the DELF library's files, from ``datum.proto`` and ``feature.proto``."""

import struct
from typing import Any

import numpy as np


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    return bytes([*out, number])


def message(number: int, content: bytes) -> bytes:
    return varint(number * 8 + 2) + varint(len(content)) + content


def single(number: int, value: float) -> bytes:
    return varint(number * 8 + 5) + struct.pack("<f", value)


def datum(array: Any, *, packed: bool = True) -> bytes:
    """Return a DatumProto: shape, and a list of floats."""
    values = np.asarray(array, np.float32)
    if packed:
        shape = message(1, b"".join(varint(size) for size in values.shape))
        return message(1, shape) + message(2, message(1, values.tobytes()))
    shape = b"".join(b"\x08" + varint(size) for size in values.shape)
    return message(1, shape) + message(2, b"".join(single(1, value) for value in values.ravel()))


def features(vectors: Any, places: Any, scales: Any, strengths: Any) -> bytes:
    """Return DelfFeatures; places are x then y."""
    found = b""
    for vector, (x, y), scale, strength in zip(vectors, places, scales, strengths, strict=True):
        numbers = b"".join(single(number, value) for number, value in enumerate((x, y, scale, 0, strength), 2))
        found += message(1, message(1, datum(vector)) + numbers)
    return found
