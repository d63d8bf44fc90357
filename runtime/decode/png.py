"""PNG files whose damage is noticed: Pillow skips the checksums of pixels, and takes missing rows for black ones."""

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ctxdeploy.core.errors import PhotoError

if TYPE_CHECKING:
    from PIL import Image

_SIGNATURE_LENGTH = 8
_HEADER, _PALETTE, _PIXELS = b"IHDR", b"PLTE", b"IDAT"
_PALETTE_COLOUR = 3
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per colour type
# Adam7: first column and row of each pass, and the steps to the next ones.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_AT_ONCE = 1 << 20


class Chunk(NamedTuple):
    """A chunk of the (first) picture: its type, and where its content begins and ends."""

    kind: bytes
    start: int
    end: int


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to the last one of pixels."""
    at, in_pixels = _SIGNATURE_LENGTH, False
    while at + 8 <= len(data):
        chunk = Chunk(data[at + 4 : at + 8], at + 8, at + 8 + int.from_bytes(data[at : at + 4], "big"))
        if in_pixels and chunk.kind != _PIXELS:
            return
        in_pixels = chunk.kind == _PIXELS
        yield chunk
        at = chunk.end + 4


def check_chunks(data: bytes) -> None:
    """Refuse a PNG file whose picture has a chunk that is cut off, fails its checksum, or is missing; ``PhotoError``.

    Chunks that a reader may leave out, such as texts, are not looked at.
    """
    view, kinds = memoryview(data), set()
    for kind, start, end in chunks(data):
        kinds.add(kind)
        if not kind[:1].isupper():
            continue
        name = kind.decode("ascii", "backslashreplace")
        if end + 4 > len(data):
            raise PhotoError(f"it is truncated (its {name} chunk is cut off)")
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise PhotoError(f"it is damaged (its {name} chunk fails the checksum)")
        if kind == _HEADER and data[start + 9] == _PALETTE_COLOUR:
            kinds.add(b"")
    if b"" in kinds and _PALETTE not in kinds:
        raise PhotoError("it is damaged (its palette is missing)")


def check_rows(image: "Image.Image", data: bytes) -> None:
    """Refuse a loaded PNG image that has fewer rows than its header says; ``PhotoError``.

    The pixel data is unpacked and counted only where one of the last two rows is zero throughout, as missing ones are.
    """
    width, height = image.size
    last = [image.crop((0, row, width, row + 1)).tobytes() for row in range(max(height - 2, 0), height)]
    if all(any(row) for row in last):
        return
    header = next((data[start:end] for kind, start, end in chunks(data) if kind == _HEADER), b"")
    needed = _unpacked_length(header)
    if _unpacks_to(data, needed) < needed:
        raise PhotoError("it is truncated (rows of its pixels are missing)")


def _unpacked_length(header: bytes) -> int:
    """Return the bytes of all rows with their filters, from the content of an IHDR chunk."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * _CHANNELS.get(header[9], 1)
    total = 0
    for x, y, dx, dy in _PASSES if header[12] else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // dx), -((y - height) // dy)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _unpacks_to(data: bytes, needed: int) -> int:
    """Return the length of the unpacked pixel data, counted as far as ``needed``."""
    unpacker, total = zlib.decompressobj(), 0
    for kind, start, end in chunks(data):
        packed = data[start:end] if kind == _PIXELS else b""
        while packed and total < needed and not unpacker.eof:
            total += len(unpacker.decompress(packed, _AT_ONCE))
            packed = unpacker.unconsumed_tail
    return total
