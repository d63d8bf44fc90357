"""The pixels of a JPEG photo are Pillow's, bit by bit, though another library decodes it."""

import io
from itertools import product

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import decode_photo
from ctxdeploy.runtime.config import DEFAULT_LIMITS
from ctxdeploy.runtime.decode import integrity
from ctxdeploy.runtime.decode.image import load_whole, open_image

SIZES = [(1, 1), (7, 5), (17, 33), (250, 167), (9, 300), (320, 240)]


def scene(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(width).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def variants(size: tuple[int, int]) -> list[bytes]:
    found = []
    for subsampling, progressive, quality in product(("4:4:4", "4:2:2", "4:2:0"), (False, True), (50, 95)):
        options = {"subsampling": subsampling, "progressive": progressive, "quality": quality}
        found.append(encoded(scene(*size), **options))
        found.append(encoded(scene(*size), restart_marker_rows=1, **options))
    for mode, progressive in product(("L", "CMYK"), (False, True)):
        found.append(encoded(scene(*size).convert(mode), progressive=progressive))
    return found


@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_sampling(size: tuple[int, int], divisor: int) -> None:
    for data in variants(size):
        opened, expected = (open_image(data, DEFAULT_LIMITS) for _ in range(2))
        if divisor > 1:
            for image in (opened, expected):
                image.draft(None, (max(size[0] // divisor, 1), max(size[1] // divisor, 1)))
        expected.load()
        found = load_whole(opened, data)
        assert isinstance(found, np.ndarray) == (expected.mode != "CMYK"), "CMYK alone is left to Pillow"
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_a_photo_too_large_for_a_second_copy_is_checked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(scene(320, 240))
    expected = decode_photo(data, Preprocessing()).pixels
    calls = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda image: calls.append(image) or load(image))
    monkeypatch.setattr(integrity, "MAX_COPIED", 320 * 240 - 1)
    np.testing.assert_array_equal(decode_photo(data, Preprocessing()).pixels, expected)
    assert calls
    for grey in (data, encoded(scene(320, 240).convert("L"))):
        middle = len(grey) // 2
        damaged = grey[:middle] + grey[middle + 500 :]
        with pytest.raises(PhotoError, match="it is damaged"):
            decode_photo(damaged, Preprocessing())
