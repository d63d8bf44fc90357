"""Thumbnails: upright, of the size that was asked, and a hostile photo costs itself alone."""

import io
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.errors import BackendError, PhotoError
from ctxdeploy.runtime import PhotoSource, Thumbnailer
from ctxdeploy.runtime.decode import DecodeLimits


@pytest.fixture(scope="module")
def thumbnailer() -> Iterator[Thumbnailer]:
    made = Thumbnailer(workers=2)
    yield made
    made.close()


def jpeg(width: int, height: int, orientation: int = 1) -> bytes:
    """A photo that is red above and blue below, as it is stored."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, :, 0] = 255
    pixels[height // 2 :, :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", exif=exif, quality=95)
    return written.getvalue()


def source(data: bytes) -> PhotoSource:
    return PhotoSource(name="p", data=data)


@pytest.mark.parametrize("size", [160, 320, 640, 1280])
def test_the_longest_side_has_the_size(thumbnailer: Thumbnailer, size: int) -> None:
    made = thumbnailer.make(source(jpeg(2000, 1500)), size)
    with Image.open(io.BytesIO(made.data)) as image:
        assert image.format == "JPEG" and image.size == (made.width, made.height) == (size, size * 3 // 4)
    assert made.original_size == (2000, 1500)


def test_a_small_photo_is_not_enlarged(thumbnailer: Thumbnailer) -> None:
    made = thumbnailer.make(source(jpeg(90, 60)), 320)
    assert (made.width, made.height) == (90, 60)


def test_it_is_upright(thumbnailer: Thumbnailer) -> None:
    made = thumbnailer.make(source(jpeg(400, 200, orientation=6)), 160)  # to be turned clockwise by a quarter
    assert (made.width, made.height) == (80, 160) and made.original_size == (200, 400)
    with Image.open(io.BytesIO(made.data)) as image:
        left, right = image.getpixel((10, 80)), image.getpixel((70, 80))
    assert left[2] > 200 > 60 > left[0] and right[0] > 200 > 60 > right[2]  # type: ignore[index, misc]


def test_a_file_and_many_threads(thumbnailer: Thumbnailer, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(800, 600))
    photo = PhotoSource(name="p", path=path)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda size: thumbnailer.make(photo, size), [160, 640] * 8))
    assert {one.width for one in made} == {160, 640} and len({one.data for one in made}) == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"<html>", "not a photo"), (jpeg(400, 300)[:-400], "truncated"), (b"\xff\xd8\xff", "damaged")],
)
def test_what_cannot_be_read_fails_alone(thumbnailer: Thumbnailer, data: bytes, reason: str) -> None:
    with pytest.raises(PhotoError, match=reason):
        thumbnailer.make(source(data), 320)
    assert thumbnailer.make(source(jpeg(100, 100)), 320).width == 100


def test_a_size_that_nothing_decodes_to(thumbnailer: Thumbnailer) -> None:
    for size in (0, 1281):
        with pytest.raises(PhotoError, match=f"no thumbnail has {size} pixels"):
            thumbnailer.make(source(jpeg(100, 100)), size)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    made = Thumbnailer(limits=DecodeLimits(max_pixels=10_000))
    with pytest.raises(PhotoError, match="pixels"):
        made.make(source(jpeg(200, 200)), 160)
    made.close()
    with pytest.raises(BackendError, match="closed"):
        made.make(source(jpeg(20, 20)), 160)


def test_a_process_that_dies_is_replaced() -> None:
    thumbnailer = Thumbnailer(workers=1)
    thumbnailer.make(source(jpeg(100, 100)), 160)
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    assert children
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    assert thumbnailer.make(source(jpeg(100, 100)), 160).width == 100
    thumbnailer.close()
