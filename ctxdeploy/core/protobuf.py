"""Protocol buffers as they lie in files, read without the library and without a schema.

A message is a row of fields, each a number and a value: a whole number, or bytes that may be text, numbers, packed
numbers or a message in turn. Nothing is allocated that is not in the data: values are views of it.
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of every field of a message.

    Values are whole numbers below 2⁶⁴, or views of 4 bytes (fixed32), 8 bytes (fixed64) or any (texts and messages).

    Raises:
        ValueError, IndexError: the data is not a message.
    """
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError("no field has the number 0")
        if wire == _VARINT:
            value, at = varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("groups are not written any more")
        if length > len(data) - at:
            raise ValueError("a field beyond the end")
        yield number, data[at : at + length]
        at += length


def varints(data: memoryview) -> Iterator[int]:
    """Yield the numbers of a packed field; errors as of ``varint``."""
    at = 0
    while at < len(data):
        value, at = varint(data, at)
        yield value


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at a place, below 2⁶⁴, and where it ends.

    Raises:
        IndexError: it breaks off at the end of the data.
        ValueError: it is longer than a number can be.
    """
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value & (1 << 64) - 1, at
        shift += 7
        if shift > 63:
            raise ValueError("a number that is too long")
