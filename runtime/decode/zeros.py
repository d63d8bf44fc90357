"""Zeros where a failing disk or transfer left them, in formats without checksums.

A decoder makes grey or nonsense of them, and no error. AVIF and HEIF hold no long runs of zeros: the longest in files
of photos, framed photos and blank pages was below 16 bytes in AVIF, and HEVC forbids three. Lossy WebP writes zeros for
blocks of 16×16 pixels that follow from their neighbours, at most 0.72 bytes for each in 120 files of flat pictures and
of photos on a flat ground: zeros are damage where there are more bytes of them than such blocks. A sequential JPEG file
holds none if in one of its components zeros mean coefficients: then 128 bytes of them are five blocks of nothing but
-1. Lossless WebP, TIFF, BMP and JPEG 2000 do hold them.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.runtime.decode.jpeg import END, segments

if TYPE_CHECKING:
    from PIL import Image

_RUN = 128
_ZEROS = bytes(_RUN)
_LONG_RUN = re.compile(rb"\0{%d,}" % _RUN)
_BLOCK = 16  # pixels of a side, in WebP
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
    longest = max((len(run.group()) for part in parts for run in _LONG_RUN.finditer(data, *part)), default=0)
    if longest and not (image.format == "WEBP" and longest < _smooth_blocks(image)):
        raise PhotoError(f"it is damaged ({_RUN} or more bytes of its coded pixels are zeros)")


def _smooth_blocks(image: "Image.Image") -> int:
    """Return how many blocks WebP may have predicted: sums of a column and a row, constants among them."""
    width, height = image.size
    count = 0
    for top in range(0, height, _BLOCK):  # not all at once: the differences take more memory than the pixels
        rows = np.asarray(image.crop((0, top, width, min(top + _BLOCK, height))))[..., 1].astype(np.int16)
        rough = np.diff(np.diff(rows, axis=0), axis=1).any(axis=0)  # it belongs to the column on its right
        edges = np.zeros(width, dtype=bool)
        edges[1:] = rough
        edges[::_BLOCK] = False  # from one block to the next there may be anything
        count += int((~np.logical_or.reduceat(edges, np.arange(0, width, _BLOCK))).sum())
    return count


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
    """Yield start and end of the boxes of media data, up to the end of the first file."""
    at = 0
    while at + 8 <= len(data):
        length, start = int.from_bytes(data[at : at + 4], "big"), at + 8
        if length == 1:
            length, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = at + length if length else len(data)
        kind = data[at + 4 : at + 8]
        if kind == b"ftyp" and at:
            return  # the film of a motion photo, behind it
        if kind == b"mdat":
            yield start, end
        at = max(end, start)
