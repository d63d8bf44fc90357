"""From the bytes of a photo to an opened image and its pixels: formats, limits, opening, loading."""

import io
import struct
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.settings import setting
from ctxdeploy.runtime.decode.jpeg import load_jpeg
from ctxdeploy.runtime.decode.png import check_chunks, check_rows
from ctxdeploy.runtime.decode.zeros import check_zeros

if TYPE_CHECKING:
    from PIL import Image, ImageFile


MAX_PIXELS = 178_956_970  # twice Pillow's MAX_IMAGE_PIXELS, where Pillow itself starts to refuse


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """Which photos are refused, and which are taken though they are damaged.

    Attributes:
        max_pixels: a photo with more, as its header says, is refused before it is decoded.
        accept_truncated: take a photo whose end is missing; what is missing is grey.
    """

    max_pixels: int = setting(MAX_PIXELS, "--max-pixels", "A photo with more has failed.", metavar="N")
    accept_truncated: bool = setting(
        False, "--accept-truncated", "Take photos whose end is missing; what is missing is grey."
    )

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= 1 << 32:
            raise ConfigError(f"--max-pixels {self.max_pixels} is outside 1..{1 << 32}")

    def metadata(self) -> dict[str, Any]:
        """Return the limits as JSON prints them."""
        return asdict(self)


DEFAULT_LIMITS = DecodeLimits()


# Only these are tried, whatever a file is called: Pillow would start Ghostscript for PostScript.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000", "HEIF")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".heic", ".heif", ".hif"),
)
HEIF_PLUGINS = ("pi_heif", "pillow_heif")
_LOADING = threading.Lock()


def readable_formats() -> tuple[str, ...]:
    """Return those of ``FORMATS`` that this Pillow, with the plug-ins registered so far, can open."""
    from PIL import Image

    # Pillow loads its plug-ins when the first file needs them; a second thread that meets the loading half done is told
    # that there is nothing to load, and takes a valid photo for no image.
    with _LOADING:
        Image.init()
        _register_heif()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def _register_heif() -> None:
    """Let Pillow read HEIF, the format of iPhones, where one of the plug-ins for it is installed."""
    for name in HEIF_PLUGINS:
        try:
            import_module(name).register_heif_opener()
        except ImportError:
            continue
        return


def readable_extensions() -> tuple[str, ...]:
    """Return the extensions of files that are listed as photos.

    Those of HEIF are among them even where no plug-in reads it: such a photo fails and says what to install.
    """
    return EXTENSIONS


_SIGNATURE = 16  # bytes by which Pillow's readers know their format
_NOT_OPENED = (SyntaxError, IndexError, TypeError, struct.error)  # what a reader raises that cannot open a file
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def open_image(data: bytes, limits: DecodeLimits) -> "ImageFile.ImageFile":
    """Return an image that is not loaded yet, of the first format that takes the bytes.

    Raises:
        PhotoError: no format does, or the header promises too many pixels.
    """
    from PIL import Image

    canvas = _webp_canvas(data)
    if canvas is not None:
        check_size(canvas, limits)  # the reader would claim the memory while it opens
    failures = []
    for name in readable_formats():
        factory, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(data[:_SIGNATURE])
        if isinstance(accepted, str) or not accepted:  # a text says what support is missing
            continue
        try:
            image = factory(io.BytesIO(data), "")
        except _NOT_OPENED as error:
            failures.append(f"{name}: {one_line(error)}")
            continue
        check_size(image.size, limits)
        return image
    raise PhotoError(_why_not(data, failures))


def check_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    """Refuse a photo of ``size`` (width, height) with more pixels than the limit; ``PhotoError``."""
    if size[0] * size[1] > limits.max_pixels:
        raise PhotoError(
            f"{size[0]}×{size[1]} pixels exceed {limits.max_pixels:,}, the limit against decompression bombs: "
            "raise it with --max-pixels"
        )


def one_line(error: Exception) -> str:
    """Return an exception's message, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a WebP file with an extended header; no other WebP exceeds 16383×16383."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or data[12:16] != b"VP8X" or len(data) < 30:
        return None
    return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1


def _why_not(data: bytes, failures: list[str]) -> str:
    if failures:
        return f"it is damaged or not supported ({'; '.join(failures)})"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "it is HEIF, which needs a plug-in for Pillow: pip install pi-heif"
    return "it is not a photo of a format that can be read"


Load: TypeAlias = "Callable[[ImageFile.ImageFile, bytes], Image.Image | NDArray[np.uint8]]"
JPEG_FORMATS = ("JPEG", "MPO")


def load_whole(image: "ImageFile.ImageFile", data: bytes) -> "Image.Image | NDArray[np.uint8]":
    """Return the pixels of an opened image: itself, or H×W×3 RGB, or H×W grey.

    Raises:
        Exception: of any kind, if a pixel is missing or wrong, as far as that can be told.
    """
    if image.format in JPEG_FORMATS:
        pixels = load_jpeg(image, data)
        check_zeros(image, data)
        if pixels is not None:
            return pixels
    elif image.format == "PNG":
        check_chunks(data)
    else:
        check_zeros(image, data)
    image.load()
    if image.format == "PNG":
        check_rows(image, data)
    return image


def load_what_is_there(image: "ImageFile.ImageFile", data: bytes) -> "Image.Image":
    """Return an opened image with the pixels that can be decoded, the others black (in a JPEG file grey).

    Pillow has a switch for that, but it holds for a whole process. What a decoder has written when it fails stays in
    the image, though, which has nothing more to load once it has no tiles.

    Raises:
        Exception: as loading it raised, if no pixel was decoded.
        MemoryError: whatever was decoded before.
    """
    try:
        image.load()
    except MemoryError:  # the file is whole, for all that is known: it is tried again when there is more
        raise
    except Exception:  # decoders raise anything
        image.tile = []
        image.load()
        if image.getbbox() is None:
            raise
    return image


def as_image(pixels: "Image.Image | NDArray[np.uint8]") -> "Image.Image":
    """Return pixels as ``load_whole`` returned them, as an image."""
    from PIL import Image

    return Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
