"""Colours of more than 8 bits in JPEG 2000, whose white Pillow turns to black.

Pillow rounds such a sample to 8 bits and keeps the lower ones of what may be 256. Here the file is decoded once more,
marked as having one bit more: its range then lies in the middle, where nothing overflows, and tells white from black.
"""

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import PhotoError

if TYPE_CHECKING:
    from PIL import Image

_START = b"\xff\x4f\xff\x51"
_SIZE, _QUANTISATION, _QUANTISATION_OF_ONE, _TILE = 0xFF51, 0xFF5C, 0xFF5D, 0xFF90
_COMPONENTS = 38  # in the content of the marker of sizes, with its length: three bytes for each component
_MAX_DEPTH = 37
# Where both decodings must agree, and how far: the second one has half of the steps.
_MIDDLE, _NEAR, _AGREEING = (16, 240), 4, 0.99


def mend_white(image: "Image.Image", data: bytes) -> "Image.Image":
    """Return a loaded JPEG 2000 image with white where Pillow has black; one of 8 bits, or of grey alone, as it is.

    Raises:
        PhotoError: it cannot be told which is which.
    """
    from PIL import Image

    start = data.find(_START)
    if image.mode not in ("RGB", "RGBA", "LA") or start < 0 or _depth(data, start + 2) <= 8:
        return image
    pixels = np.asarray(image)
    middle = _decoded(_with_one_more_bit(data, start), pixels.shape)
    again = 2 * (middle - 64)
    known = (pixels >= _MIDDLE[0]) & (pixels <= _MIDDLE[1])
    if known.any() and (np.abs(again - pixels)[known] <= _NEAR).mean() < _AGREEING:
        raise PhotoError("it is JPEG 2000 of more than 8 bits of a kind that is not read: save it with 8 bits")
    white = (pixels < _MIDDLE[0]) & (again > _MIDDLE[1])
    return Image.fromarray(np.where(white, np.uint8(255), pixels)) if white.any() else image


def _decoded(data: bytes, shape: tuple[int, ...]) -> NDArray[np.int32]:
    from PIL import Jpeg2KImagePlugin

    with Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(data)) as image:
        image.load()
        pixels = np.asarray(image, np.int32)
    if pixels.shape != shape:
        raise PhotoError("it is JPEG 2000 of more than 8 bits of a kind that is not read: save it with 8 bits")
    return pixels


def _depth(data: bytes, at: int) -> int:
    """Return the bits of the first component, whose marker of sizes is at ``at``."""
    content = at + 2
    return (data[content + _COMPONENTS] & 0x7F) + 1 if content + _COMPONENTS < len(data) else 0


def _with_one_more_bit(data: bytes, start: int) -> bytes:
    """Return the file with components of one bit more and steps of quantisation that stay what they are."""
    file = bytearray(data)
    at = start + 2
    while at + 4 <= len(file):
        marker, length = struct.unpack_from(">HH", file, at)
        content = at + 2
        if marker == _TILE:
            break
        if marker == _SIZE:
            (count,) = struct.unpack_from(">H", file, content + _COMPONENTS - 2)
            for place in range(content + _COMPONENTS, content + _COMPONENTS + 3 * count, 3):
                if file[place] >= _MAX_DEPTH:
                    raise PhotoError(f"it is JPEG 2000 of {(file[place] & 0x7F) + 1} bits, which is not read")
                file[place] += 1
        elif marker in (_QUANTISATION, _QUANTISATION_OF_ONE):
            _keep_steps(file, content + (2 if marker == _QUANTISATION else 3), content + length)
        at = content + length
    return bytes(file)


def _keep_steps(file: bytearray, at: int, end: int) -> None:
    """Raise the exponents of the steps by one, which the depth would double, and lower the guard bits in turn."""
    style = file[at] & 31
    if style == 0 or file[at] >> 5 == 0:  # reversible: there are no steps
        return
    file[at] -= 1 << 5
    for place in range(at + 1, end - 1, 2):
        step = struct.unpack_from(">H", file, place)[0] + (1 << 11)
        struct.pack_into(">H", file, place, min(step, 0xFFFF))
