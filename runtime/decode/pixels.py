"""Pixels as Pillow delivers them to upright 8-bit RGB: EXIF orientations and colour modes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import PhotoError

if TYPE_CHECKING:
    from PIL import Image


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
