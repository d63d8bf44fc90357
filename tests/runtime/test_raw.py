"""Raw files of cameras: read where rawpy is installed, and otherwise refused with what to install."""

import struct
from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import decode_photo
from ctxdeploy.runtime.config import DecodeLimits
from ctxdeploy.runtime.decode import formats, raw
from ctxdeploy.runtime.sources import list_photos

SETTINGS = Preprocessing(image_size=256)
HEIGHT, WIDTH = 120, 160
SHORT, LONG, BYTE, RATIONAL, SIGNED_RATIONAL, ASCII = 3, 4, 1, 5, 10, 2


def dng(orientation: int = 1) -> bytes:
    """Return a DNG file of a sensor with a Bayer pattern: left dark, right bright, the upper half red."""
    colour = np.zeros((HEIGHT, WIDTH, 3))
    colour[:] = np.linspace(0.1, 0.8, WIDTH)[None, :, None]
    colour[: HEIGHT // 2, :, 1:] *= 0.1
    sensor = np.empty((HEIGHT, WIDTH))
    sensor[::2, ::2], sensor[1::2, 1::2] = colour[::2, ::2, 0], colour[1::2, 1::2, 2]
    sensor[::2, 1::2], sensor[1::2, ::2] = colour[::2, 1::2, 1], colour[1::2, ::2, 1]
    pixels = np.rint(sensor * 4095).astype("<u2").tobytes()
    identity = [value for row in np.eye(3, dtype=int).tolist() for number in row for value in (number, 1)]
    tags = [
        *((254, LONG, [0]), (256, LONG, [WIDTH]), (257, LONG, [HEIGHT]), (258, SHORT, [16]), (259, SHORT, [1])),
        *((262, SHORT, [32803]), (271, ASCII, [*b"Maker\0"]), (272, ASCII, [*b"Model\0"]), (273, LONG, [8])),
        *((274, SHORT, [orientation]), (277, SHORT, [1]), (278, LONG, [HEIGHT]), (279, LONG, [len(pixels)])),
        *((33421, SHORT, [2, 2]), (33422, BYTE, [0, 1, 1, 2]), (50706, BYTE, [1, 4, 0, 0])),
        *((50708, ASCII, [*b"Maker Model\0"]), (50714, SHORT, [0]), (50717, LONG, [4095])),
        *((50721, SIGNED_RATIONAL, identity), (50728, RATIONAL, [1, 1] * 3), (50778, SHORT, [21])),
    ]
    at, tail, entries = 8 + len(pixels), b"", b""
    behind = at + 2 + 12 * len(tags) + 4
    for tag, kind, values in tags:
        letter = {SHORT: "H", LONG: "I", RATIONAL: "I", SIGNED_RATIONAL: "i"}.get(kind, "B")
        data = struct.pack(f"<{len(values)}{letter}", *values)
        count = len(values) // (2 if kind in (RATIONAL, SIGNED_RATIONAL) else 1)
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", behind + len(tail))
        tail += data + b"\0" * (len(data) % 2) if len(data) > 4 else b""
        entries += struct.pack("<HHI", tag, kind, count) + place
    return b"II*\0" + struct.pack("<I", at) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4) + tail


@pytest.mark.skipif(not formats.reads_raw(), reason="rawpy is not installed")
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_raw_file_is_read_upright(tmp_path: Path, orientation: int) -> None:
    (tmp_path / "a.DNG").write_bytes(dng(orientation))
    assert [photo.name for photo in list_photos(str(tmp_path)).photos] == ["a.DNG"]
    found = decode_photo(tmp_path / "a.DNG", SETTINGS)
    upright = np.rot90(found.pixels) if orientation == 6 else found.pixels
    assert found.original_size == ((WIDTH, HEIGHT) if orientation == 1 else (HEIGHT, WIDTH))
    red, grey = upright[10:50, 20:140].astype(int), upright[70:110, 20:140].astype(int)
    assert (red[..., 0] > red[..., 1] + 40).mean() > 0.9
    assert np.abs(grey[..., 0] - grey[..., 1]).max() < 30
    assert grey[:, -20:].mean() > grey[:, :20].mean() + 60
    with pytest.raises(PhotoError, match="the limit against decompression bombs"):
        decode_photo(dng(), SETTINGS, limits=DecodeLimits(max_pixels=1000))
    with pytest.raises(PhotoError, match="damaged or not supported"):
        decode_photo(dng()[:2000], SETTINGS)


@pytest.mark.parametrize(
    "data",
    [
        dng(),
        b"II*\0\x10\0\0\0CR\2\0" + bytes(400),
        b"\0\0\0\x18ftypcrx " + bytes(400),
        b"FUJIFILMCCD-RAW 0201" + bytes(400),
        b"IIU\0\x18\0\0\0" + bytes(400),
        b"IIRO\x08\0\0\0" + bytes(400),
        b"\0MRM" + bytes(400),
        b"FOVb" + bytes(400),
    ],
)
def test_without_rawpy_it_is_refused_and_its_thumbnail_not_taken(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(raw, "reads_raw", lambda: False)
    with pytest.raises(PhotoError, match=r"it is a raw file of a camera: .* pip install rawpy"):
        decode_photo(data, SETTINGS)
