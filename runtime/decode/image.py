"""From the bytes of a photo to an opened and loaded image, and from that to upright 8-bit RGB."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.runtime.config import TOO_MANY_PIXELS, DecodeLimits
from ctxdeploy.runtime.decode.formats import readable_formats, reads_raw, why_not_opened
from ctxdeploy.runtime.decode.integrity import load_jpeg, verify_png
from ctxdeploy.runtime.decode.jpeg2000 import mend_white
from ctxdeploy.runtime.decode.nvimgcodec import load_by_gpu
from ctxdeploy.runtime.decode.png import is_16_bits, mend_transparency, wide_samples
from ctxdeploy.runtime.decode.raw import is_raw, read_raw
from ctxdeploy.runtime.decode.samples import TOPS, alpha_to_8_bits, over_white, to_8_bits, white_of
from ctxdeploy.runtime.decode.tiff import TiffLayout, read_layout, read_planes

if TYPE_CHECKING:
    from PIL import Image


_SIGNATURE = 16  # bytes by which Pillow's readers know their format
_NOT_OPENED = (SyntaxError, IndexError, TypeError, struct.error)  # what a reader raises that cannot open a file


def unread_format(data: bytes) -> str | None:
    """Return why no reader takes a file by its first bytes; None if one does, damaged or not. Nothing is decoded."""
    from PIL import Image

    if is_raw(data, None) and reads_raw():
        return None
    for name in readable_formats():
        accepts = Image.OPEN[name][1]
        try:
            if accepts is None or accepts(data[:_SIGNATURE]) is True:
                return None
        except _NOT_OPENED:  # fewer bytes than a header has
            continue
    return why_not_opened(data, [])


def open_image(data: bytes, limits: DecodeLimits) -> "Image.Image":
    """Return an image, mostly not loaded yet, of the first format that takes the bytes.

    Raises:
        PhotoError: no format does, or the header promises too many pixels.
    """
    from PIL import Image

    canvas = _webp_canvas(data)
    if canvas is not None:
        check_size(canvas, limits)  # the reader would claim the memory while it opens
    layout = read_layout(data)
    if is_raw(data, layout):
        return read_raw(data, partial(check_size, limits=limits))
    if layout is not None and layout.size[0] and layout.unknown_compression is not None:
        how = layout.unknown_compression
        raise PhotoError(f"it is a TIFF file compressed with {how}, which is not read: save it anew, with deflate")
    if layout is not None and layout.is_misread():
        return _open_planes(data, layout, limits)
    failures = []
    for name in readable_formats():
        factory, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(data[:_SIGNATURE])
        if isinstance(accepted, str) or not accepted:  # a text says what support is missing
            continue
        try:
            image = factory(io.BytesIO(data), "")
        except _NOT_OPENED as error:
            if name == "TIFF" and layout is not None and layout.size[0]:
                return _open_planes(data, layout, limits)
            failures.append(f"{name}: {one_line(error)}")
            continue
        check_size(image.size, limits)
        return image
    raise PhotoError(why_not_opened(data, failures))


def _open_planes(data: bytes, layout: TiffLayout, limits: DecodeLimits) -> "Image.Image":
    """Return a TIFF file's picture where Pillow is not to be trusted with it; ``PhotoError`` where nothing is."""
    if not layout.is_read_here():
        raise PhotoError(f"it is a TIFF file of {layout}, which is not read: save it anew, with 8 or 16 bits a sample")
    check_size(layout.size, limits)
    image = read_planes(data, layout)
    image.format = "TIFF"
    image.getexif()[EXIF_ORIENTATION] = layout.orientation
    return image


def check_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    """Refuse a photo of ``size`` (width, height) with more pixels than the limit; ``PhotoError``."""
    if size[0] * size[1] > limits.max_pixels:
        raise PhotoError(
            f"{size[0]}×{size[1]} pixels exceed {limits.max_pixels:,}, {TOO_MANY_PIXELS}: raise it with --max-pixels"
        )


def one_line(error: Exception) -> str:
    """Return an exception's message, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a WebP file with an extended header; no other WebP exceeds 16383×16383."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or data[12:16] != b"VP8X" or len(data) < 30:
        return None
    return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1


Load: TypeAlias = "Callable[[Image.Image, bytes], Image.Image | NDArray[np.uint8]]"
JPEG_FORMATS = ("JPEG", "MPO")
_TIFF_PALETTE = 320


def load_whole(image: "Image.Image", data: bytes) -> "Image.Image | NDArray[np.uint8]":
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
    if image.format == "TIFF" and image.mode == "P":
        _mend_palette(image)
    if image.format == "JPEG2000":
        return mend_white(image, data)
    if image.format == "PNG":
        mend_transparency(image, data)
    return _bright(image, data)


def load_whole_by_gpu(image: "Image.Image", data: bytes) -> "Image.Image | NDArray[np.uint8]":
    """As ``load_whole``, with nvImageCodec's pixels where it takes the photo; ``BackendError`` where it cannot run."""
    pixels = load_by_gpu(image, data) if image.format in JPEG_FORMATS else None
    return load_whole(image, data) if pixels is None else pixels


def _mend_palette(image: "Image.Image") -> None:
    """Give a TIFF file the palette that it has, where its colours have 8 bits in the place of 16, as libtiff does."""
    colours: tuple[int, ...] = image.tag_v2.get(_TIFF_PALETTE, ())  # type: ignore[attr-defined]
    if colours and max(colours) < 256:
        image.putpalette(np.array(colours, np.uint8).reshape(3, -1).T.tobytes())


def _bright(image: "Image.Image", data: bytes) -> "Image.Image":
    """Return an image whose colours have 16 bits and use few of them as bright as in 8 bits; any other as it is.

    Pillow gives the upper 8 bits of 16-bit colours: of a camera's 12 bits in 16 next to nothing.
    """
    from PIL import Image

    layout = read_layout(data) if image.format == "TIFF" else None
    is_wide = is_16_bits(data) if image.format == "PNG" else layout is not None and layout.bits == 16
    if not is_wide or image.mode not in ("RGB", "RGBA", "RGBX", "CMYK", "LA"):
        return image
    count = len(image.getbands()) - (image.mode in ("RGBA", "RGBX", "LA"))
    transparent = image.info.get("transparency")
    if max(high for _, high in _ranges(image, count)) > TOPS[-2] >> 8 and transparent is None:
        return image
    if layout is not None:
        return read_planes(data, layout) if layout.is_read_here() else image
    samples = wide_samples(image, data)
    white = white_of(samples[..., :count])
    rgb = to_8_bits(samples[..., :count], white)
    rgb = np.repeat(rgb, 3, axis=-1) if count == 1 else rgb
    if transparent is not None:
        seen = (samples != np.asarray(transparent)).any(axis=-1, keepdims=True)
        rgb = over_white(rgb, np.where(seen, np.uint8(255), np.uint8(0)))
    elif samples.shape[-1] > count:
        rgb = over_white(rgb, alpha_to_8_bits(samples[..., count:], white))
    return Image.fromarray(np.ascontiguousarray(rgb))


def _ranges(image: "Image.Image", count: int) -> list[tuple[int, int]]:
    """Return the least and the largest value of each of the first bands."""
    found = image.getextrema()
    return [found] if count == 1 and isinstance(found[0], int) else list(found[:count])  # type: ignore[arg-type]


def load_what_is_there(image: "Image.Image", data: bytes) -> "Image.Image":
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
        image.tile = []  # type: ignore[attr-defined]
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

    Transparency is composited on white. Grey of more than 8 bits, integers and floats, is scaled as ``samples`` says.
    Colour profiles are ignored, as the reference ignores them.

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
    grey = to_8_bits(samples)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # PNG: the one grey value that is transparent
        grey = np.where(samples == transparent, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


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
