"""A corpus of hostile files, each with its outcome: a photo of a size and colours, or a reason."""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import Box, Extractor, PhotoDescriptors, PhotoFailure, decode_photo, find_photos
from ctxdeploy.runtime.decode import DecodeLimits

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # about metadata that is damaged on purpose
SETTINGS = Preprocessing(image_size=64)
RED, GREEN, BLUE, YELLOW = (220, 20, 20), (20, 200, 20), (20, 20, 220), (220, 220, 20)
BOMB = "pixels exceed 178,956,970, the limit against decompression bombs: raise it with --max-pixels"
NO_PHOTO = "it is not a photo of a format that can be read"
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Shows:
    """A photo that is taken: its size after rotation, and the colours of its four corners, clockwise."""

    size: tuple[int, int]
    corners: tuple[tuple[int, int, int], ...] = (RED, GREEN, BLUE, YELLOW)
    tolerance: int = 40


QUADRANTS = Shows((32, 24))


def quadrants(width: int = 32, height: int = 24) -> Image.Image:
    """Return a picture of four colours: red, green; yellow, blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    image.paste(BLUE, (width // 2, height // 2, width, height))
    image.paste(YELLOW, (0, height // 2, width // 2, height))
    return image


def noise(width: int = 96, height: int = 72, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, fmt: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def frames(fmt: str, count: int, **options: object) -> bytes:
    """Return an animation that begins with the quadrants."""
    others = [Image.new("RGB", (32, 24), (n % 256, 0, 128)) for n in range(count - 1)]
    return encoded(quadrants(), fmt, save_all=True, append_images=others, **options)


def turned(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return encoded(quadrants(), "JPEG", quality=95, subsampling=0, exif=exif)


# ---- JPEG -----------------------------------------------------------------------------------------------------------


def jpeg(**options: object) -> bytes:
    return encoded(quadrants(), "JPEG", quality=95, **{"subsampling": 0, **options})


def noisy(**options: object) -> bytes:
    return encoded(noise(), "JPEG", **{"quality": 90, **options})


def scan_start(data: bytes) -> int:
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def overwritten(data: bytes, part: tuple[float, float], filling: Callable[[int], bytes]) -> bytes:
    """Replace part of the coded bytes of a JPEG file by as many others."""
    first = scan_start(data)
    start, end = (first + int((len(data) - first) * edge) for edge in part)
    return data[:start] + filling(end - start) + data[end:]


def without(data: bytes, part: tuple[float, float]) -> bytes:
    return overwritten(data, part, lambda length: b"")


def scans(data: bytes, count: int) -> bytes:
    """Return a progressive JPEG file with its first scans only."""
    at = data.index(b"\xff\xda")
    for _ in range(count):
        at = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]").search(data, at + 2).start()  # type: ignore[union-attr]
        while data[at + 1] not in (0xDA, 0xD9):
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:at] + b"\xff\xd9"


def restarts_exchanged() -> bytes:
    data = noisy(restart_marker_rows=1)
    return data.replace(b"\xff\xd0", b"\xff\xd7", 1).replace(b"\xff\xd1", b"\xff\xd0", 1)


def many_scans(count: int) -> bytes:
    """Return a progressive JPEG file that refines the same bit over and over: little data, much work."""
    data = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    again = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00\x00"
    end = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]").search(data, first + 2).start()  # type: ignore[union-attr]
    return data[:end] + again * count + data[end:]


def sof(data: bytes, width: int, height: int) -> bytes:
    """Return a JPEG file whose header promises another size."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


# ---- PNG ------------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(size: tuple[int, int], depth: int, colour: int, rows: bytes, *more: bytes, interlace: int = 0) -> bytes:
    """Return a PNG file with ``rows`` (each behind its filter byte) and further chunks before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace))
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + end


def with_chunk(kind: bytes, body: bytes) -> bytes:
    data = encoded(quadrants(), "PNG")
    return data[:33] + chunk(kind, body) + data[33:]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def interlaced() -> bytes:
    """Return an 8×8 grey PNG in Adam7 order whose upper left quarter is 200, the others 100."""
    values = np.full((8, 8), 100, np.uint8)
    values[:4, :4] = 200
    rows = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        rows += b"".join(b"\0" + row.tobytes() for row in values[y::dy, x::dx])
    return png((8, 8), 8, 0, rows, interlace=1)


# ---- others ---------------------------------------------------------------------------------------------------------


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


def cut(data: bytes, part: float) -> bytes:
    return data[: int(len(data) * part)]


def webp_canvas(width: int, height: int) -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + struct.pack("<I", width - 1)[:3]
        + struct.pack("<I", height - 1)[:3]
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def tiff(*entries: tuple[int, int, int, int], after: bytes = b"") -> bytes:
    """Return a TIFF file with one directory of (tag, type, count, value) at byte 8."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + after


def grey_tiff(width: int, height: int, *more: tuple[int, int, int, int]) -> bytes:
    fields = (
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200)),
        *((277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, min(width * height, 64))),
    )
    return tiff(*sorted(fields + more)).ljust(200, b"\0") + bytes([180]) * 64


def taken() -> Iterator[tuple[str, bytes, Shows]]:
    """Yield the photos that are indexed."""
    grey = Image.fromarray(np.array([[0, 65535], [25700, 257]], np.uint16))
    greys = Shows((2, 2), ((0,) * 3, WHITE, (1,) * 3, (100,) * 3), 0)
    palette = quadrants().quantize(4)
    clear = quadrants().convert("RGBA")
    clear.putalpha(Image.new("L", (32, 24), 0))
    white = Shows((32, 24), (WHITE,) * 4, 0)
    solid = Shows((1, 1), (RED,) * 4)
    thumbnail = Image.Exif()
    thumbnail[0x010E] = "x" * 60000
    yield "JPEG", jpeg(), QUADRANTS
    yield "JPEG with half the colours", jpeg(subsampling=2), QUADRANTS
    yield "progressive JPEG", jpeg(progressive=True), QUADRANTS
    yield "JPEG with restart markers", jpeg(restart_marker_rows=1), QUADRANTS
    yield "JPEG with a long EXIF block", jpeg(exif=thumbnail), QUADRANTS
    yield "JPEG with a trailer", jpeg() + b"trailer of a phone" * 50, QUADRANTS
    yield "JPEG with junk between segments", patched(jpeg(), b"\xff\xdb", b"junk\xff\xdb"), QUADRANTS
    yield "JPEG with fill bytes", patched(jpeg(), b"\xff\xdb", b"\xff\xff\xff\xff\xdb"), QUADRANTS
    yield "JPEG padded before its end", jpeg()[:-2] + bytes(512) + b"\xff\xd9", QUADRANTS
    yield "JPEG of noise with other warnings", patched(noisy(), b"JFIF\0\1", b"JFIF\0\7"), Shows((96, 72), ())
    yield (
        "JPEG of one colour with few bits",
        encoded(Image.new("RGB", (3000, 2000), RED), "JPEG", optimize=True),
        Shows((3000, 2000), (RED,) * 4),
    )
    yield "CMYK JPEG", encoded(quadrants().convert("CMYK"), "JPEG", quality=95), QUADRANTS
    yield (
        "grey JPEG",
        encoded(quadrants().convert("L"), "JPEG"),
        Shows((32, 24), ((80,) * 3, (126,) * 3, (43,) * 3, (197,) * 3)),
    )
    yield "JPEG with an ICC profile", jpeg(icc_profile=b"no profile at all" * 10), QUADRANTS
    yield "MPO of two photos", frames("MPO", 2, quality=95, subsampling=0), QUADRANTS
    for number, corners in enumerate(ROTATIONS, start=1):
        yield f"JPEG turned {number}", turned(number), Shows((24, 32) if number > 4 else (32, 24), corners)
    yield "PNG", encoded(quadrants(), "PNG"), QUADRANTS
    yield "PNG with a trailer", encoded(quadrants(), "PNG") + b"trailer", QUADRANTS
    yield "PNG with alpha in its palette", encoded(palette, "PNG", transparency=bytes([0] * 4)), white
    yield "PNG with a palette", encoded(palette, "PNG"), QUADRANTS
    yield "PNG that is transparent", encoded(clear, "PNG"), white
    yield "PNG of 16-bit grey", encoded(grey, "PNG"), greys
    yield "PNG of 16-bit colours", png((1, 1), 16, 2, b"\0" + struct.pack(">3H", 56540, 5140, 5140)), solid
    yield "PNG of 16-bit grey with alpha", png((1, 1), 16, 4, b"\0" + bytes(4)), Shows((1, 1), (WHITE,) * 4, 0)
    yield (
        "PNG of 1 bit",
        encoded(quadrants().convert("1", dither=0), "PNG"),
        Shows((32, 24), (BLACK, BLACK, BLACK, WHITE), 0),
    )
    yield "PNG of 2 bits", png((2, 2), 2, 0, b"\0\x10\0\xb0"), Shows((2, 2), (BLACK, (85,) * 3, WHITE, (170,) * 3), 0)
    yield "PNG in Adam7 order", interlaced(), Shows((8, 8), ((200,) * 3, (100,) * 3, (100,) * 3, (100,) * 3), 0)
    yield "PNG that is an animation", frames("PNG", 3), QUADRANTS
    yield "PNG that is an animation behind a picture", frames("PNG", 3, default_image=True), QUADRANTS
    yield "PNG with a broken ICC profile", with_chunk(b"iCCP", b"name\0\0not deflated"), QUADRANTS
    yield "PNG with a broken EXIF block", with_chunk(b"eXIf", b"MM\0*garbage"), QUADRANTS
    yield "GIF", encoded(quadrants(), "GIF"), QUADRANTS
    yield (
        "GIF that is transparent",
        encoded(palette, "GIF", transparency=palette.getpixel((0, 0))),
        Shows((32, 24), (WHITE, GREEN, BLUE, YELLOW)),
    )
    yield "GIF of 2,000 frames", frames("GIF", 2000), QUADRANTS
    yield "GIF without its trailer", encoded(quadrants(), "GIF")[:-1], QUADRANTS
    yield "WebP", encoded(quadrants(), "WEBP", quality=95), QUADRANTS
    yield "WebP that is an animation", frames("WEBP", 3, lossless=True), QUADRANTS
    yield "WebP that is transparent", encoded(clear, "WEBP", lossless=True), white
    yield "AVIF", encoded(quadrants(), "AVIF", quality=95), QUADRANTS
    yield (
        "AVIF whose header lies",
        patched(encoded(quadrants(), "AVIF", quality=95), struct.pack(">II", 32, 24), struct.pack(">II", 320, 240)),
        Shows((320, 240)),
    )
    padded = Image.Exif()
    padded[0x927C] = bytes(2000)
    yield "WebP with zeros in its EXIF block", encoded(quadrants(), "WEBP", quality=95, exif=padded), QUADRANTS
    yield "AVIF with zeros in its EXIF block", encoded(quadrants(), "AVIF", quality=95, exif=padded), QUADRANTS
    yield "WebP padded with zeros", encoded(quadrants(), "WEBP", quality=95) + bytes(4096), QUADRANTS
    yield "AVIF padded with zeros", encoded(quadrants(), "AVIF", quality=95) + bytes(4096), QUADRANTS
    film = struct.pack(">I4s8x", 16, b"ftyp") + struct.pack(">I4s", 4104, b"mdat") + bytes(4096)
    yield "AVIF with a film behind it", encoded(quadrants(), "AVIF", quality=95) + film, QUADRANTS
    for method in (0, 4):
        flat = encoded(quadrants(640, 480), "WEBP", quality=100, method=method)
        yield f"WebP of flat colours, method {method}", flat, Shows((640, 480))
    yield "JPEG 2000", encoded(quadrants(), "JPEG2000"), QUADRANTS
    yield "TIFF of 50 pages", frames("TIFF", 50), QUADRANTS
    yield "TIFF of LZW", encoded(quadrants(), "TIFF", compression="tiff_lzw"), QUADRANTS
    yield "TIFF of CMYK", encoded(quadrants().convert("CMYK"), "TIFF"), QUADRANTS
    yield "TIFF of 16-bit grey", encoded(grey, "TIFF"), greys
    yield (
        "TIFF of floats",
        encoded(Image.fromarray(np.array([[0, 1]], np.float32)), "TIFF"),
        Shows((2, 1), (BLACK, WHITE, WHITE, BLACK), 0),
    )
    yield "TIFF with a tag of 4 GB", grey_tiff(4, 4, (700, 1, 0xFFFFFFF0, 8)), Shows((4, 4), ((180,) * 3,) * 4, 0)
    yield "BMP", encoded(quadrants(), "BMP"), QUADRANTS
    yield "PPM", encoded(quadrants(), "PPM"), QUADRANTS
    yield "PPM in letters", b"P3 2 1 255 220 20 20 20 200 20", Shows((2, 1), (RED, GREEN, GREEN, RED), 0)
    yield "PGM with a comment", b"P5\n# a comment\n1 1\n255\n\xc8", Shows((1, 1), ((200,) * 3,) * 4, 0)
    yield "one pixel of PNG", encoded(quadrants().crop((0, 0, 1, 1)), "PNG"), solid
    yield "one pixel of JPEG", encoded(quadrants().crop((0, 0, 1, 1)), "JPEG", quality=95), solid
    yield "20,000×50 JPEG", encoded(quadrants(20000, 50), "JPEG"), Shows((20000, 50), ())
    yield "50×20,000 PNG", encoded(quadrants(50, 20000), "PNG"), Shows((50, 20000), ())
    yield "1×20,000 WebP", encoded(Image.new("RGB", (1, 16383), RED), "WEBP"), Shows((1, 16383), (RED,) * 4)


# The corners clockwise from the upper left one, by EXIF orientation.
ROTATIONS = (
    (RED, GREEN, BLUE, YELLOW),
    (GREEN, RED, YELLOW, BLUE),
    (BLUE, YELLOW, RED, GREEN),
    (YELLOW, BLUE, GREEN, RED),
    (RED, YELLOW, BLUE, GREEN),
    (YELLOW, RED, GREEN, BLUE),
    (BLUE, GREEN, RED, YELLOW),
    (GREEN, BLUE, YELLOW, RED),
)


def refused() -> Iterator[tuple[str, bytes, str]]:
    """Yield the photos that fail; reasons are whole, or end with an ellipsis where a library's words follow."""
    no_end = "it is truncated (the JPEG data has no end)"
    few_scans = "it is truncated (scans of the JPEG data are missing)"
    damaged = "it is damaged…"
    yield "empty", b"", "it is empty (0 bytes)"
    yield "zeros", bytes(5000), NO_PHOTO
    yield "text", b"Dear diary, today I took no photo.", NO_PHOTO
    yield "page of an error", b"<!DOCTYPE html><html><title>404 Not Found</title></html>", NO_PHOTO
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', NO_PHOTO
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", NO_PHOTO
    yield "film", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(100), NO_PHOTO
    yield "JPEG of two bytes", b"\xff\xd8", NO_PHOTO
    yield "JPEG cut in its header", noisy()[:100], damaged
    for part in (0.7, 0.9, 0.99):
        yield f"JPEG cut at {part}", cut(noisy(), part), no_end
        yield f"progressive JPEG cut at {part}", cut(noisy(progressive=True), part), no_end
    yield "JPEG without its end", noisy()[:-2], no_end
    yield "JPEG whose tail is zeros", overwritten(noisy(), (0.5, 1), bytes), no_end
    yield "JPEG whose tail is zeros up to its end", overwritten(noisy(), (0.5, 1), bytes)[:-2] + b"\xff\xd9", damaged
    yield "JPEG cut and closed", cut(noisy(), 0.8) + b"\xff\xd9", damaged
    yield "JPEG with zeros inside", overwritten(noisy(), (0.4, 0.6), bytes), damaged
    yield "JPEG with ones inside", overwritten(noisy(), (0.4, 0.6), lambda n: b"\xff" * n), damaged
    yield "JPEG with text inside", overwritten(noisy(), (0.4, 0.6), lambda n: (b"lorem ipsum " * n)[:n]), damaged
    yield (
        "JPEG with another inside",
        overwritten(noisy(), (0.4, 0.6), lambda n: noisy(quality=80)[700 : 700 + n]),
        damaged,
    )
    yield "JPEG with a part left out", without(noisy(), (0.4, 0.6)), damaged
    yield "JPEG with restart markers exchanged", restarts_exchanged(), damaged
    yield "progressive JPEG with zeros inside", overwritten(noisy(progressive=True), (0.4, 0.6), bytes), damaged
    yield "progressive JPEG of its first scan", scans(noisy(progressive=True), 1), few_scans
    yield "progressive JPEG without its last scan", scans(noisy(progressive=True), 9), few_scans
    yield "JPEG of 5,000 scans", many_scans(5000), "it has more than 500 scans, the limit against decompression bombs"
    yield "JPEG of another size", sof(noisy(), 2000, 2000), damaged
    yield "JPEG of 12 bits", patched(noisy(), b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"), damaged
    yield "PNG cut", cut(encoded(noise(), "PNG"), 0.6), damaged
    yield "PNG without its end", encoded(noise(), "PNG")[:-12], damaged
    yield "PNG with a wrong byte", flipped(encoded(noise(), "PNG"), 5000), damaged
    yield "PNG with a wrong header", flipped(encoded(noise(), "PNG"), 19), damaged
    yield "PNG without pixels", b"\x89PNG\r\n\x1a\n" + encoded(noise(), "PNG")[8:33] + chunk(b"IEND", b""), damaged
    yield "PNG of no width", png((0, 8), 8, 0, b"\0" * 8), damaged
    yield "PNG with a bomb of a text", with_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10_000_000))), damaged
    yield (
        "PNG with a bomb of an international text",
        with_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(10_000_000))),
        damaged,
    )
    yield "PNG with a bomb of a profile", with_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10_000_000))), damaged
    yield "GIF cut", cut(encoded(noise(), "GIF"), 0.6), damaged
    yield "WebP cut", cut(encoded(noise(), "WEBP"), 0.6), damaged
    yield "lossless WebP cut", cut(encoded(noise(), "WEBP", lossless=True), 0.6), damaged
    yield "AVIF cut", cut(encoded(noise(), "AVIF"), 0.6), damaged
    yield "JPEG 2000 cut", cut(encoded(noise(), "JPEG2000"), 0.6), damaged
    yield "TIFF cut", cut(encoded(noise(), "TIFF"), 0.6), damaged
    yield "TIFF of LZW cut", cut(encoded(noise(), "TIFF", compression="tiff_lzw"), 0.6), damaged
    yield "BMP cut", cut(encoded(noise(), "BMP"), 0.6), damaged
    yield "PPM cut", cut(encoded(noise(), "PPM"), 0.6), damaged
    yield "TIFF whose directory is itself", tiff((330, 4, 1, 8)), damaged
    yield (
        "TIFF of integers without a meaning",
        encoded(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF"),
        "its samples range from 0 to 70000…",
    )
    yield "JPEG bomb", sof(noisy(), 65000, 65000), f"65000×65000 {BOMB}"
    yield "PNG bomb", png((60000, 60000), 8, 2, bytes(100_000)), f"60000×60000 {BOMB}"
    yield (
        "GIF bomb",
        patched(encoded(quadrants(), "GIF"), struct.pack("<HH", 32, 24), struct.pack("<HH", 65535, 65535)),
        f"65535×65535 {BOMB}",
    )
    yield "WebP bomb", webp_canvas(1 << 24, 1 << 24), f"16777216×16777216 {BOMB}"
    yield (
        "BMP bomb",
        patched(encoded(quadrants(), "BMP"), struct.pack("<ii", 32, 24), struct.pack("<ii", 90000, 90000)),
        f"90000×90000 {BOMB}",
    )
    yield "PPM bomb", b"P6 20000 20000 255 " + bytes(100), f"20000×20000 {BOMB}"
    yield "TIFF bomb", grey_tiff(100_000, 100_000), f"100000×100000 {BOMB}"
    yield (
        "JPEG 2000 bomb",
        patched(encoded(quadrants(), "JPEG2000"), struct.pack(">II", 24, 32), struct.pack(">II", 90000, 90000)),
        f"90000×90000 {BOMB}",
    )
    yield (
        "AVIF bomb",
        patched(encoded(quadrants(), "AVIF"), struct.pack(">II", 32, 24), struct.pack(">II", 16000, 16000)),
        f"16000×16000 {BOMB}",
    )


TAKEN = {name: (data, shows) for name, data, shows in taken()}
REFUSED = {name: (data, reason) for name, data, reason in refused()}


def reason_of(data: bytes, limits: DecodeLimits | None = None) -> str:
    with pytest.raises(PhotoError) as caught:
        decode_photo(data, SETTINGS, limits=limits or DecodeLimits())
    message = str(caught.value)
    assert "\n" not in message
    return message.partition(": ")[2]


def agrees(reason: str, expected: str) -> bool:
    return reason.startswith(expected[:-1]) if expected.endswith("…") else reason == expected


def test_the_corpus_is_large() -> None:
    assert len(TAKEN) + len(REFUSED) >= 120
    assert not TAKEN.keys() & REFUSED.keys()


@pytest.mark.parametrize("draft", [False, True], ids=["exact", "draft"])
@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken(name: str, draft: bool) -> None:
    data, shows = TAKEN[name]
    photo = decode_photo(data, Preprocessing(image_size=64, draft=draft))
    assert photo.original_size == shows.size
    assert max(photo.pixels.shape[:2]) == min(max(shows.size), 64)
    found = photo.pixels[[0, 0, -1, -1], [0, -1, -1, 0]].astype(int)
    for corner, expected in zip(found, shows.corners, strict=False):
        assert np.abs(corner - expected).max() <= shows.tolerance, (found, shows.corners)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    data, expected = REFUSED[name]
    reason = reason_of(data)
    assert agrees(reason, expected), reason


NAMES = (
    "n{}.jpg",
    "ünïcödé {}.jpg",
    "写真{}.png",
    "\U0001f4f7 {}.jpeg",
    "e\u0301{}.jpg",
    "new\nline{}.jpg",
    "'; rm {}.jpg",
)


def test_every_one_is_indexed_or_listed(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> None:
    """Under names of every kind, with any extension, and each twice."""
    expected: dict[str, str] = {}
    for number, (data, outcome) in enumerate([*TAKEN.values(), *REFUSED.values()]):
        for copy in range(2):
            file = NAMES[number % len(NAMES)].format(f"{number}-{copy}")
            (tmp_path / file).write_bytes(data)
            expected[file] = "" if isinstance(outcome, Shows) else outcome
    undecodable = tmp_path / "caf\udce9.jpg"
    undecodable.write_bytes(jpeg())
    expected[undecodable.name] = ""
    photos = find_photos(tmp_path)
    assert sorted(photo.name for photo in photos) == sorted(expected)
    seen: dict[str, str] = {}
    for result in Extractor(make_bundle()).extract(photos):
        assert result.name not in seen
        seen[result.name] = result.reason if isinstance(result, PhotoFailure) else ""
    assert seen.keys() == expected.keys()
    for name, reason in seen.items():
        assert agrees(reason, expected[name]) and bool(reason) == bool(expected[name]), (name, reason)


def test_duplicates_are_the_same(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(noisy())
    first, second = Extractor(make_bundle()).extract(find_photos(tmp_path))
    assert isinstance(first, PhotoDescriptors) and isinstance(second, PhotoDescriptors)
    np.testing.assert_array_equal(first.descriptors.vectors, second.descriptors.vectors)


# What --accept-truncated takes, and the share of rows from the top that is as in the whole photo.
PARTS: dict[str, tuple[bytes, bytes, float]] = {
    **{
        f"{fmt} {options}": (whole := encoded(noise(), fmt, **options), cut(whole, 0.6), share)
        for fmt, options, share in (
            ("JPEG", {"quality": 90}, 0.3),
            ("JPEG", {"quality": 90, "restart_marker_rows": 1}, 0.3),
            ("PNG", {}, 0.4),
            ("PNG", {"compress_level": 0}, 0.5),
            ("GIF", {"interlace": 0}, 0.4),
            ("PPM", {}, 0.5),
            ("TIFF", {}, 0.4),
        )
    },
    "JPEG closed": (noisy(), cut(noisy(), 0.6) + b"\xff\xd9", 0.3),
    "JPEG without its end": (noisy(), noisy()[:-2], 1),
    "PNG with a wrong byte": (encoded(noise(), "PNG"), flipped(encoded(noise(), "PNG"), 12000), 0.4),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_taken_where_that_is_asked_for(name: str) -> None:
    whole, part, share = PARTS[name]
    settings, limits = Preprocessing(image_size=96), DecodeLimits(accept_truncated=True)
    reason_of(part)
    expected = decode_photo(whole, settings).pixels
    found = decode_photo(part, settings, limits=limits)
    assert found.original_size == (96, 72)
    rows = int(72 * share)
    np.testing.assert_array_equal(found.pixels[:rows], expected[:rows])
    np.testing.assert_array_equal(decode_photo(whole, settings, limits=limits).pixels, expected)


def test_a_coarse_photo_is_taken_where_that_is_asked_for() -> None:
    limits = DecodeLimits(accept_truncated=True)
    whole = noisy(progressive=True)
    for part in (cut(whole, 0.5), scans(whole, 3)):
        assert decode_photo(part, SETTINGS, limits=limits).original_size == (96, 72)


@pytest.mark.parametrize("fmt", ["WEBP", "AVIF"])
def test_formats_without_parts_stay_refused(fmt: str) -> None:
    part = cut(encoded(noise(), fmt), 0.6)
    assert reason_of(part, DecodeLimits(accept_truncated=True)) == reason_of(part)


def test_nothing_at_all_is_never_taken() -> None:
    limits = DecodeLimits(accept_truncated=True)
    for name in ("empty", "text", "JPEG cut in its header", "PNG bomb", "PNG without pixels", "JPEG of two bytes"):
        data, expected = REFUSED[name]
        assert agrees(reason_of(data, limits), expected), name


def test_the_limit_is_the_callers() -> None:
    data = encoded(quadrants(40, 30), "PNG")
    assert decode_photo(data, SETTINGS, limits=DecodeLimits(max_pixels=1200)).original_size == (40, 30)
    assert reason_of(data, DecodeLimits(max_pixels=1199)) == (
        "40×30 pixels exceed 1,199, the limit against decompression bombs: raise it with --max-pixels"
    )


@pytest.mark.filterwarnings("error")
def test_a_larger_limit_holds_and_nothing_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own limit, which is the whole process's, neither refuses nor warns."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encoded(quadrants(), "PNG")
    assert decode_photo(data, SETTINGS).original_size == (32, 24)
    part = decode_photo(data, SETTINGS, Box.parse("16,0,32,24"))
    assert (part.pixels[0, 0].tolist(), part.pixels[-1, -1].tolist()) == ([*GREEN], [*BLUE])


def test_heif_without_its_plugin_says_what_to_install() -> None:
    from ctxdeploy.runtime.decode.formats import readable_formats

    if "HEIF" in readable_formats():
        pytest.skip("a plug-in for HEIF is installed")
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
    assert reason_of(data) == "it is HEIF, which needs a plug-in for Pillow: pip install pi-heif"


def test_a_lack_of_memory_is_no_damage_to_be_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that ran out of memory half-way leaves pixels too; the photo must be tried again, not taken so."""
    from PIL import ImageFile

    calls = []

    def full(self: ImageFile.ImageFile) -> None:
        self.im = Image.new("RGB", self.size, "red").im
        calls.append(self)
        if len(calls) == 1:
            raise MemoryError

    file = io.BytesIO()
    Image.new("RGB", (40, 30), "blue").save(file, "PNG")
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", full)
        with pytest.raises(PhotoError, match="there is not enough memory"):
            decode_photo(file.getvalue(), Preprocessing(), limits=DecodeLimits(accept_truncated=True))
