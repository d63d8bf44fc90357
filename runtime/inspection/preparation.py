"""What happened to a photo before the network saw it, for people to read."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.types import Preprocessing
from ctxdeploy.runtime.decode.decode import Pixels
from ctxdeploy.runtime.decode.image import DecodeLimits, open_image
from ctxdeploy.runtime.decode.pixels import EXIF_ORIENTATION

if TYPE_CHECKING:
    from PIL import Image

# What the eight EXIF orientations ask for.
TURNS = {
    1: "none",
    2: "mirrored left to right",
    3: "turned by 180°",
    4: "mirrored top to bottom",
    5: "mirrored along the main diagonal",
    6: "turned by 90° clockwise",
    7: "mirrored along the other diagonal",
    8: "turned by 90° counter-clockwise",
}
_MODES = {
    "1": "black and white",
    "L": "grey, 8 bits",
    "LA": "grey with transparency",
    "P": "palette",
    "PA": "palette with transparency",
    "RGB": "RGB, 8 bits",
    "RGBA": "RGB with transparency",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "CIELAB",
}


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """From the file to the network's input.

    Attributes:
        format: of the file, by its content.
        bytes: of the file.
        stored_size: (width, height) in pixels as they are stored.
        colour: of the stored pixels.
        conversion: how they became 8-bit RGB.
        orientation: EXIF orientation of the file, 1 to 8.
        turn: what it asked for, and was done.
        original_size: (width, height) after that.
        box: (left, upper, right, lower), the part that was kept, in pixels of the original photo; None for all of it.
        input_size: (width, height) of the network's input.
        factor: pixels of the input per pixel of the original photo, along the longer side.
        scaling: how it was scaled.
        left_out: what the file holds beyond that and was not used.
    """

    format: str
    bytes: int
    stored_size: tuple[int, int]
    colour: str
    conversion: str
    orientation: int
    turn: str
    original_size: tuple[int, int]
    box: tuple[int, int, int, int] | None
    input_size: tuple[int, int]
    factor: float
    scaling: str
    left_out: tuple[str, ...]

    def metadata(self) -> dict[str, Any]:
        """Return the facts as JSON prints them."""
        return asdict(self)


def preparation_of(data: bytes, photo: Pixels, preprocessing: Preprocessing) -> Preparation:
    """Return what was done to the bytes of a photo that has been decoded; only their header is read again."""
    height, width = photo.pixels.shape[:2]
    left, upper, right, lower = photo.region
    whole = photo.region == (0, 0, *photo.original_size)
    with open_image(data, DecodeLimits()) as image:
        orientation = _orientation(image)
        return Preparation(
            format=image.format or "unknown",
            bytes=len(data),
            stored_size=image.size,
            colour=_MODES.get(image.mode, image.mode),
            conversion=_conversion(image),
            orientation=orientation,
            turn=TURNS[orientation],
            original_size=photo.original_size,
            box=None if whole else photo.region,
            input_size=(width, height),
            factor=max(width, height) / max(right - left, lower - upper),
            scaling=_scaling(image, photo, preprocessing),
            left_out=_left_out(image),
        )


def _orientation(image: "Image.Image") -> int:
    try:
        number = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises anything from SyntaxError to struct.error; it is not used then
        return 1
    return number if number in TURNS else 1


def _conversion(image: "Image.Image") -> str:
    """Say what ``ctxdeploy.runtime.decode.pixels`` does with an image of this mode."""
    if image.mode.startswith("F"):
        return "scaled from float samples to 8 bits"
    if image.mode.startswith("I"):
        return "divided by 257, from 16 bits to 8"
    if image.has_transparency_data:
        return "composited on white"
    if image.mode == "RGB":
        return "none"
    return "grey in all three channels" if image.mode in ("1", "L") else "converted to RGB"


def _scaling(image: "Image.Image", photo: Pixels, preprocessing: Preprocessing) -> str:
    height, width = photo.pixels.shape[:2]
    left, upper, right, lower = photo.region
    if (width, height) == (right - left, lower - upper):
        return "none, it is no larger than the model takes"
    draft = preprocessing.draft and image.format in ("JPEG", "MPO")
    return "LANCZOS, after the JPEG decoder's own reduction" if draft else "LANCZOS"


def _left_out(image: "Image.Image") -> tuple[str, ...]:
    found = []
    if image.info.get("icc_profile"):
        found.append("the colour profile (the pixels are taken as sRGB)")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        found.append(f"{frames - 1:,} more frames or pages")
    return tuple(found)
