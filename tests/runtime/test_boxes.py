"""Boxes are cropped and scaled as the reference does it, and positions come back to the original photo."""

import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.types import TURNS, Preprocessing
from ctxdeploy.runtime import Box, decode_photo

INVERSE = {  # what takes the upright photo back to the stored one
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(image: Image.Image, fmt: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


@pytest.mark.parametrize("text", ["1,2,3,4", " 1.0, 2 ,3,4e0"])
def test_parse(text: str) -> None:
    assert Box.parse(text) == Box(x0=1, y0=2, x1=3, y1=4)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1;2;3;4"])
def test_parse_says_what_is_expected(text: str) -> None:
    with pytest.raises(ConfigError, match="is not four numbers: give it as x0,y0,x1,y1"):
        Box.parse(text)


@pytest.mark.parametrize("text", ["3,2,1,4", "1,4,3,2", "1,1,1,5"])
def test_an_empty_box_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"box {text} is empty"):
        Box.parse(text)
    with pytest.raises(ConfigError, match="finite"):
        Box.parse("0,0,nan,1")
    with pytest.raises(ConfigError, match="finite"):
        Box.parse("0,0,1,inf")


@pytest.mark.parametrize("edges", [(10, 20, 210, 180), (0.4, 0.6, 99.5, 100.5), (136.5, 34.1, 648.5, 955.7)])
@pytest.mark.parametrize("image_size", [64, 300, 1024])
def test_pixels_are_those_of_the_reference(
    tmp_path: Path, reference: ModuleType, edges: tuple[float, float, float, float], image_size: int
) -> None:
    path = tmp_path / "photo.png"
    noise(700, 980).save(path)
    box = Box(x0=edges[0], y0=edges[1], x1=edges[2], y1=edges[3])
    photo = decode_photo(path, Preprocessing(image_size=image_size), box)
    np.testing.assert_array_equal(photo.pixels, reference.load(path, image_size, edges))
    assert photo.original_size == (700, 980)


def test_a_tiny_box_of_a_large_photo_keeps_a_pixel() -> None:
    photo = decode_photo(png(noise(900, 300)), Preprocessing(image_size=16), Box.parse("5,5,6,9"))
    assert photo.pixels.shape == (1, 1, 3)


@pytest.mark.parametrize("text", ["-2,0,50,50", "0,0,102,50", "0,-1.5,50,50", "0,0,50,81.5", "200,200,300,300"])
def test_a_box_outside_names_itself_and_the_photo(text: str) -> None:
    with pytest.raises(PhotoError, match=f"box {text} does not lie in the photo of 100×80 pixels"):
        decode_photo(png(noise(100, 80)), Preprocessing(), Box.parse(text))


def test_a_box_is_clipped_by_one_pixel() -> None:
    photo = decode_photo(png(noise(100, 80)), Preprocessing(), Box.parse("-1,-0.7,101,81"))
    assert photo.region == (0, 0, 100, 80)


def test_a_box_within_one_pixel_is_refused() -> None:
    with pytest.raises(PhotoError, match="covers no whole pixel"):
        decode_photo(png(noise(100, 80)), Preprocessing(), Box.parse("10.1,10.1,10.4,20"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_in_the_upright_photo(reference: ModuleType, orientation: int) -> None:
    image = noise(60, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = reference.upright(np.asarray(image), orientation)
    photo = decode_photo(png(image, exif=exif), Preprocessing(), Box.parse("3,5,31,37"))
    np.testing.assert_array_equal(photo.pixels, upright[5:37, 3:31])


def blob(width: int, height: int, x: float, y: float, sigma: float, orientation: int) -> bytes:
    """Return a JPEG that shows a bright blob whose centre is at (x, y) of the upright photo."""
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    light = np.exp(-(((columns - x) ** 2)[None] + ((rows - y) ** 2)[:, None]) / (2 * sigma**2))
    grey = np.rint(255 * light).astype(np.uint8)
    image = Image.fromarray(grey)
    if orientation != 1:
        image = image.transpose(INVERSE[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return png(image, "JPEG", quality=95, exif=exif)


@given(
    st.integers(80, 700),
    st.integers(80, 700),
    st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from(TURNS),
    st.one_of(st.none(), st.tuples(st.floats(0, 0.15), st.floats(0, 0.15), st.floats(0.85, 1), st.floats(0.85, 1))),
)
def test_a_blob_is_found_where_it_was(
    width: int,
    height: int,
    place: tuple[float, float],
    orientation: int,
    draft: bool,
    turn: int,
    part: tuple[float, float, float, float] | None,
) -> None:
    assume(0.25 < width / height < 4)
    x, y = place[0] * width, place[1] * height
    sigma = min(width, height) / 16
    box = None
    if part is not None:
        box = Box(x0=part[0] * width, y0=part[1] * height, x1=part[2] * width, y1=part[3] * height)
    data = blob(width, height, x, y, sigma, orientation)
    photo = decode_photo(data, Preprocessing(image_size=64, draft=draft), box).turned(turn)
    assert photo.original_size == (width, height)
    light = photo.pixels.astype(float).sum(axis=2)
    light[light < 60] = 0  # JPEG noise
    rows, columns = np.mgrid[: light.shape[0], : light.shape[1]] + 0.5
    centre = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
    found = photo.to_original(centre[None])[0]
    pixel = max(width, height) / 64  # of the scaled photo, in those of the original
    assert np.abs(found - [x, y]).max() < 0.12 * pixel + 0.1


@given(st.integers(1, 400), st.integers(1, 400))
@settings(max_examples=50, deadline=None)
def test_corners_map_to_corners(width: int, height: int) -> None:
    photo = decode_photo(png(Image.new("RGB", (width, height))), Preprocessing(image_size=32))
    rows, columns = photo.pixels.shape[:2]
    corners = photo.to_original([[0, 0], [columns, rows]])
    np.testing.assert_allclose(corners, [[0, 0], [width, height]], rtol=1e-6)
    assert corners.dtype == np.float32
    assert photo.to_original(np.zeros((0, 2))).shape == (0, 2)


def test_turns_are_clockwise_and_add_up() -> None:
    photo = decode_photo(png(noise(20, 12)), Preprocessing(image_size=16))
    upright = Image.fromarray(photo.pixels)
    shown = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
    for turn, transpose in shown.items():
        turned = photo.turned(turn)
        np.testing.assert_array_equal(turned.pixels, np.asarray(upright.transpose(transpose)))
        assert turned.pixels.flags.c_contiguous and turned.turn == turn and turned.original_size == (20, 12)
        again = turned.turned(360 - turn)
        np.testing.assert_array_equal(again.pixels, photo.pixels)
        assert again.turn == 0
