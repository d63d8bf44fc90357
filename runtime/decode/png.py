"""PNG files as Pillow does not give them: 16-bit colours, of which it keeps 8, and a transparent grey of few bits."""

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

_GREY_ALPHA, _RGB_ALPHA = 4, 6
# Where the header's content begins: behind the signature, the chunk's length and its name.
_HEADER = 16


def is_16_bits(data: bytes) -> bool:
    """Return whether the samples of a PNG file have 16 bits."""
    return data[_HEADER + 8 : _HEADER + 9] == b"\x10"


def mend_transparency(image: "Image.Image", data: bytes) -> None:
    """Give grey of 2 and 4 bits, which Pillow scales to 8, the transparent value that is scaled as well."""
    depth, value = data[_HEADER + 8], image.info.get("transparency")
    if depth in (2, 4) and image.mode == "L" and isinstance(value, int):
        image.info["transparency"] = value * 255 // ((1 << depth) - 1)


def wide_samples(image: "Image.Image", data: bytes) -> NDArray[np.uint16]:
    """Return H×W×samples of a PNG file with more than one 16-bit sample a pixel.

    Args:
        image: of Pillow, loaded: the upper bits, RGB, RGBA, or LA.
        data: the file, whose checksums are right.
    """
    colours = data[_HEADER + 9]
    if colours == _GREY_ALPHA:
        # As RGBA of 8 bits, whose pixels have the same bytes.
        header = data[_HEADER : _HEADER + 8] + bytes((8, _RGB_ALPHA)) + data[_HEADER + 10 : _HEADER + 13]
        sum_ = struct.pack(">I", zlib.crc32(b"IHDR" + header))
        both = _loaded(data[:_HEADER] + header + sum_ + data[_HEADER + 17 :]).astype(np.uint16)
        return np.asarray(both[..., ::2] << 8 | both[..., 1::2], np.uint16)
    upper = np.asarray(image).astype(np.uint16)
    # Pillow takes the second byte of a sample for the upper one where it is told that the order is the other one.
    lower = _loaded(data, f"{image.mode};16L")
    return np.asarray(upper << 8 | lower, np.uint16)


def _loaded(data: bytes, raw_mode: str | None = None) -> NDArray[np.uint8]:
    from PIL import PngImagePlugin

    with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
        if raw_mode is not None:
            image.tile = [(codec, extents, offset, raw_mode) for codec, extents, offset, _ in image.tile]  # type: ignore[misc]
        image.load()
        return np.asarray(image)
