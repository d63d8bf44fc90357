"""Zeros where a failing disk or transfer left them, in formats without checksums.

A decoder makes grey or nonsense of them, and no error. Lossy WebP, AVIF and HEIF hold no long runs of zeros: the
longest in files of photos, framed photos and blank pages was below 8 bytes in WebP and 16 in AVIF, and HEVC forbids
three. A sequential JPEG file holds none if in one of its components zeros mean coefficients: then 128 bytes of them are
five blocks of nothing but -1. Lossless WebP, TIFF, BMP and JPEG 2000 do hold them.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ctxdeploy.errors import PhotoError
from ctxdeploy.runtime.jpeg import END, segments

if TYPE_CHECKING:
    from PIL import Image

_RUN = 128
_ZEROS = bytes(_RUN)
_SEQUENTIAL, _HUFFMAN_TABLES, _START_OF_SCAN = (0xC0, 0xC1), 0xC4, 0xDA


def check_zeros(image: "Image.Image", data: bytes) -> None:
    """Refuse an opened JPEG, WebP, AVIF or HEIF file with a run of zeros in its coded pixels; ``PhotoError``."""
    if image.format in ("JPEG", "MPO"):
        parts = _jpeg_parts(data)
    elif image.format == "WEBP":
        parts = _webp_parts(data)
    elif image.format in ("AVIF", "HEIF") and not any(
        _ZEROS in known for known in image.info.values() if type(known) is bytes
    ):
        parts = _media_parts(data)
    else:
        return
    if any(data.find(_ZEROS, start, end) >= 0 for start, end in parts):
        raise PhotoError(f"it is damaged ({_RUN} or more bytes of its coded pixels are zeros)")


def _jpeg_parts(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of the only scan of a sequential file, if one of its components has no zeros in it."""
    first_symbols: dict[int, int] = {}  # per Huffman table of coefficients: what its code of zeros stands for
    components = 0
    for code, start, end in segments(data):
        if code in _SEQUENTIAL:
            components = data[start + 5]
        elif code == _HUFFMAN_TABLES:
            first_symbols |= _first_symbols(data[start:end])
        elif code == _START_OF_SCAN and data[start] == components:
            tables = data[start + 2 : start + 2 + 2 * components : 2]
            if any(first_symbols.get(table & 15, 0) & 15 for table in tables):  # 4 bits: the size of a coefficient
                after = data.find(END, end)
                # Zeros that fill the last block of a file are libjpeg's to judge.
                yield end, len(data[:after].rstrip(b"\0")) if data[after - 1] == 0 else after


def _first_symbols(tables: bytes) -> dict[int, int]:
    """Return the first symbol of each table of coefficients, by number, from the content of a DHT segment."""
    found, at = {}, 0
    while at + 17 < len(tables):
        if tables[at] >> 4:
            found[tables[at] & 15] = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return found


def _webp_parts(data: bytes, at: int = 12) -> Iterator[tuple[int, int]]:
    """Yield start and end of the lossy pictures, up to the first frame of an animation."""
    while at + 8 <= len(data):
        kind, end = data[at : at + 4], at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"VP8 ":
            yield at + 8, end
            return
        at = at + 24 if kind == b"ANMF" else end + end % 2  # a frame begins with 16 bytes, then has chunks of its own


def _media_parts(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of the boxes of media data."""
    at = 0
    while at + 8 <= len(data):
        length, start = int.from_bytes(data[at : at + 4], "big"), at + 8
        if length == 1:
            length, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = at + length if length else len(data)
        if data[at + 4 : at + 8] == b"mdat":
            yield start, end
        at = max(end, start)
