"""A photo that cannot be read says why, in one line that names it; none is silently grey."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import decode_photo
from ctxdeploy.runtime.decode.integrity import has_end

SETTINGS = [Preprocessing(image_size=64), Preprocessing(image_size=64, draft=True)]


def photo(fmt: str, **options: object) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, fmt, **options)
    return file.getvalue()


def reason(path: Path, preprocessing: Preprocessing = SETTINGS[0]) -> str:
    with pytest.raises(PhotoError) as caught:
        decode_photo(path, preprocessing)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("preprocessing", SETTINGS, ids=["exact", "draft"])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_truncated(tmp_path: Path, fmt: str, part: float, preprocessing: Preprocessing) -> None:
    data = photo(fmt)
    path = tmp_path / "photo.jpg"
    path.write_bytes(data[: int(len(data) * part)])
    text = reason(path, preprocessing)
    assert "truncated" in text or "damaged" in text or "not a photo" in text


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_whose_tail_is_zeros(tmp_path: Path, options: dict[str, object]) -> None:
    data = photo("JPEG", **options)
    path = tmp_path / "photo.jpg"
    path.write_bytes(data[: len(data) // 2].ljust(len(data), b"\0"))
    if not options:  # Pillow itself sees nothing wrong with the plainest kind, and returns grey
        assert np.asarray(Image.open(path))[-1].std() < 5 < 50 < np.asarray(Image.open(path))[0].std()
    assert reason(path) == "it is truncated (the JPEG data has no end)"


def test_the_end_of_an_embedded_thumbnail_does_not_count() -> None:
    data = photo("JPEG", exif=b"Exif\0\0" + photo("JPEG", quality=1)[:60000])
    assert has_end(data)
    assert not has_end(data[:-2] + b"\0\0")
    assert has_end(data + b"trailer of a phone")
    assert has_end(data[:2] + b"\xff" + data[2:]), "fill bytes may precede a marker"
    for length in range(0, 700, 7):
        assert not has_end(data[:length])


def test_progressive_jpegs_and_cameras_with_trailers_are_whole() -> None:
    for options in ({"progressive": True}, {"restart_marker_rows": 1}, {"quality": 5}):
        assert has_end(photo("JPEG", **options))
    first, second = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (30, 20), "blue")
    file = io.BytesIO()
    first.save(file, "MPO", save_all=True, append_images=[second])
    pixels = decode_photo(file.getvalue(), SETTINGS[0]).pixels
    assert (pixels[..., 0] > 240).all()


def test_a_damaged_png(tmp_path: Path) -> None:
    data = bytearray(photo("PNG"))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    assert reason(path).startswith("it is damaged or not supported (broken PNG file (")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "it is empty (0 bytes)"),
        (b"Dear diary, today I took no photo.", "it is not a photo of a format that can be read"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
            "it is not a photo of a format that can be read",
        ),
        (bytes(5000), "it is not a photo of a format that can be read"),
    ],
)
def test_no_photo_at_all(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    assert reason(path) == text


def test_a_photo_from_memory_is_named_by_its_size() -> None:
    with pytest.raises(PhotoError, match=r"^photo of 4 bytes: it is not a photo"):
        decode_photo(b"1234", SETTINGS[0])


def test_a_decompression_bomb(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100000))))
    assert reason(path) == (
        "60000×60000 pixels exceed 178,956,970, the limit against decompression bombs: raise it with --max-pixels"
    )


def test_the_limit_does_not_depend_on_pillows_global(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "bomb.ppm"
    path.write_bytes(b"P6 20000 20000 255 " + bytes(100))
    assert reason(path).startswith("20000×20000 pixels exceed 178,956,970")


def test_what_is_no_file(tmp_path: Path) -> None:
    assert reason(tmp_path / "missing.jpg") == "it cannot be read (No such file or directory)"
    folder = tmp_path / "folder.jpg"
    folder.mkdir()
    assert reason(folder) == "it is not a regular file"
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    assert reason(pipe) == "it is not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo("JPEG"))
    path.chmod(0)
    assert reason(path) == "it cannot be read (Permission denied)"


def test_samples_without_a_meaning_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    for values, text in (
        (np.array([[0, 70000]], np.int32), "its samples range from 0 to 70000"),
        (np.array([[-5, 7]], np.int32), "its samples range from -5 to 7"),
        (np.array([[0, np.nan]], np.float32), "its float samples range from nan"),
        (np.array([[-1, 1]], np.float32), "its float samples range from -1 to 1"),
    ):
        Image.fromarray(values).save(path)
        assert text in reason(path)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    with pytest.raises(PhotoError) as caught:
        decode_photo(path, SETTINGS[0])
    assert "caf\\udce9.jpg: it cannot be read" in str(caught.value)
    str(caught.value).encode()


def test_pillows_tolerance_stays_off() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.filterwarnings("ignore:::PIL")
def test_random_damage_never_raises_anything_else() -> None:
    rng = np.random.default_rng(1)
    for fmt in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"):
        whole = photo(fmt)
        for _ in range(25):
            data = np.frombuffer(whole, np.uint8).copy()
            places = rng.integers(0, min(len(data), 2000), 20)
            data[places] = rng.integers(0, 256, 20)
            for preprocessing in SETTINGS:
                try:
                    pixels = decode_photo(data.tobytes(), preprocessing).pixels
                except PhotoError as error:
                    assert "\n" not in str(error)
                else:
                    assert max(pixels.shape[:2]) <= 64
