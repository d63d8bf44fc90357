"""From the bytes of a photo to an opened image: which format it is, and whether it is too large.

Pillow's own ``open`` knows one limit for the whole process, and warns on the terminal at half of it. Here every caller
has its own, and a photo within it opens in silence.
"""

import io
import struct
from typing import TYPE_CHECKING

from ctxdeploy.errors import PhotoError
from ctxdeploy.runtime.formats import readable_formats
from ctxdeploy.runtime.limits import DecodeLimits

if TYPE_CHECKING:
    from PIL import ImageFile

_SIGNATURE = 16  # bytes by which Pillow's readers know their format
_NOT_OPENED = (SyntaxError, IndexError, TypeError, struct.error)  # what a reader raises that cannot open a file
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def open_image(data: bytes, limits: DecodeLimits) -> "ImageFile.ImageFile":
    """Return an image that is not loaded yet, of the first format that takes the bytes.

    Raises:
        PhotoError: no format does, or the header promises too many pixels.
    """
    from PIL import Image

    canvas = _webp_canvas(data)
    if canvas is not None:
        check_size(canvas, limits)  # the reader would claim the memory while it opens
    failures = []
    for name in readable_formats():
        factory, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(data[:_SIGNATURE])
        if isinstance(accepted, str) or not accepted:  # a text says what support is missing
            continue
        try:
            image = factory(io.BytesIO(data), "")
        except _NOT_OPENED as error:
            failures.append(f"{name}: {one_line(error)}")
            continue
        check_size(image.size, limits)
        return image
    raise PhotoError(_why_not(data, failures))


def check_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    """Refuse a photo of ``size`` (width, height) with more pixels than the limit; ``PhotoError``."""
    if size[0] * size[1] > limits.max_pixels:
        raise PhotoError(
            f"{size[0]}×{size[1]} pixels exceed {limits.max_pixels:,}, the limit against decompression bombs: "
            "raise it with --max-pixels"
        )


def one_line(error: Exception) -> str:
    """Return an exception's message, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a WebP file with an extended header; no other WebP exceeds 16383×16383."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or data[12:16] != b"VP8X" or len(data) < 30:
        return None
    return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1


def _why_not(data: bytes, failures: list[str]) -> str:
    if failures:
        return f"it is damaged or not supported ({'; '.join(failures)})"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "it is HEIF, which needs a plug-in for Pillow: pip install pi-heif"
    return "it is not a photo of a format that can be read"
