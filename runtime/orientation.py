"""The eight EXIF orientations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
