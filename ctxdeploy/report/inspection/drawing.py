"""What pictures are made of: colours, the photo as a dim ground, maps in colour over it, marks and lines.

The colours are made in OKLab, where equal steps look equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

# Lightness, chroma and hue (degrees) along the map. Lightness grows evenly with the value, so that the map orders
# values in grey print and for any colour vision too; the chromas lie within sRGB.
_ANCHORS = (
    (0.14, 0.045, 285.0),
    (0.34, 0.155, 290.0),
    (0.50, 0.200, 340.0),
    (0.65, 0.200, 25.0),
    (0.80, 0.155, 65.0),
    (0.96, 0.095, 105.0),
)
# OKLab to the cone responses, and those to linear sRGB (B. Ottosson, "A perceptual color space for image processing").
_TO_CONES = np.array(
    [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480]]
)
_TO_LINEAR = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
# Marks of scales: one lightness, hues apart from each other and from grey.
_MARK_LIGHTNESS, _MARK_CHROMA, _FIRST_HUE, _LAST_HUE = 0.80, 0.135, 20.0, 335.0

Colour = tuple[int, int, int]


@cache
def colour_map() -> NDArray[np.uint8]:
    """Return the colours of the values 0..255, dark to light, 256×3."""
    anchors = np.array([_lab(*anchor) for anchor in _ANCHORS])
    lightness = np.linspace(anchors[0, 0], anchors[-1, 0], 256)
    lab = np.stack([lightness, *(np.interp(lightness, anchors[:, 0], anchors[:, axis]) for axis in (1, 2))], axis=1)
    table = _srgb(lab)
    table.flags.writeable = False
    return table


def colour_of(share: float) -> Colour:
    """Return the map's colour of a value in 0..1."""
    red, green, blue = colour_map()[round(255 * min(max(share, 0.0), 1.0))]
    return int(red), int(green), int(blue)


def mark_colours(count: int) -> list[Colour]:
    """Return colours that tell ``count`` things apart on a dark photo, in the order of the rainbow."""
    hues = np.linspace(_FIRST_HUE, _LAST_HUE, count) if count > 1 else np.array([_FIRST_HUE])
    table = _srgb(np.array([_lab(_MARK_LIGHTNESS, _MARK_CHROMA, hue) for hue in hues]))
    return [(int(red), int(green), int(blue)) for red, green, blue in table]


def css(colour: Colour) -> str:
    """Return a colour as a style sheet writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _srgb(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return n×3 OKLab colours as sRGB bytes; what lies outside of sRGB is clipped."""
    linear = np.clip((lab @ _TO_CONES.T) ** 3 @ _TO_LINEAR.T, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table: NDArray[np.uint8] = np.rint(encoded * 255).astype(np.uint8)
    return table


def _lab(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    angle = np.deg2rad(hue)
    return lightness, float(chroma * np.cos(angle)), float(chroma * np.sin(angle))


# Longest sides in pixels. Lines are drawn in twice the size, which smooths them.
LARGE, SMALL, _FINER = 1024, 512, 2
# Share of the colours of a map; the rest is the photo in grey.
_OPACITY = 0.76

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line between two points of a picture, in shares of its width and height."""

    start: Point
    end: Point
    width: float
    colour: Colour


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A rectangle, in shares of the picture's width and height: left, upper, right, lower."""

    edges: tuple[float, float, float, float]
    width: float
    colour: Colour


@dataclass(frozen=True, kw_only=True)
class Ring:
    """A circle; its radius is a share of the picture's width."""

    centre: Point
    radius: float
    width: float
    colour: Colour


Mark = Line | Frame | Ring


def fitted(pixels: NDArray[np.uint8], longest: int) -> "Image.Image":
    """Return a photo with this longest side, enlarged if need be."""
    from PIL import Image

    height, width = pixels.shape[:2]
    factor = longest / max(height, width)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)


def grey(photo: "Image.Image", brightness: float = 1.0) -> "Image.Image":
    """Return a photo in grey as a ground, from black to this brightness whatever its exposure."""
    from PIL import ImageOps

    stretched = ImageOps.autocontrast(photo.convert("L"), cutoff=1)
    return stretched.point(lambda level: level * brightness).convert("RGB")


def normalised(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.float64]:
    """Return values as shares of the way from ``low`` to ``high``, clipped; 0.5 where the two are equal."""
    if not high > low:
        return np.full(values.shape, 0.5)
    return np.clip((values.astype(np.float64) - low) / (high - low), 0.0, 1.0)


def over_photo(shares: NDArray[np.float64], photo: "Image.Image") -> "Image.Image":
    """Return a map of shares h×w, 0 to 1, in colour, its cells stretched over a photo that shines through."""
    from PIL import Image

    cells = Image.fromarray(colour_map()[np.rint(shares * 255).astype(np.uint8)])
    return Image.blend(grey(photo), cells.resize(photo.size, Image.Resampling.NEAREST), _OPACITY)


def lit(mask: NDArray[np.bool_], photo: "Image.Image", ground: "Image.Image") -> "Image.Image":
    """Return a photo where the cells of a mask h×w are set, and ``ground`` elsewhere."""
    from PIL import Image

    stretched = Image.fromarray(mask.astype(np.uint8) * 255).resize(photo.size, Image.Resampling.NEAREST)
    return Image.composite(photo, ground, stretched)


def marked(ground: "Image.Image", marks: Sequence[Mark]) -> "Image.Image":
    """Return a picture with marks on it, the later ones on top; widths are in its pixels."""
    from PIL import Image, ImageDraw

    width, height = (side * _FINER for side in ground.size)
    finer = ground.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(finer)
    for mark in marks:
        thickness = max(round(mark.width * _FINER), 1)
        if isinstance(mark, Line):
            ends = [(x * width, y * height) for x, y in (mark.start, mark.end)]
            draw.line(ends, fill=mark.colour, width=thickness)
        elif isinstance(mark, Frame):
            left, upper, right, lower = mark.edges
            half = thickness / 2
            box = (left * width - half, upper * height - half, right * width + half, lower * height + half)
            draw.rectangle(box, outline=mark.colour, width=thickness)
        else:
            (x, y), radius = mark.centre, mark.radius * width
            box = (x * width - radius, y * height - radius, x * width + radius, y * height + radius)
            draw.ellipse(box, outline=mark.colour, width=thickness)
    return finer.resize(ground.size, Image.Resampling.LANCZOS)
