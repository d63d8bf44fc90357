"""Every layout of TIFF that can be made here is read right or refused: none becomes another picture.

The files are written by this module, byte by byte, so that nothing that reads them had a part in their making.
"""

import itertools
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime import decode_photo

HEIGHT, WIDTH = 14, 37
SETTINGS = Preprocessing(image_size=64)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
NONE, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How samples lie in a file: the values of the tags of that name."""

    photometric: int = BLACK_IS_ZERO
    bits: int = 8
    kind: int = UNSIGNED
    extra: tuple[int, ...] = ()
    planar: int = 1
    pieces: str = "strips"  # "one", "strips", "tiles"
    order: str = "<"
    compression: int = NONE
    predictor: int = 1
    big: bool = False

    @property
    def samples(self) -> int:
        return COLOURS[self.photometric] + len(self.extra)

    def dtype(self) -> np.dtype[Any]:
        letter = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}[self.kind]
        size = {12: 2}.get(self.bits, max(self.bits // 8, 1))
        return np.dtype(f"{self.order}{letter}{size}")


def ramp(layout: Layout, seed: int = 0) -> NDArray[np.float64]:
    """Return a smooth picture H×W×samples, 0 to 1: each sample another slope, and both ends are reached."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    y, x = y / (HEIGHT - 1), x / (WIDTH - 1)
    shapes = [x, y, (x + y) / 2, 1 - x, np.abs(2 * x - 1), 1 - y]
    return np.stack([shapes[(n + seed) % 6] for n in range(layout.samples)], axis=-1)


def quantised(layout: Layout, picture: NDArray[np.float64]) -> NDArray[Any]:
    """Return samples as the file holds them, at their full range."""
    if layout.kind == FLOAT:
        return picture.astype(layout.dtype())
    if layout.photometric == PALETTE:
        return np.rint(picture * (min(1 << layout.bits, 256) - 1)).astype(layout.dtype())
    # Signed ones have no black below zero here: their range is that of the unsigned ones with a bit less.
    top = (1 << (layout.bits - (layout.kind == SIGNED))) - 1
    return np.rint(picture * top).astype(layout.dtype())


def packed(layout: Layout, block: NDArray[Any]) -> bytes:
    """Return the bytes of a strip or tile, h×w×samples."""
    if layout.predictor == 2:
        block = np.concatenate([block[:, :1], np.diff(block, axis=1)], axis=1).astype(block.dtype)
    if layout.bits in (8, 16, 32, 64):
        data = block.astype(layout.dtype()).tobytes()
    else:
        rows = block.reshape(block.shape[0], -1).astype(np.uint32)
        bits = (rows[..., None] >> np.arange(layout.bits - 1, -1, -1)) & 1
        data = np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
    return {NONE: bytes, DEFLATE: zlib.compress, LZW: lzw, PACKBITS: packbits}[layout.compression](data)


def lzw(data: bytes) -> bytes:
    """Return bytes as LZW has them that finds nothing twice: codes of 9 bits, a fresh table before there are more."""
    codes: list[int] = []
    for start in range(0, len(data), 250):
        codes += [256, *data[start : start + 250]]
    bits = (np.array([*codes, 257])[:, None] >> np.arange(8, -1, -1)) & 1
    return np.packbits(bits.ravel().astype(np.uint8)).tobytes()


def packbits(data: bytes) -> bytes:
    """Return bytes as PackBits has them that finds no runs."""
    parts = [data[start : start + 128] for start in range(0, len(data), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


def blocks(layout: Layout, samples: NDArray[Any]) -> Iterator[bytes]:
    planes = [samples] if layout.planar == 1 else [samples[..., n : n + 1] for n in range(samples.shape[-1])]
    for plane in planes:
        if layout.pieces == "tiles":
            padded = np.pad(plane, ((0, -HEIGHT % 16), (0, -WIDTH % 16), (0, 0)), mode="edge")
            for top, left in itertools.product(range(0, HEIGHT, 16), range(0, WIDTH, 16)):
                yield packed(layout, padded[top : top + 16, left : left + 16])
        else:
            rows = HEIGHT if layout.pieces == "one" else 5
            for top in range(0, HEIGHT, rows):
                yield packed(layout, plane[top : top + rows])


def written(layout: Layout, samples: NDArray[Any], more: dict[int, tuple[int, list[int]]] | None = None) -> bytes:
    """Return a TIFF file; ``more`` are tags with type (3 short, 4 long) and values."""
    pieces = list(blocks(layout, samples))
    body, offsets = b"", []
    for piece in pieces:
        offsets.append((16 if layout.big else 8) + len(body))
        body += piece + b"\0" * (len(piece) % 2)
    count = samples.shape[-1]
    tags: dict[int, tuple[int, list[int]]] = {
        **{256: (3, [WIDTH]), 257: (3, [HEIGHT]), 258: (3, [layout.bits] * count), 259: (3, [layout.compression])},
        **{262: (3, [layout.photometric]), 277: (3, [count]), 284: (3, [layout.planar])},
        **{317: (3, [layout.predictor]), 339: (3, [layout.kind] * count)},
    }
    if layout.pieces == "tiles":
        tags |= {322: (3, [16]), 323: (3, [16]), 324: (4, offsets), 325: (4, [len(piece) for piece in pieces])}
    else:
        rows = HEIGHT if layout.pieces == "one" else 5
        tags |= {273: (4, offsets), 278: (3, [rows]), 279: (4, [len(piece) for piece in pieces])}
    if layout.extra:
        tags[338] = (3, list(layout.extra))
    if layout.photometric == PALETTE:
        tags[320] = (3, palette(layout.bits).T.ravel().tolist())
    if layout.photometric == YCBCR:
        tags[530] = (3, [1, 1])
    return directory(layout, body, tags | (more or {}))


def directory(layout: Layout, body: bytes, tags: dict[int, tuple[int, list[int]]]) -> bytes:
    """Return the whole file: header, pixels, and behind them the directory and its long values."""
    big, order = layout.big, layout.order
    header = (16 if big else 8) + len(body)
    long = header + (8 + 20 * len(tags) + 8 if big else 2 + 12 * len(tags) + 4)
    entries, tail = b"", b""
    room = 8 if big else 4
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(data) > room:
            tail += b"\0" * (len(tail) % 2)
            place = struct.pack(order + ("Q" if big else "I"), long + len(tail))
            tail += data
        else:
            place = data.ljust(room, b"\0")
        entries += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, len(values)) + place
    magic = b"II" if order == "<" else b"MM"
    if big:
        start = magic + struct.pack(order + "HHHQ", 43, 8, 0, header)
        return start + body + struct.pack(order + "Q", len(tags)) + entries + bytes(8) + tail
    start = magic + struct.pack(order + "HI", 42, header)
    return start + body + struct.pack(order + "H", len(tags)) + entries + bytes(4) + tail


def palette(bits: int) -> NDArray[np.int64]:
    """Return a palette of 16-bit colours, 2^bits×3."""
    steps = np.arange(1 << bits) / ((1 << min(bits, 8)) - 1)
    return np.rint(np.stack([steps, 1 - steps, steps / 2], axis=-1).clip(0, 1) * 65535).astype(np.int64)


def shown(layout: Layout, picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the true picture, H×W×3, 0 to 255."""
    count = COLOURS[layout.photometric]
    colours, extra = picture[..., :count], picture[..., count:]
    if layout.photometric == PALETTE:
        index = np.rint(picture[..., 0] * ((1 << min(layout.bits, 8)) - 1)).astype(int)
        rgb = palette(layout.bits)[index] / 65535
    elif layout.photometric == CMYK:
        rgb = (1 - colours[..., :3]) * (1 - colours[..., 3:])
    elif layout.photometric == YCBCR:
        y, blue, red = (colours[..., n] * 255 for n in range(3))
        rgb = (
            np.stack(
                [
                    y + 1.402 * (red - 128),
                    y - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
                    y + 1.772 * (blue - 128),
                ],
                axis=-1,
            ).clip(0, 255)
            / 255
        )
    else:
        rgb = np.repeat(colours, 3, axis=-1) if count == 1 else colours
        rgb = 1 - rgb if layout.photometric == WHITE_IS_ZERO else rgb
    if layout.extra and layout.extra[0] in (1, 2):
        alpha = extra[..., :1]
        rgb = (rgb if layout.extra[0] == 1 else rgb * alpha) + 1 - alpha
    return rgb * 255


def outcome(data: bytes, expected: NDArray[np.float64], tolerance: float = 3.0) -> str:
    """Return ``right``, ``refused`` or ``wrong``."""
    try:
        pixels = decode_photo(data, SETTINGS).pixels
    except PhotoError as error:
        assert "\n" not in str(error)
        return "refused"
    assert pixels.shape == expected.shape
    return "right" if np.abs(pixels - expected).max() <= tolerance else "wrong"


GREYS = [(bits, UNSIGNED) for bits in (1, 2, 4, 8, 12, 16, 32)] + [(8, SIGNED), (16, SIGNED), (32, SIGNED)]
FLOATS = [(16, FLOAT), (32, FLOAT), (64, FLOAT)]
DEPTHS = {
    **{WHITE_IS_ZERO: GREYS + FLOATS, BLACK_IS_ZERO: GREYS + FLOATS, PALETTE: [(b, UNSIGNED) for b in (1, 2, 4, 8)]},
    **{RGB: [(4, UNSIGNED), (8, UNSIGNED), (12, UNSIGNED), (16, UNSIGNED), (32, UNSIGNED), (16, SIGNED), *FLOATS]},
    **{CMYK: [(8, UNSIGNED), (16, UNSIGNED), (32, FLOAT)], YCBCR: [(8, UNSIGNED), (16, UNSIGNED)]},
}
EXTRAS = {
    **{WHITE_IS_ZERO: [(), (0,), (2,)], BLACK_IS_ZERO: [(), (0,), (1,), (2,)], PALETTE: [(), (0,), (2,)]},
    **{RGB: [(), (0,), (1,), (2,), (2, 0), (0, 0)], CMYK: [(), (0,), (2,)], YCBCR: [()]},
}
WAYS = [
    {"pieces": pieces, "order": order, "compression": compression, "predictor": predictor, "big": big}
    for pieces, order, (compression, predictor), big in itertools.product(
        ("one", "strips", "tiles"), "<>", ((NONE, 1), (DEFLATE, 1), (LZW, 2), (PACKBITS, 1)), (False, True)
    )
]


def layouts() -> Iterator[Layout]:
    for photometric, depths in DEPTHS.items():
        for (bits, kind), extra, planar in itertools.product(depths, EXTRAS[photometric], (1, 2)):
            layout = Layout(photometric=photometric, bits=bits, kind=kind, extra=extra, planar=planar)
            if layout.samples > 1 or planar == 1:
                yield layout


def made(layout: Layout) -> tuple[bytes, NDArray[np.float64]]:
    picture = ramp(layout)
    if layout.extra and layout.extra[0] == 1:  # premultiplied: no colour above the alpha
        count = COLOURS[layout.photometric]
        picture[..., :count] *= picture[..., count : count + 1]
    samples = quantised(layout, picture)
    if layout.photometric != PALETTE:
        picture = samples / max(float(samples.max()), 1.0)
    return written(layout, samples), shown(layout, picture)


def ways_of(layout: Layout) -> list[Layout]:
    """Return the layout in every way in which it can be stored."""
    no_predictor = layout.kind == FLOAT or layout.bits not in (8, 16, 32)
    return [replace(layout, **way) for way in WAYS if not (no_predictor and way["predictor"] == 2)]


# Seldom met, and refused by name: depths that are no whole bytes with more than one sample, and what is out of range.
def is_refused(layout: Layout) -> bool:
    grey = layout.photometric == BLACK_IS_ZERO
    if layout.bits == 64 or (layout.bits == 32 and layout.kind != FLOAT) or (layout.bits == 12 and not grey):
        return True
    if layout.bits < 8 or layout.photometric in (PALETTE, YCBCR):
        odd = bool(layout.extra) or layout.big or layout.bits == 16 or (layout.bits < 8 and layout.photometric == RGB)
        return odd or (layout.photometric == YCBCR and layout.planar == 2)
    return layout.bits == 12 and (bool(layout.extra) or layout.order == ">")


def check(layouts: Iterable[Layout]) -> Counter[str]:
    found: Counter[str] = Counter()
    for layout in layouts:
        result = outcome(*made(layout))
        assert result != "wrong", layout
        if not is_refused(layout):
            assert result == "right", layout
        found[result] += 1
    return found


def test_every_layout_is_read_right_or_refused() -> None:
    """One way of storing each, in turn; the slow test has all."""
    chosen = [ways[number % len(ways)] for number, ways in enumerate(map(ways_of, layouts()))]
    found = check(chosen)
    assert found["right"] > 130 and found.total() > 200


@pytest.mark.slow
@pytest.mark.long
def test_every_layout_in_every_way() -> None:
    found = check(layout for base in layouts() for layout in ways_of(base))
    assert found["right"] > 6000 and found.total() > 11_000


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
def test_samples_of_fewer_bits_than_they_are_stored_in(top: int) -> None:
    """12 bits in 16 or 32, integers and floats: as bright as the same picture in 8 bits."""
    chosen = [layout for layout in layouts() if layout.bits in (16, 32) and layout.photometric not in (PALETTE, YCBCR)]
    for number, base in enumerate(chosen):
        if (base.bits, base.kind) == (16, SIGNED) or (base.bits, base.kind) == (16, FLOAT):
            continue
        ways = ways_of(base)
        layout = ways[number % len(ways)]
        picture = ramp(layout)
        if layout.extra[:1] == (1,):
            count = COLOURS[layout.photometric]
            picture[..., :count] *= picture[..., count : count + 1]
        samples = np.rint(picture * top).astype(layout.dtype())
        assert outcome(written(layout, samples), shown(layout, samples / top)) == "right", (layout, top)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "layout", [Layout(bits=16, photometric=RGB, planar=2), Layout(bits=8), Layout(bits=16, photometric=WHITE_IS_ZERO)]
)
def test_orientation_holds_for_every_layout(layout: Layout, orientation: int) -> None:
    picture = ramp(layout)
    data = written(layout, quantised(layout, picture), {274: (3, [orientation])})
    pixels = shown(layout, picture)
    turned = pixels.transpose(1, 0, 2) if orientation >= 5 else pixels
    turned = turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    assert outcome(data, turned) == "right"


def test_a_palette_of_8_bits_is_not_black() -> None:
    layout = Layout(photometric=PALETTE)
    indices = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 256
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2])
    data = written(layout, indices.astype(np.uint8), {320: (3, colours.ravel().tolist())})
    assert outcome(data, colours.T[indices[..., 0]].astype(np.float64)) == "right"


@pytest.mark.parametrize(
    ("layout", "more", "words"),
    [
        (Layout(photometric=RGB, bits=12), {}, "12-bit RGB"),
        (Layout(photometric=RGB, bits=64, kind=FLOAT, planar=2), {}, "64-bit float RGB, in planes"),
        (Layout(photometric=PALETTE, extra=(2,), planar=2), {}, "8-bit palette with 1 more, in planes"),
        (Layout(photometric=YCBCR), {530: (3, [2, 2])}, "8-bit YCbCr"),
        (Layout(photometric=RGB), {262: (3, [32844])}, "8-bit colour 32844"),
        (Layout(bits=16), {339: (3, [4])}, "16-bit unknown grey"),
    ],
)
def test_what_is_not_read_is_named(layout: Layout, more: dict[int, tuple[int, list[int]]], words: str) -> None:
    data = written(layout, quantised(layout, ramp(layout)), more)
    with pytest.raises(PhotoError, match=rf"it is a TIFF file of {words}, which is not read: save it anew"):
        decode_photo(data, SETTINGS)


@pytest.mark.parametrize(("number", "name"), [(34712, "JPEG 2000"), (50002, "JPEG XL"), (40000, "method 40000")])
def test_a_compression_that_is_not_read_is_named(number: int, name: str) -> None:
    data = written(Layout(photometric=RGB), quantised(Layout(photometric=RGB), ramp(Layout(photometric=RGB))))
    at = data.index(struct.pack("<HHI", 259, 3, 1))
    data = data[: at + 8] + struct.pack("<H", number) + data[at + 10 :]
    with pytest.raises(PhotoError, match=f"it is a TIFF file compressed with {name}, which is not read: save it anew"):
        decode_photo(data, SETTINGS)


def test_negative_samples_and_such_above_16_bits_are_refused() -> None:
    for dtype, value in ((np.int16, -1), (np.int32, 70_000), (np.uint32, 1 << 31), (np.float32, np.nan)):
        kind = {"i": SIGNED, "u": UNSIGNED, "f": FLOAT}[np.dtype(dtype).kind]
        for order in "<>":
            layout = Layout(bits=np.dtype(dtype).itemsize * 8, kind=kind, order=order, photometric=RGB)
            samples = np.zeros((HEIGHT, WIDTH, 3), layout.dtype())
            samples[3, 4, 1] = value
            with pytest.raises(PhotoError, match=r"samples range from .* 0 to 65535 is the widest supported"):
                decode_photo(written(layout, samples), SETTINGS)


@given(data=st.data())
def test_damaged_directories_give_a_picture_or_a_reason(data: st.DataObject) -> None:
    layout = Layout(bits=16, photometric=RGB, planar=2, pieces=data.draw(st.sampled_from(["strips", "tiles"])))
    file = bytearray(written(layout, quantised(layout, ramp(layout))))
    start = len(file) - 400
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(start, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode_photo(bytes(file[: data.draw(st.integers(8, len(file)))]), SETTINGS).pixels
    except PhotoError as error:
        assert "\n" not in str(error)
    else:
        assert pixels.dtype == np.uint8
