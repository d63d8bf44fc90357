"""What pictures are made of: the photo as a dim ground, maps in colour over it, marks and lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.report.inspection.colours import Colour, colour_map

if TYPE_CHECKING:
    from PIL import Image

    Picture = Image.Image

# Longest sides in pixels. Lines are drawn in twice the size, which smooths them.
LARGE, SMALL, FINER = 1024, 512, 2
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


def fitted(pixels: NDArray[np.uint8], longest: int) -> "Picture":
    """Return a photo with this longest side, enlarged if need be."""
    from PIL import Image

    height, width = pixels.shape[:2]
    factor = longest / max(height, width)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)


def grey(photo: "Picture", brightness: float = 1.0) -> "Picture":
    """Return a photo in grey as a ground, from black to this brightness whatever its exposure."""
    from PIL import ImageOps

    stretched = ImageOps.autocontrast(photo.convert("L"), cutoff=1)
    return stretched.point(lambda level: level * brightness).convert("RGB")


def normalised(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.float64]:
    """Return values as shares of the way from ``low`` to ``high``, clipped; 0.5 where the two are equal."""
    if not high > low:
        return np.full(values.shape, 0.5)
    return np.clip((values.astype(np.float64) - low) / (high - low), 0.0, 1.0)


def over_photo(shares: NDArray[np.float64], photo: "Picture", *, smooth: bool = False) -> "Picture":
    """Return a map of shares h×w in colour, its cells stretched over a photo.

    Args:
        shares: 0..1.
        photo: that shines through.
        smooth: between the cells' centres; with sharp edges otherwise.
    """
    from PIL import Image

    if smooth:
        values = Image.fromarray(shares.astype(np.float32)).resize(photo.size, Image.Resampling.BILINEAR)
        colours = Image.fromarray(colour_map()[np.rint(np.asarray(values) * 255).astype(np.uint8)])
    else:
        cells = Image.fromarray(colour_map()[np.rint(shares * 255).astype(np.uint8)])
        colours = cells.resize(photo.size, Image.Resampling.NEAREST)
    return Image.blend(grey(photo), colours, _OPACITY)


def lit(mask: NDArray[np.bool_], photo: "Picture", ground: "Picture") -> "Picture":
    """Return a photo where the cells of a mask h×w are set, and ``ground`` elsewhere."""
    from PIL import Image

    stretched = Image.fromarray(mask.astype(np.uint8) * 255).resize(photo.size, Image.Resampling.NEAREST)
    return Image.composite(photo, ground, stretched)


def marked(ground: "Picture", marks: Sequence[Mark]) -> "Picture":
    """Return a picture with marks on it, the later ones on top; widths are in its pixels."""
    from PIL import Image, ImageDraw

    width, height = (side * FINER for side in ground.size)
    finer = ground.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(finer)
    for mark in marks:
        thickness = max(round(mark.width * FINER), 1)
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
