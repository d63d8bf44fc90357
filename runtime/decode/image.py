"""From the bytes of a photo to an opened and loaded image, and from that to upright 8-bit RGB."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.runtime.config import DecodeLimits
from ctxdeploy.runtime.decode.formats import readable_formats, why_not_opened
from ctxdeploy.runtime.decode.integrity import load_jpeg, verify_png

if TYPE_CHECKING:
    from PIL import Image, ImageFile


_SIGNATURE = 16  # bytes by which Pillow's readers know their format
_NOT_OPENED = (SyntaxError, IndexError, TypeError, struct.error)  # what a reader raises that cannot open a file


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
    raise PhotoError(why_not_opened(data, failures))


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


Load: TypeAlias = "Callable[[ImageFile.ImageFile, bytes], Image.Image | NDArray[np.uint8]]"
JPEG_FORMATS = ("JPEG", "MPO")


def load_whole(image: "ImageFile.ImageFile", data: bytes) -> "Image.Image | NDArray[np.uint8]":
    """Return the pixels of an opened image: itself, or H×W×3 RGB, or H×W grey.

    Raises:
        Exception: of any kind, if a pixel is missing or wrong, as far as that can be told.
    """
    if image.format in JPEG_FORMATS:
        pixels = load_jpeg(image, data)
        if pixels is not None:
            return pixels
    elif image.format == "PNG":
        verify_png(data)
    image.load()
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


EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Orientation:
    """How the stored photo becomes the upright one: first exchange x and y, then mirror.

    Attributes:
        transpose: exchange x and y.
        mirror_x: then reverse the columns.
        mirror_y: then reverse the rows.
        method: name of the member of ``PIL.Image.Transpose`` that does it in one step; empty for none.
    """

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False
    method: str = ""

    def size(self, stored: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) of the upright photo from those of the stored one, and the other way round."""
        return (stored[1], stored[0]) if self.transpose else stored

    def apply(self, image: "Image.Image") -> "Image.Image":
        """Return the upright photo."""
        from PIL import Image

        return image.transpose(Image.Transpose[self.method]) if self.method else image


UPRIGHT = Orientation()
ORIENTATIONS = {
    1: UPRIGHT,
    2: Orientation(False, True, False, "FLIP_LEFT_RIGHT"),
    3: Orientation(False, True, True, "ROTATE_180"),
    4: Orientation(False, False, True, "FLIP_TOP_BOTTOM"),
    5: Orientation(True, False, False, "TRANSPOSE"),
    6: Orientation(True, True, False, "ROTATE_270"),
    7: Orientation(True, True, True, "TRANSVERSE"),
    8: Orientation(True, False, True, "ROTATE_90"),
}


def read_orientation(image: "Image.Image") -> Orientation:
    """Return the orientation that an image still has to be given.

    Ask after loading: Pillow's TIFF and AVIF readers rotate while they load, and drop the tag.
    """
    try:
        number = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises anything from SyntaxError to struct.error; its photo is whole
        return UPRIGHT
    return ORIENTATIONS.get(number, UPRIGHT) if isinstance(number, int) else UPRIGHT


WHITE = (255, 255, 255)


def to_rgb(image: "Image.Image") -> "Image.Image":
    """Return a loaded image of any mode as RGB.

    Transparency is composited on white. 16-bit grey is divided by 257 and rounded, so that 65535 becomes 255 (Pillow
    clips at 255). Colour profiles are ignored, as the reference ignores them. Float samples have no agreed range: the
    largest one decides between 0..1, 0..255 and 0..65535.

    Raises:
        PhotoError: samples outside 0..65535, or a mode that Pillow cannot convert.
    """
    if image.mode.startswith(("I", "F")):
        return _wide_grey(image)
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode == "LAB":
        return _from_lab(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    # Pillow converts premultiplied grey only to plain grey with alpha.
    straight = image.convert("LA") if image.mode == "La" else image
    rgba = straight.convert("RGBA")
    page = Image.new("RGB", image.size, WHITE)
    page.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return page


def _wide_grey(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    samples = np.asarray(image)
    grey = _from_float(samples) if image.mode.startswith("F") else _from_16_bit(samples)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # PNG: the one grey value that is transparent
        grey = np.where(samples == transparent, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _from_16_bit(samples: NDArray[np.generic]) -> NDArray[np.uint8]:
    wide = samples.astype(np.int64)
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high > 65535:
        raise PhotoError(
            f"its samples range from {low} to {high}, but 16-bit grey (0 to 65535) is the widest supported"
        )
    return ((wide + 128) // 257).astype(np.uint8)


def _from_float(samples: NDArray[np.generic]) -> NDArray[np.uint8]:
    wide = samples.astype(np.float64)
    low, high = float(wide.min()), float(wide.max())
    if not (low >= 0 and high <= 65535):  # also when NaN
        raise PhotoError(f"its float samples range from {low:g} to {high:g}, but 0 to 65535 is the widest supported")
    top = next(top for top in (1.0, 255.0, 65535.0) if high <= top)
    return np.rint(wide * (255.0 / top)).astype(np.uint8)


def _from_lab(image: "Image.Image") -> "Image.Image":
    try:
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    except (ImportError, OSError) as error:
        raise PhotoError(f"its LAB colours cannot be converted ({error})") from error
    if converted is None:
        raise PhotoError("its LAB colours cannot be converted")
    return converted
