"""Layouts of PNG, WebP, JPEG 2000 and AVIF against their true pixels; those of TIFF are in ``test_tiff_layouts.py``."""

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import decode_photo

SETTINGS = Preprocessing(image_size=64)
HEIGHT, WIDTH = 20, 32
FIXTURES = Path(__file__).parents[1] / "fixtures" / "layouts"
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
KINDS = {"grey": GREY, "rgb": RGB, "grey-alpha": GREY_ALPHA, "rgb-alpha": RGB_ALPHA}
# Where the passes of Adam7 begin, and their steps: x, y, step of x, step of y.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def picture(colours: int) -> NDArray[np.float64]:
    """Return a smooth picture, H×W×samples, 0 to 1; as ``tests/fixtures/make_layouts.py`` makes it."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    y, x = y / (HEIGHT - 1), x / (WIDTH - 1)
    alpha = [1 - x] if colours & 4 else []
    return np.stack([*([x, y, (x + y) / 2] if colours & 2 else [x]), *alpha], axis=-1)


def shown(samples: NDArray[np.float64], colours: int) -> NDArray[np.float64]:
    """Return the true picture, H×W×3, 0 to 255, on white."""
    alpha = samples[..., -1:] if colours & 4 else np.ones((HEIGHT, WIDTH, 1))
    rgb = samples[..., :3] if colours & 2 else np.repeat(samples[..., :1], 3, axis=-1)
    return 255 * (rgb * alpha + 1 - alpha)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def packed(samples: NDArray[np.int64], depth: int) -> bytes:
    """Return rows of samples, each behind the number of its filter: of the second, where it is possible, a real one."""
    rows = b""
    for number, row in enumerate(samples.reshape(len(samples), -1)):
        if depth < 8:
            bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
            rows += b"\0" + np.packbits(bits.ravel().astype(np.uint8)).tobytes()
            continue
        data = np.frombuffer(row.astype(">u2" if depth == 16 else np.uint8).tobytes(), np.uint8)
        step = samples.shape[-1] * depth // 8
        if number % 2 and len(data) > step:  # filter 1: the difference to the pixel at the left
            data = data - np.concatenate([np.zeros(step, np.uint8), data[:-step]])
        rows += bytes([number % 2 if len(data) > step else 0]) + data.tobytes()
    return rows


def png(samples: NDArray[np.int64], colours: int, depth: int, *, interlaced: bool, more: bytes = b"") -> bytes:
    if interlaced:
        passes = (samples[y::down, x::right] for x, y, right, down in ADAM7)
        data = b"".join(packed(part, depth) for part in passes if part.size)
    else:
        data = packed(samples, depth)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colours, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def check(data: bytes, expected: NDArray[np.float64], tolerance: float = 3.0) -> None:
    pixels = decode_photo(data, SETTINGS).pixels
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= tolerance


PNGS = [
    (colours, depth, interlaced)
    for colours, depths in ((GREY, (1, 2, 4, 8, 16)), (RGB, (8, 16)), (GREY_ALPHA, (8, 16)), (RGB_ALPHA, (8, 16)))
    for depth, interlaced in itertools.product(depths, (False, True))
]


@pytest.mark.parametrize(("colours", "depth", "interlaced"), PNGS)
def test_png(colours: int, depth: int, interlaced: bool) -> None:
    """Also with samples that use few of their 16 bits: they are as bright as in 8 bits."""
    for top in (255, 1023, 4095, 16383, 65535) if depth == 16 else ((1 << depth) - 1,):
        samples = np.rint(picture(colours) * top).astype(np.int64)
        check(png(samples, colours, depth, interlaced=interlaced), shown(samples / top, colours))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_png_of_a_palette(depth: int, interlaced: bool, with_alpha: bool) -> None:
    count = 1 << depth
    colours = np.stack([np.arange(count), count - 1 - np.arange(count), np.arange(count) // 2], axis=-1) * 255 // count
    alphas = np.arange(count) * 255 // count if with_alpha else np.full(count, 255)
    more = chunk(b"PLTE", colours.astype(np.uint8).tobytes())
    more += chunk(b"tRNS", alphas.astype(np.uint8).tobytes()) if with_alpha else b""
    indices = np.rint(picture(GREY) * (count - 1)).astype(np.int64)
    alpha = alphas[indices] / 255
    expected = colours[indices[..., 0]] * alpha + 255 * (1 - alpha)
    check(png(indices, PALETTE, depth, interlaced=interlaced, more=more), expected)


@pytest.mark.parametrize(
    ("colours", "depth"), [(GREY, 1), (GREY, 2), (GREY, 4), (GREY, 8), (GREY, 16), (RGB, 8), (RGB, 16)]
)
def test_png_with_a_transparent_colour(colours: int, depth: int) -> None:
    top = (1 << depth) - 1
    samples = np.rint(picture(colours) * top).astype(np.int64)
    chosen = samples[7, 9]
    more = chunk(b"tRNS", chosen.astype(">u2").tobytes())
    expected = np.where((samples == chosen).all(axis=-1, keepdims=True), 255, shown(samples / top, colours))
    check(png(samples, colours, depth, interlaced=False, more=more), expected)


def encoded(samples: NDArray[np.float64], mode: str, kind: str, options: dict[str, object]) -> bytes:
    eight = np.rint(samples * 255).astype(np.uint8)
    image = Image.frombytes(mode, (WIDTH, HEIGHT), eight.tobytes())
    buffer = io.BytesIO()
    if options.pop("frames", None):
        options |= {"save_all": True, "append_images": [image.rotate(180)]}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def others() -> Iterator[tuple[str, int, str, dict[str, object]]]:
    for frames in (False, True):
        for colours, mode in ((GREY, "L"), (RGB, "RGB"), (RGB_ALPHA, "RGBA")):
            yield "WEBP", colours, mode, {"lossless": True, "exact": True, "frames": frames}
            yield "WEBP", colours, mode, {"quality": 100, "frames": frames}
            yield "AVIF", colours, mode, {"quality": 100, "subsampling": "4:4:4", "frames": frames}
    for colours, mode in ((GREY, "L"), (GREY_ALPHA, "LA"), (RGB, "RGB"), (RGB_ALPHA, "RGBA")):
        for irreversible in (False, True):
            yield "JPEG2000", colours, mode, {"irreversible": irreversible, "mct": int(mode == "RGB")}
        yield "JPEG2000", colours, mode, {"no_jp2": True, "tile_size": (16, 16)}


@pytest.mark.parametrize(("kind", "colours", "mode", "options"), list(others()))
def test_8_bits_in_other_formats(kind: str, colours: int, mode: str, options: dict[str, object]) -> None:
    if not features.check({"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}[kind]):
        pytest.skip(f"this Pillow does not write {kind}")
    lossy = "quality" in options
    check(encoded(picture(colours), mode, kind, dict(options)), shown(picture(colours), colours), 14 if lossy else 4)


@pytest.mark.parametrize("path", sorted(FIXTURES.iterdir()), ids=lambda path: path.name)
def test_more_than_8_bits_in_other_formats(path: Path) -> None:
    """JPEG 2000 of colours above all: Pillow makes its white black, and what is opaque transparent."""
    if not features.check("avif" if path.suffix == ".avif" else "jpg_2000"):
        pytest.skip("this Pillow does not read it")
    colours = KINDS[path.stem.rpartition("-1")[0]]
    check(path.read_bytes(), shown(picture(colours), colours), 4)


def test_jpeg_2000_that_cannot_be_mended_is_refused() -> None:
    """Its quantisation is another one than its header says, so that the two decodings differ."""
    data = bytearray((FIXTURES / "rgb-12-lossy.jp2").read_bytes())
    at = data.index(b"\xff\x5c")
    data[at : at + 2] = b"\xff\x64"  # a comment now
    with pytest.raises(PhotoError):
        decode_photo(bytes(data), SETTINGS)
