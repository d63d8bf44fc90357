"""Colours of maps and marks, made in OKLab, where equal steps look equal."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

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
    table = srgb(lab)
    table.flags.writeable = False
    return table


def colour_of(share: float) -> Colour:
    """Return the map's colour of a value in 0..1."""
    red, green, blue = colour_map()[round(255 * min(max(share, 0.0), 1.0))]
    return int(red), int(green), int(blue)


def mark_colours(count: int) -> list[Colour]:
    """Return colours that tell ``count`` things apart on a dark photo, in the order of the rainbow."""
    hues = np.linspace(_FIRST_HUE, _LAST_HUE, count) if count > 1 else np.array([_FIRST_HUE])
    table = srgb(np.array([_lab(_MARK_LIGHTNESS, _MARK_CHROMA, hue) for hue in hues]))
    return [(int(red), int(green), int(blue)) for red, green, blue in table]


def css(colour: Colour) -> str:
    """Return a colour as a style sheet writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def srgb(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return n×3 OKLab colours as sRGB bytes; what lies outside of sRGB is clipped."""
    linear = np.clip((lab @ _TO_CONES.T) ** 3 @ _TO_LINEAR.T, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table: NDArray[np.uint8] = np.rint(encoded * 255).astype(np.uint8)
    return table


def _lab(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    angle = np.deg2rad(hue)
    return lightness, float(chroma * np.cos(angle)), float(chroma * np.sin(angle))
