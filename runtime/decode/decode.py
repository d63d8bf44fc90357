"""The one place where a photo becomes pixels, for indexing and for queries alike.

The pixels are those of the reference (HOW's cirtorch loader: convert to RGB, crop, ``thumbnail`` with LANCZOS), bit by
bit, for upright opaque photos. ``Preprocessing`` holds the settings and their hash.

Only calls on the photo's own objects are made, no global setting is touched: any number of threads may decode, each
with limits of its own.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctxdeploy.core.errors import BackendError, MissingExtraError, PhotoError
from ctxdeploy.core.reading import NOT_REGULAR, TooManyBytesError, read_regular
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import NVIMGCODEC, Box, Preprocessing
from ctxdeploy.runtime.config import DEFAULT_LIMITS, MAX_BYTES, DecodeLimits
from ctxdeploy.runtime.decode.image import (
    JPEG_FORMATS,
    UPRIGHT,
    Load,
    Orientation,
    as_image,
    load_what_is_there,
    load_whole,
    load_whole_by_gpu,
    one_line,
    open_image,
    read_orientation,
    to_rgb,
)
from ctxdeploy.runtime.decode.integrity import END, START

if TYPE_CHECKING:
    from PIL import Image

# A photo is nearly one colour if its channels vary by so much at most, in so many rows and columns of it or more.
_ONE_COLOUR, _LOOKED_AT = 16, 128
REDUCING_GAP = 2.0  # the default of Pillow's thumbnail: from a ratio of 4 on, a box filter goes before LANCZOS


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels:
    """A photo as the network takes it.

    Attributes:
        pixels: H×W×3 uint8, RGB, C-contiguous.
        original_size: (width, height) of the whole photo after EXIF rotation, in pixels.
        region: (left, upper, right, lower) of what ``pixels`` shows, in whole pixels of the original photo.
        turn: degrees, clockwise, by which ``pixels`` were turned after they were scaled: 0, 90, 180 or 270.
    """

    pixels: NDArray[np.uint8]
    original_size: tuple[int, int]
    region: tuple[int, int, int, int]
    turn: int = 0

    def turned(self, turn: int) -> "Pixels":
        """Return the same photo turned clockwise by 0, 90, 180 or 270 degrees more, its pixels as they are."""
        pixels = np.ascontiguousarray(np.rot90(self.pixels, -(turn // 90)))
        return replace(self, pixels=pixels, turn=(self.turn + turn) % 360)

    def is_nearly_one_colour(self) -> bool:
        """Return whether there is next to nothing to see, as in a photo whose samples were misunderstood, or a cap."""
        step = max(min(self.pixels.shape[:2]) // _LOOKED_AT, 1)
        some = self.pixels[::step, ::step]
        # An eighth of the rows shows nearly every photo to have more: 0.1 ms, all of them take 0.6.
        return all((np.ptp(rows, axis=(0, 1)) <= _ONE_COLOUR).all() for rows in (some[::8], some))

    def to_original(self, positions: ArrayLike) -> NDArray[np.float32]:
        """Map positions from ``pixels`` to the original photo, which is not turned.

        Args:
            positions: n×2, x then y, in pixels; the centre of the top left pixel is (0.5, 0.5).

        Returns:
            n×2 float32 in the same convention, in pixels of the original photo after EXIF rotation.
        """
        left, upper, right, lower = self.region
        height, width = self.pixels.shape[:2] if self.turn in (0, 180) else self.pixels.shape[1::-1]
        x, y = np.asarray(positions, dtype=np.float64).T
        x, y = {0: (x, y), 90: (y, height - x), 180: (width - x, height - y), 270: (width - y, x)}[self.turn]
        factor = np.array([(right - left) / width, (lower - upper) / height])
        mapped = np.stack([x, y], axis=1) * factor + np.array([left, upper])
        return np.asarray(mapped, dtype=np.float32)


def decode_photo(
    source: Path | bytes, preprocessing: Preprocessing, box: Box | None = None, limits: DecodeLimits = DEFAULT_LIMITS
) -> Pixels:
    """Read, rotate, crop and scale a photo.

    Args:
        source: a file, or the bytes of one.
        preprocessing: size and mode.
        box: the part to keep; it is scaled by the factor that brings the whole photo's longest side to
            ``image_size``. Photos and parts are never enlarged.
        limits: what is refused.

    Raises:
        PhotoError: the photo cannot be read, is damaged, truncated or too large, or the box does not lie in it. The
            message names the file and the reason.
    """
    try:
        data = read_file(source) if isinstance(source, Path) else source
        return decode_bytes(data, preprocessing, box, limits)
    except PhotoError as error:
        name = printable(str(source)) if isinstance(source, Path) else f"photo of {len(source):,} bytes"
        raise PhotoError(f"{name}: {error}") from error


class TooLargeError(PhotoError):
    """A file has more bytes than are to be read.

    Args:
        limit: bytes that were to be read at most.
        size: of the file; None if that is not known.
        what: it is.
    """

    def __init__(self, limit: int, size: int | None, what: str = "photo") -> None:
        has = "more" if size is None else f"{size:,} bytes, more"
        super().__init__(f"it has {has} than the {limit:,}{' bytes' if size is None else ''} that a {what} may have")
        self.limit, self.size = limit, size


def read_file(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the bytes of a photo's file; ``PhotoError`` with the bare reason if that fails, or it has too many."""
    try:
        return read_regular(path, limit)
    except TooManyBytesError as error:
        raise TooLargeError(error.limit, error.size) from error
    except MemoryError as error:
        raise PhotoError("there is not enough memory to read it") from error
    except OSError as error:
        why = error.strerror or str(error)
        why = NOT_REGULAR if isinstance(error, IsADirectoryError) else why
        raise PhotoError(why if why == NOT_REGULAR else f"it cannot be read ({why})") from error


def decode_bytes(
    data: bytes, preprocessing: Preprocessing, box: Box | None = None, limits: DecodeLimits = DEFAULT_LIMITS
) -> Pixels:
    """As ``decode_photo``, for bytes; the message of a ``PhotoError`` is the bare reason."""
    if not data:
        raise PhotoError("it is empty (0 bytes)")
    try:
        load = load_whole_by_gpu if preprocessing.decoder == NVIMGCODEC else load_whole
        return _attempt(data, preprocessing, box, limits, load)
    except PhotoError as error:
        # Too little memory is not damage: the photo is tried again, not taken with what was decoded by then.
        if not limits.accept_truncated or isinstance(error.__cause__, MemoryError):
            raise
        closed = data + END if data.startswith(START) else data
        try:
            return _attempt(closed, preprocessing, box, limits, load_what_is_there)
        except PhotoError as again:
            if isinstance(again.__cause__, MemoryError):
                raise
            raise error from None


def photo_size(path: Path, limits: DecodeLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Return (width, height) of the upright photo in a file; of a JPEG no pixel is decoded for that.

    Raises:
        PhotoError: the bare reason why it cannot be opened.
    """
    data = read_file(path)
    if not data:
        raise PhotoError("it is empty (0 bytes)")
    with _reasons(), open_image(data, limits) as image:
        if image.format not in JPEG_FORMATS:
            image.load()  # a reader that rotates while loading changes the size
        return read_orientation(image).size(image.size)


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn what readers raise into ``PhotoError`` with the bare reason."""
    try:
        yield
    except (PhotoError, BackendError, MissingExtraError):  # of the photo, or of the machine
        raise
    except MemoryError as error:
        raise PhotoError("there is not enough memory for it: lower --max-pixels, or give more memory") from error
    except Exception as error:  # damaged files raise anything: OSError, SyntaxError, struct.error, IndexError, ...
        raise PhotoError(f"it is damaged or not supported ({one_line(error)})") from error


def _attempt(data: bytes, preprocessing: Preprocessing, box: Box | None, limits: DecodeLimits, load: Load) -> Pixels:
    with _reasons(), open_image(data, limits) as image:
        return _decode(image, data, preprocessing, box, load)


def thumbnail_size(size: tuple[int, int], bound: float) -> tuple[int, int]:
    """Return (width, height) that Pillow's ``thumbnail((bound, bound))`` gives an image of ``size``."""
    width, height = size
    limit = max(math.floor(bound), 1)
    if limit >= width and limit >= height:
        return size
    aspect = width / height
    if aspect <= 1:
        return _nearest(limit * aspect, lambda n: abs(aspect - n / limit)), limit
    return limit, _nearest(limit / aspect, lambda n: abs(aspect - limit / n) if n else 0.0)


def _nearest(number: float, distance: Callable[[int], float]) -> int:
    return max(min(math.floor(number), math.ceil(number), key=distance), 1)


def _decode(image: "Image.Image", data: bytes, preprocessing: Preprocessing, box: Box | None, load: Load) -> Pixels:
    stored_size = image.size
    drafted = _draft(image, preprocessing.image_size) if preprocessing.draft else 1
    loaded = load(image, data)
    orientation = read_orientation(image)
    if drafted == 1:
        stored_size = image.size  # a reader that rotates while loading has changed it
    original_size = orientation.size(stored_size)
    region = box.pixels(original_size) if box else (0, 0, *original_size)
    cropped = (region[2] - region[0], region[3] - region[1])
    size = thumbnail_size(cropped, preprocessing.image_size * max(cropped) / max(original_size))
    if isinstance(loaded, np.ndarray) and orientation == UPRIGHT and size == original_size and loaded.ndim == 3:
        return Pixels(pixels=loaded, original_size=original_size, region=region)
    upright = orientation.apply(to_rgb(as_image(loaded)))
    if drafted == 1:
        scaled = _scale(_crop(upright, region) if box else upright, size)
    else:
        scaled = _scale(upright, size, _drafted_region(region, original_size, upright.size, orientation, drafted))
    return Pixels(pixels=np.ascontiguousarray(scaled), original_size=original_size, region=region)


def _crop(image: "Image.Image", region: tuple[int, int, int, int]) -> "Image.Image":
    from PIL import Image

    # The pixels of crop(), which holds a region against the limit for the whole process, and warns at half of it.
    left, upper, right, lower = region
    return image.resize((right - left, lower - upper), Image.Resampling.NEAREST, box=region)


def _scale(
    image: "Image.Image", size: tuple[int, int], region: tuple[float, float, float, float] | None = None
) -> "Image.Image":
    from PIL import Image

    if image.size == size and region is None:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, box=region, reducing_gap=REDUCING_GAP)


def _draft(image: "Image.Image", image_size: int) -> int:
    """Let the JPEG decoder scale by the largest of 1/8, 1/4, 1/2 that stays above ``image_size``; return its divisor.

    ``thumbnail`` drafts to twice the bounding square, which no 3:2 photo below 4096 pixels on its short side reaches.
    """
    if image.format not in JPEG_FORMATS:
        return 1
    width, height = image.size
    divisor = next(n for n in (8, 4, 2, 1) if n == 1 or max(width, height) >= n * image_size)
    drafted = image.draft(None, (max(width // divisor, 1), max(height // divisor, 1)))
    return round(width / drafted[1][2]) if drafted else 1


def _drafted_region(
    region: tuple[int, int, int, int],
    original_size: tuple[int, int],
    drafted_size: tuple[int, int],
    orientation: Orientation,
    divisor: int,
) -> tuple[float, float, float, float]:
    """Return ``region`` in pixels of the drafted photo.

    The decoder rounds sizes up, so that the last stored column and row reach beyond the photo; where the orientation
    mirrors, they come first.
    """
    left = drafted_size[0] - original_size[0] / divisor if orientation.mirror_x else 0.0
    upper = drafted_size[1] - original_size[1] / divisor if orientation.mirror_y else 0.0
    x0, y0, x1, y1 = (edge / divisor for edge in region)
    return left + x0, upper + y0, min(left + x1, drafted_size[0]), min(upper + y1, drafted_size[1])
