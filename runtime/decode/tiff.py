"""TIFF layouts that Pillow misreads or refuses, read plane by plane.

Pillow takes 16-bit planes for 8-bit ones, and white for black where 16-bit grey is stored inverted; alpha beside grey,
floats in colours and the like it does not know. libtiff inside it can decode all of them: here a new directory is
written that describes each plane, or the interleaved samples of all, as a grey picture, and Pillow reads that.
"""

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.runtime.decode.samples import alpha_to_8_bits, over_white, to_8_bits, white_of

if TYPE_CHECKING:
    from PIL import Image

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR = 256, 257, 258, 259, 262, 277, 284
_FILL_ORDER, _ORIENTATION, _PREDICTOR, _EXTRA, _FORMAT, _TABLES, _SUBSAMPLING = 266, 274, 317, 338, 339, 347, 530
_STRIPS, _ROWS, _STRIP_BYTES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
_SUBFILE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 330, 50706
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK, YCBCR, CFA = 0, 1, 2, 5, 6, 32803
_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, CMYK: 4}
_NAMES = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "LAB", 9: "LAB"}
_KINDS = {1: "", 2: "signed ", 3: "float "}
_PREMULTIPLIED, _ALPHA = 1, 2
_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34676, 34677, 34925, 50000, 50001)
_OTHER_COMPRESSIONS = {34712: "JPEG 2000", 34887: "LERC", 34933: "PNG", 34934: "JPEG XR", 50002: "JPEG XL"}
# Bytes of the types of values, and their letters for struct.
_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_NEEDED = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _FILL_ORDER, _ORIENTATION, _PREDICTOR),
    *(_EXTRA, _FORMAT, _TABLES, _SUBSAMPLING, _STRIPS, _ROWS, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILES),
    *(_TILE_BYTES, _SUBFILE, _SUB_DIRECTORIES, _DNG_VERSION),
}
_MAX_TAGS = 4096
_MAX_SAMPLES = 8

Tags = dict[int, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """How the samples of the first picture of a TIFF file lie.

    Attributes:
        tags: the values of the tags that matter.
        order: ``<`` or ``>``.
        is_big: BigTIFF.
        size: width and height in pixels, as stored.
        photometric: as in the file.
        bits: of each sample, all the same; 0 if they differ.
        kind: 1 unsigned, 2 signed, 3 float.
        samples: of a pixel.
        extra: what the samples behind the colours mean.
        planar: each sample has a plane of its own.
    """

    tags: Tags
    order: str
    is_big: bool
    size: tuple[int, int]
    photometric: int
    bits: int
    kind: int
    samples: int
    extra: tuple[int, ...]
    planar: bool

    @property
    def compression(self) -> int:
        """As in the file; 1 is none."""
        return self.tags.get(_COMPRESSION, (1,))[0]

    @property
    def unknown_compression(self) -> str | None:
        """What it is compressed with that Pillow and libtiff do not undo; None if they do."""
        number = self.compression
        return None if number in _COMPRESSIONS else _OTHER_COMPRESSIONS.get(number, f"method {number}")

    @property
    def orientation(self) -> int:
        """As in EXIF."""
        return self.tags.get(_ORIENTATION, (1,))[0]

    @property
    def is_raw(self) -> bool:
        """Whether it is a camera's raw file, whose first picture may be a thumbnail."""
        is_thumbnail = bool(self.tags.get(_SUBFILE, (0,))[0] & 1) and _SUB_DIRECTORIES in self.tags
        return is_thumbnail or _DNG_VERSION in self.tags or self.photometric == CFA

    def __str__(self) -> str:
        bits = f"{self.bits}-bit " if self.bits else ""
        alpha = f" with {len(self.extra)} more" if self.extra else ""
        colours = _NAMES.get(self.photometric, f"colour {self.photometric}")
        return f"{bits}{_KINDS.get(self.kind, 'unknown ')}{colours}{alpha}{', in planes' if self.planar else ''}"

    def is_read_here(self) -> bool:
        """Return whether ``read_planes`` reads it."""
        depths = ((1, 8), (1, 16), (1, 32), (2, 8), (2, 16), (2, 32), (3, 16), (3, 32))
        count = _COLOURS.get(self.photometric, _MAX_SAMPLES + 1)
        if not (count <= self.samples <= _MAX_SAMPLES and (self.kind, self.bits) in depths):
            return False
        predictor = self.tags.get(_PREDICTOR, (1,))[0]
        is_jpeg = self.compression in (6, 7)
        interleaved = self.samples > 1 and not self.planar
        return not (interleaved and is_jpeg) and (predictor in (1, 2) or (predictor == 3 and not interleaved))

    def is_misread(self) -> bool:
        """Return whether Pillow would open it and show another picture, or refuses what is whole."""
        if self.is_big and self.order == ">":
            return True
        if self.photometric == YCBCR and self.compression == 1 and self.tags.get(_SUBSAMPLING, (2, 2)) != (1, 1):
            return True
        if self.kind == 2 and self.bits in (8, 16):
            return True
        if self.photometric == WHITE_IS_ZERO and self.bits > 8:
            return True
        if self.order == ">" and self.bits == 32 and self.compression != 1:  # its bytes are exchanged twice
            return True
        if self.bits == 16 and self.extra[:1] == (_PREMULTIPLIED,):  # of 12 bits in 16 all would be lost
            return True
        is_eight = self.bits == 8 and self.photometric in (RGB, CMYK, YCBCR, 8) and self.extra in ((), (0,), (2,))
        return self.planar and self.samples > 1 and not is_eight


def read_layout(data: bytes) -> TiffLayout | None:
    """Return the layout of a TIFF file's first picture; None if it is none, or its directory cannot be understood."""
    try:
        return _layout(data)
    except (struct.error, ValueError, IndexError, OverflowError):
        return None


def _layout(data: bytes) -> TiffLayout | None:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    (magic,) = struct.unpack_from(order + "H", data, 2)
    if magic not in (42, 43):
        return None
    tags = _read_tags(data, order, big=magic == 43)
    bits = tags.get(_BITS, (1,))
    samples = tags.get(_SAMPLES, (len(bits),))[0]
    kinds = tags.get(_FORMAT, (1,))
    return TiffLayout(
        tags=tags,
        order=order,
        is_big=magic == 43,
        size=(tags[_WIDTH][0], tags[_HEIGHT][0]) if _WIDTH in tags and _HEIGHT in tags else (0, 0),
        photometric=tags.get(_PHOTOMETRIC, (0,))[0],
        bits=bits[0] if len(set(bits)) == 1 else 0,
        kind=kinds[0] if len(set(kinds)) == 1 else 0,
        samples=samples,
        extra=tags.get(_EXTRA, ()),
        planar=tags.get(_PLANAR, (1,))[0] == 2 and samples > 1,
    )


def _read_tags(data: bytes, order: str, *, big: bool) -> Tags:
    """Return the tags of the first directory that are needed, as far as their values are in the file."""
    start, number, entry, room = ("Q", "Q", "HHQ", 8) if big else ("I", "H", "HHI", 4)
    (at,) = struct.unpack_from(order + start, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + number, data, at)
    at += struct.calcsize(order + number)
    tags: Tags = {}
    for _ in range(min(count, _MAX_TAGS)):
        tag, kind, values = struct.unpack_from(order + entry, data, at)
        place = at + struct.calcsize(order + entry)
        at = place + room
        letter = _TYPES.get(kind)
        if tag not in _NEEDED or letter is None or not values:
            continue
        size = values * struct.calcsize(order + letter)
        if size > room:
            (place,) = struct.unpack_from(order + start, data, place)
        if place + size <= len(data):
            tags.setdefault(tag, struct.unpack_from(f"{order}{values}{letter}", data, place))
    return tags


def read_planes(data: bytes, layout: TiffLayout) -> "Image.Image":
    """Return the picture of a TIFF file as 8-bit RGB, as stored: its orientation is still to be given to it.

    Raises:
        PhotoError: a range of samples that is not supported.
        Exception: of any kind, where it is damaged.
    """
    samples = _read_samples(data, layout)
    count = _COLOURS[layout.photometric]
    colours, more = samples[..., :count], samples[..., count:]
    white = white_of(colours)
    eight = to_8_bits(colours, white)
    if layout.photometric == WHITE_IS_ZERO:
        eight = 255 - eight
    rgb = _rgb(eight, layout.photometric)
    # A fourth sample of RGB without a word is taken for alpha, as Pillow does.
    meaning = layout.extra[0] if layout.extra else _ALPHA if layout.photometric != CMYK else 0
    if more.shape[-1] and meaning in (_PREMULTIPLIED, _ALPHA):
        rgb = over_white(rgb, alpha_to_8_bits(more[..., :1], white), premultiplied=meaning == _PREMULTIPLIED)
    return _image(rgb)


def _image(rgb: NDArray[np.uint8]) -> "Image.Image":
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(rgb))


def _rgb(eight: NDArray[np.uint8], photometric: int) -> NDArray[np.uint8]:
    from PIL import Image

    if eight.shape[-1] == 1:
        return np.repeat(eight, 3, axis=-1)
    if photometric == CMYK:
        return np.asarray(Image.frombytes("CMYK", eight.shape[1::-1], eight.tobytes()).convert("RGB"))
    return eight


def _read_samples(data: bytes, layout: TiffLayout) -> NDArray[np.generic]:
    """Return H×W×samples as they are stored, in this machine's byte order."""
    from PIL import TiffImagePlugin

    width, height = layout.size
    planes = layout.samples if layout.planar else 1
    with TiffImagePlugin.TiffImageFile(io.BytesIO(_as_grey(data, layout, planes))) as image:
        read = []
        for plane in range(planes):
            image.seek(plane)
            image.load()
            read.append(_typed(np.asarray(image), layout))
    if layout.planar:
        return np.stack(read, axis=-1)
    samples = read[0].reshape(height, width, layout.samples)
    if layout.samples > 1 and layout.tags.get(_PREDICTOR, (1,))[0] == 2:
        step = layout.tags[_TILE_WIDTH][0] if _TILES in layout.tags else width
        parts = [samples[:, left : left + step] for left in range(0, width, step)]
        return np.concatenate([np.cumsum(part, axis=1, dtype=samples.dtype) for part in parts], axis=1)
    return samples


def _typed(pixels: NDArray[np.generic], layout: TiffLayout) -> NDArray[np.generic]:
    """Return the samples of a grey picture with the type that the file gives them."""
    if layout.bits == 8:
        return pixels.view(np.int8) if layout.kind == 2 else pixels
    if layout.bits == 16:
        whole = pixels.astype(np.uint16)
        half = whole.view({1: np.uint16, 2: np.int16, 3: np.float16}[layout.kind])
        return half.astype(np.float32) if layout.kind == 3 else half
    # Pillow exchanges once more the bytes that libtiff has put in order.
    four = pixels.byteswap() if layout.order == ">" and layout.compression != 1 else pixels
    return np.ascontiguousarray(four).view({1: np.uint32, 2: np.int32, 3: np.float32}[layout.kind])


def _as_grey(data: bytes, layout: TiffLayout, planes: int) -> bytes:
    """Return the file with directories of grey pictures, one for each plane, or one that is as wide as all samples."""
    tags = layout.tags
    wide = 1 if layout.planar else layout.samples
    tiled = _TILES in tags
    offsets, sizes = (tags[_TILES], tags[_TILE_BYTES]) if tiled else (tags[_STRIPS], tags[_STRIP_BYTES])
    each = len(offsets) // planes
    if each * planes != len(offsets) or len(sizes) < len(offsets):
        raise PhotoError("it is damaged (its strips are not those of all planes)")
    directories = []
    for plane in range(planes):
        part = slice(plane * each, (plane + 1) * each)
        entries: Tags = {
            **{_WIDTH: (layout.size[0] * wide,), _HEIGHT: (layout.size[1],), _BITS: (layout.bits,)},
            **{_COMPRESSION: (layout.compression,), _PHOTOMETRIC: (BLACK_IS_ZERO,), _SAMPLES: (1,)},
            # As types that Pillow takes; only the bits count.
            **{_FORMAT: (3 if layout.bits == 32 else 1,)},
            **{tag: tags[tag] for tag in (_FILL_ORDER, _TABLES) if tag in tags},
        }
        if wide == 1:
            entries[_PREDICTOR] = tags.get(_PREDICTOR, (1,))
        if tiled:
            entries |= {_TILE_WIDTH: (tags[_TILE_WIDTH][0] * wide,), _TILE_HEIGHT: tags[_TILE_HEIGHT]}
            entries |= {_TILES: offsets[part], _TILE_BYTES: sizes[part]}
        else:
            entries |= {_STRIPS: offsets[part], _STRIP_BYTES: sizes[part]}
            entries[_ROWS] = (min(tags.get(_ROWS, (layout.size[1],))[0], layout.size[1]),)
        directories.append(entries)
    return _with_directories(data, layout.order, directories)


def _with_directories(data: bytes, order: str, directories: list[Tags]) -> bytes:
    """Return a plain TIFF file whose pixels are where they were and whose directories are these, behind all else."""
    data += bytes(len(data) % 2)
    if len(data) >= 1 << 31:
        raise PhotoError("it has more than 2 GB")
    parts: list[bytes] = []
    at = len(data)
    for number, tags in enumerate(directories, 1):
        rows, tail = [], b""
        behind = at + 2 + 12 * len(tags) + 4
        for tag, values in sorted(tags.items()):
            kind, letter = (7, "B") if tag == _TABLES else (4, "I") if max(values) > 65535 else (3, "H")
            packed = struct.pack(f"{order}{len(values)}{letter}", *values)
            if len(packed) > 4:
                rows.append(struct.pack(order + "HHII", tag, kind, len(values), behind + len(tail)))
                tail += packed + bytes(len(packed) % 2)
            else:
                rows.append(struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0"))
        at = behind + len(tail)
        following = struct.pack(order + "I", at if number < len(directories) else 0)
        parts += [struct.pack(order + "H", len(rows)), *rows, following, tail]
    magic = b"II" if order == "<" else b"MM"
    return magic + struct.pack(order + "HI", 42, len(data)) + data[8:] + b"".join(parts)
