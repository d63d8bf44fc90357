"""Pixels equal the reference's bit by bit, and every kind of photo is upright, opaque and RGB."""

import io
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import Pixels, decode_photo
from ctxdeploy.runtime.decode.decode import thumbnail_size

SMALL = Preprocessing(image_size=64)
WHOLE = Preprocessing(image_size=1024)


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a picture with structure at every size and no symmetry."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 9, 31):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells + 1, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64) / 3
    return Image.fromarray(total.astype(np.uint8))


def encoded(image: Image.Image, fmt: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def decode(data: bytes, preprocessing: Preprocessing = WHOLE) -> NDArray[np.uint8]:
    photo = decode_photo(data, preprocessing)
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.c_contiguous
    return photo.pixels


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM"])
@pytest.mark.parametrize("size", [(300, 200), (201, 301), (640, 480), (64, 64), (63, 40), (1000, 37), (5, 900)])
def test_pixels_are_those_of_the_reference(
    tmp_path: Path, reference: ModuleType, fmt: str, size: tuple[int, int]
) -> None:
    path = tmp_path / "photo"
    path.write_bytes(encoded(scene(*size), fmt))
    for image_size in (64, 150, 1024):
        photo = decode_photo(path, Preprocessing(image_size=image_size))
        np.testing.assert_array_equal(photo.pixels, reference.load(path, image_size))
        assert photo.original_size == size


def test_a_camera_photo_is_that_of_the_reference(tmp_path: Path, reference: ModuleType) -> None:
    path = tmp_path / "photo.jpg"
    scene(3000, 2000).save(path, quality=92, subsampling=2)
    np.testing.assert_array_equal(decode_photo(path, WHOLE).pixels, reference.load(path, 1024))
    # From a ratio of 4 on, thumbnail's default reducing_gap of 2 puts a box filter before LANCZOS.
    np.testing.assert_array_equal(decode_photo(path, SMALL).pixels, reference.load(path, 64))


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(1, 2000))
def test_thumbnail_size_is_pillows(width: int, height: int, bound: float) -> None:
    image = Image.new("1", (width, height))
    image.thumbnail((bound, bound))
    assert thumbnail_size((width, height), bound) == image.size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientations(reference: ModuleType, fmt: str, orientation: int) -> None:
    image = scene(48, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encoded(image, fmt, exif=exif, **options)
    plain = np.asarray(Image.open(io.BytesIO(encoded(image, fmt, **options))).convert("RGB"))
    photo = decode_photo(data, WHOLE)
    np.testing.assert_array_equal(photo.pixels, reference.upright(plain, orientation))
    assert photo.original_size == ((32, 48) if orientation >= 5 else (48, 32))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_unknown_orientation_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = scene(20, 30)
    np.testing.assert_array_equal(decode(encoded(image, "PNG", exif=exif)), np.asarray(image))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_does_not_cost_the_photo() -> None:
    image = scene(20, 30)
    data = encoded(image, "JPEG", exif=b"Exif\0\0MM\0*garbage that is no TIFF header")
    assert decode(data).shape == (30, 20, 3)


def with_alpha() -> tuple[Image.Image, NDArray[np.uint8]]:
    image = scene(40, 30)
    alpha = np.linspace(0, 255, 1200).astype(np.uint8).reshape(30, 40)
    image.putalpha(Image.fromarray(alpha))
    return image, alpha


def test_alpha_is_composited_on_white(reference: ModuleType) -> None:
    image, alpha = with_alpha()
    expected = reference.over_white(np.asarray(image)[..., :3], alpha)
    assert np.abs(decode(encoded(image, "PNG")) - expected).max() <= 0.51
    np.testing.assert_array_equal(decode(encoded(image, "PNG"))[0, 0], [255, 255, 255])
    lossless = decode(encoded(image, "WEBP", lossless=True, exact=True))
    assert np.abs(lossless - expected).max() <= 0.51
    grey = image.convert("LA")
    expected = reference.over_white(np.asarray(grey)[..., :1].repeat(3, axis=2), alpha)
    assert np.abs(decode(encoded(grey, "PNG")) - expected).max() <= 0.51


def test_transparent_palettes_and_colours_are_white() -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 50, 7, 8, 9])
    image.putdata([0, 1, 2, 0, 1, 1, 2, 2])
    rows = {0: (10, 20, 30), 1: (200, 100, 50), 2: (7, 8, 9)}
    index = np.array([[0, 1, 2, 0], [1, 1, 2, 2]])

    def expected(colours: Mapping[int, tuple[int, ...]]) -> NDArray[np.uint8]:
        return np.array([[colours[i] for i in row] for row in index], np.uint8)

    np.testing.assert_array_equal(decode(encoded(image, "PNG")), expected(rows))
    np.testing.assert_array_equal(decode(encoded(image, "PNG", transparency=1)), expected({**rows, 1: (255, 255, 255)}))
    half = decode(encoded(image, "PNG", transparency=bytes([255, 0, 51])))
    np.testing.assert_array_equal(half, expected({0: rows[0], 1: (255, 255, 255), 2: (205, 206, 206)}))
    np.testing.assert_array_equal(decode(encoded(image, "GIF", transparency=2)), expected({**rows, 2: (255, 255, 255)}))
    # The tRNS chunk of an RGB or a grey PNG makes one colour transparent.
    np.testing.assert_array_equal(
        decode(encoded(image.convert("RGB"), "PNG", transparency=(10, 20, 30))), expected({**rows, 0: (255, 255, 255)})
    )
    grey = Image.fromarray(np.array([[1, 2], [3, 4]], np.uint8))
    assert decode(encoded(grey, "PNG", transparency=3))[..., 0].tolist() == [[1, 2], [255, 4]]


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = scene(50, 40).convert(mode)
    fmt = "PNG" if mode in ("L", "1") else "TIFF"
    data = encoded(image, fmt)
    stored = Image.open(io.BytesIO(data))
    assert mode in (stored.mode, "YCbCr")
    np.testing.assert_array_equal(decode(data), np.asarray(stored.convert("RGB")))


def test_cmyk_jpeg_keeps_its_colours() -> None:
    image = scene(64, 48)
    pixels = decode(encoded(image.convert("CMYK"), "JPEG", quality=98)).astype(int)
    assert np.abs(pixels - np.asarray(image)).mean() < 4


def test_lab_becomes_rgb() -> None:
    lab = Image.merge("LAB", [Image.new("L", (8, 8), value) for value in (255, 128, 128)])
    assert decode(encoded(lab, "TIFF")).min() >= 250, "L=255, a=b=128 is white"
    red = Image.merge("LAB", [Image.new("L", (8, 8), value) for value in (136, 208, 195)])
    r, g, b = decode(encoded(red, "TIFF"))[0, 0]
    assert r > 240
    assert max(g, b) < 40


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(fmt: str) -> None:
    values = np.array([[0, 128, 129, 257], [65535, 65534, 32768, 20000]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    found = decode(encoded(Image.fromarray(values), fmt))
    for channel in range(3):
        np.testing.assert_array_equal(found[..., channel], expected)


def test_16_bit_grey_of_any_byte_order() -> None:
    values = np.array([[0, 257], [65535, 25700]], np.uint16)
    header = b"P5 2 2 65535 "
    assert decode(header + values.astype(">u2").tobytes())[..., 0].tolist() == [[0, 1], [255, 100]]
    tiff = encoded(Image.frombytes("I;16B", (2, 2), values.astype(">u2").tobytes()), "TIFF")
    assert decode(tiff)[..., 0].tolist() == [[0, 1], [255, 100]]


def test_transparent_16_bit_grey_is_white() -> None:
    data = encoded(Image.fromarray(np.array([[257, 514, 65535]], np.uint16)), "PNG")
    chunk = b"tRNS" + (514).to_bytes(2, "big")
    crc = __import__("zlib").crc32(chunk).to_bytes(4, "big")
    at = data.index(b"IDAT") - 4
    data = data[:at] + (2).to_bytes(4, "big") + chunk + crc + data[at:]
    assert decode(data)[..., 0].tolist() == [[1, 255, 255]]


@pytest.mark.parametrize(("top", "values"), [(1.0, [0, 0.5, 1]), (255, [0, 100.4, 255]), (65535, [0, 25700, 65535])])
def test_float_photos(top: float, values: list[float]) -> None:
    data = encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert decode(data)[0, :, 0].tolist() == [round(value / top * 255) for value in values]


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_counts(fmt: str) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ((250, 10, 10), (10, 250, 10), (10, 10, 250))]
    data = encoded(frames[0], fmt, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert np.abs(decode(data).astype(int) - [250, 10, 10]).max() <= 2


def psnr(first: Pixels, second: Pixels) -> float:
    assert first.pixels.shape == second.pixels.shape
    error = np.mean((first.pixels.astype(float) - second.pixels) ** 2)
    return float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1501, 1003), (2047, 1300), (777, 2222)])
def test_draft_is_close_to_exact(size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene(*size), "JPEG", quality=92, exif=exif)
    exact = decode_photo(data, Preprocessing(image_size=256))
    draft = decode_photo(data, Preprocessing(image_size=256, draft=True))
    assert draft.original_size == exact.original_size
    assert psnr(draft, exact) > 35
    assert not np.array_equal(draft.pixels, exact.pixels), "draft had no effect"


def test_draft_is_part_of_the_hash() -> None:
    assert Preprocessing(draft=True).hash != Preprocessing().hash


def test_draft_leaves_small_photos_and_other_formats_alone() -> None:
    draft = Preprocessing(image_size=64, draft=True)
    for data in (encoded(scene(127, 90), "JPEG"), encoded(scene(500, 300), "PNG")):
        np.testing.assert_array_equal(decode(data, draft), decode(data, SMALL))


def test_threads_decode_alike() -> None:
    image, _ = with_alpha()
    lab = Image.merge("LAB", [channel.convert("L") for channel in scene(90, 70).split()])
    photos = [
        encoded(scene(200, 150, seed), fmt) for seed in range(3) for fmt in ("JPEG", "PNG", "WEBP", "TIFF", "GIF")
    ]
    photos += [encoded(image, "PNG"), encoded(lab, "TIFF")]
    alone = [decode(data, SMALL) for data in photos]
    with ThreadPoolExecutor(8) as executor:
        together = list(executor.map(lambda data: decode(data, SMALL), photos * 6))
    for found, expected in zip(together, alone * 6, strict=True):
        np.testing.assert_array_equal(found, expected)


FIRST_USE = """
import sys, threading
from pathlib import Path
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import decode_photo
failures, start = [], threading.Barrier(8)
def work():
    start.wait()
    try:
        decode_photo(Path(sys.argv[1]), Preprocessing())
    except Exception as error:
        failures.append(error)
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit(str(failures) if failures else 0)
"""


def test_threads_may_be_the_first_to_use_pillow(tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(encoded(scene(40, 30), "WEBP"))
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", FIRST_USE, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@given(st.integers(0, 1 << 30), st.integers(1, 40), st.integers(1, 40), st.integers(0, 40))
def test_a_photo_of_nearly_one_colour_is_told_from_all_that_is_looked_at(
    seed: int, height: int, width: int, spread: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(100, 117, (height, width, 3), dtype=np.uint8)
    pixels[rng.integers(height), rng.integers(width), rng.integers(3)] += np.uint8(spread)
    found = Pixels(pixels=pixels, original_size=(width, height), region=(0, 0, width, height)).is_nearly_one_colour()
    assert found == all(int(pixels[..., c].max()) - int(pixels[..., c].min()) <= 16 for c in range(3))
