"""Damage that Pillow does not report when it loads a photo.

JPEG: where a disk or a transfer failed, part of a file is often zeros, or bytes of another file, of the right length.
Then libjpeg reports a warning, fills up with grey or shifts what follows, and Pillow does not pass the warning on. So
simplejpeg decodes, which does: the same libjpeg-turbo, the same pixels. What libjpeg leaves out is looked at here:
whether the coded picture ends, and whether all of its scans are there.

PNG: Pillow compares the checksums of pixels only in ``verify``, which is called here. Other formats have no checksums.
"""

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import PhotoError

if TYPE_CHECKING:
    from PIL import Image

START, END = b"\xff\xd8", b"\xff\xd9"
MAX_SCANS = 500  # photos have up to 20; each costs the time of a pass over all blocks, however few bytes it has
MAX_COPIED = 50_000_000  # pixels; of larger photos no second copy is made (3 bytes each)
_START_OF_SCAN = 0xDA
FRAMES = tuple(code for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC))
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
# What ends the coded bytes of a scan: in them 0xFF is followed by zero, a restart marker or another 0xFF.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# libjpeg-turbo's warnings about coded bytes. It has others, about headers, that cost no pixel.
_DAMAGE = re.compile(r"[Pp]remature end|bad \w+ code|instead of RST|extraneous bytes|Inconsistent progression")
_EXTRANEOUS_AT_END = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_COLOURS = {"L": "GRAY", "RGB": "RGB"}
_READ_AHEAD = 8  # bytes of the padding that libjpeg has in its registers, and does not count


class Segment(NamedTuple):
    """A marker segment: second byte of its marker, and where its content begins and ends."""

    code: int
    start: int
    end: int


def segments(data: bytes, at: int = 2) -> Iterator[Segment]:
    """Yield the segments from ``at`` up to and including the first start of scan."""
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at += 1  # junk between segments, which libjpeg skips as well
            continue
        code = data[at + 1]
        if code == 0xFF or code in _WITHOUT_LENGTH:
            at += 1 if code == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield Segment(code, at + 4, end)
        if code == _START_OF_SCAN:
            return
        at = end


def has_end(data: bytes) -> bool:
    """Say whether a JPEG file has an end-of-image marker after its first scan begins.

    The header is walked segment by segment, so that the end of an embedded thumbnail does not count. Inside a scan the
    marker's two bytes occur only as the marker.
    """
    return any(code == _START_OF_SCAN and data.find(END, start) >= 0 for code, start, _ in segments(data))


def check_scans(data: bytes) -> None:
    """Refuse a JPEG file that lacks its end, or scans that it needs, or has too many; ``PhotoError``.

    A progressive photo whose later scans are missing is coarse, one of several scans without one of them is grey. The
    chroma of a progressive photo may stay coarse: encoders that save there exist.
    """
    if not has_end(data):
        raise PhotoError("it is truncated (the JPEG data has no end)")
    coded: dict[int, list[int | None]] = {}  # per component and coefficient the lowest bit that was sent
    for number, header in enumerate(_frame_and_scans(data)):
        if number == 0:
            coded = {header[6 + 3 * place]: [None] * 64 for place in range(header[5])}
            continue
        count = header[0]
        first, last, low_bit = header[1 + 2 * count], header[2 + 2 * count], header[3 + 2 * count] & 15
        for component in header[1 : 1 + 2 * count : 2]:
            coded.setdefault(component, [None] * 64)[first : last + 1] = [low_bit] * (last + 1 - first)
        if number == 1 and count == len(coded) and (first, last, low_bit) == (0, 63, 0):
            return
        if number > MAX_SCANS:
            raise PhotoError(f"it has more than {MAX_SCANS} scans, the limit against decompression bombs")
    luma = next(iter(coded.values()), [])
    if any(bit != 0 for bit in luma) or any(bits[0] is None for bits in coded.values()):
        raise PhotoError("it is truncated (scans of the JPEG data are missing)")


def _frame_and_scans(data: bytes) -> Iterator[bytes]:
    """Yield the content of the frame header, then that of every scan header."""
    at, framed = 2, False
    while True:
        segment = None
        for segment in segments(data, at):
            content = data[segment.start : segment.end]
            if segment.code in FRAMES and not framed:
                framed = True
                yield content
            elif segment.code == _START_OF_SCAN and framed:
                yield content
        found = _AFTER_SCAN.search(data, segment.end) if segment is not None else None
        if found is None or found.group() == END:
            return
        at = found.start()


def verify_png(data: bytes) -> None:
    """Raise an exception of any kind unless a PNG file has its end, and all of its checksums are right."""
    from PIL import PngImagePlugin

    PngImagePlugin.PngImageFile(io.BytesIO(data)).verify()


def load_jpeg(image: "Image.Image", data: bytes) -> NDArray[np.uint8] | None:
    """Check the coded picture of an opened (and perhaps drafted) JPEG file, and decode it if it is RGB or grey.

    Returns:
        H×W×3, or H×W of grey: the pixels of ``image.load()``; None if that is to be called.

    Raises:
        PhotoError: the coded picture is damaged. On what only simplejpeg refuses Pillow has the last word.
    """
    width, height = image.size
    colours = _COLOURS.get(image.mode)
    if colours is None or width * height > MAX_COPIED:
        check_jpeg(image, data)
        return None
    pixels = _decoded(data, colours, (width, height))
    if pixels is None or pixels.shape[:2] != (height, width):
        return None
    return pixels if colours == "RGB" else pixels[..., 0]


def check_jpeg(image: "Image.Image", data: bytes) -> None:
    """Raise ``PhotoError`` if the coded picture of an opened JPEG file is damaged; its colours are not computed."""
    colours = "GRAY" if image.mode in _COLOURS else "CMYK"
    _decoded(data, colours, (1, 1))  # an eighth is enough to read every coded byte


def _decoded(data: bytes, colours: str, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Return pixels of at least a size (width, height), None if simplejpeg refuses; ``PhotoError`` for damage."""
    import simplejpeg

    check_scans(data)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            without_junk(data), colours, min_height=size[1], min_width=size[0], strict=True
        )
    except ValueError as error:
        _check_warning(str(error), data)
        return None
    return pixels


def without_junk(data: bytes) -> bytes:
    """Return a JPEG file without the bytes between the segments of its header, for which libjpeg warns."""
    found = list(segments(data))
    starts = [segment.start - 4 for segment in found]
    if starts == [len(START), *(segment.end for segment in found[:-1])]:
        return data
    return START + b"".join(data[segment.start - 4 : segment.end] for segment in found) + data[found[-1].end :]


def _check_warning(text: str, data: bytes) -> None:
    """Raise ``PhotoError`` where a message of libjpeg means that pixels are wrong."""
    if not _DAMAGE.search(text):
        return
    scan = next((segment for segment in segments(data) if segment.code == _START_OF_SCAN), None)
    padding = _EXTRANEOUS_AT_END.search(text)
    if scan is not None and padding is not None:
        coded = data[scan.end : data.find(END, scan.end)]
        filled = len(coded) - len(coded.rstrip(coded[-1:]))
        # Cameras fill the last block of a file. Zeros in place of pixels are longer than what libjpeg did not use.
        if int(padding.group(1)) <= filled <= int(padding.group(1)) + _READ_AHEAD:
            return
    raise PhotoError(f"it is damaged ({text})")
