"""Colours and marks of the inspection's pictures."""

import numpy as np

from ctxdeploy.report.inspection.drawing import (
    Frame,
    Line,
    Ring,
    colour_map,
    fitted,
    mark_colours,
    marked,
    over_photo,
)


def test_colour_map_is_even() -> None:
    """256 colours whose lightness (CIE L*) grows in even steps."""
    table = colour_map()
    assert table.shape == (256, 3) and len(np.unique(table, axis=0)) == 256
    share = table / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    steps = np.convolve(np.diff(lightness), np.ones(16) / 16, "valid")
    assert steps.min() > 0.15 and steps.max() < 0.7
    assert lightness[0] < 10 and lightness[-1] > 90


def test_colours_of_scales_differ() -> None:
    for count in (1, 2, 7, 12):
        colours = np.array(mark_colours(count), float)
        apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + np.eye(count) * 999
        assert apart.min() > 25


def test_drawing() -> None:
    """Marks lie where they are said to, cells have sharp edges."""
    photo = fitted(np.zeros((30, 60, 3), np.uint8), 200)
    assert photo.size == (200, 100)
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    marks = [
        Line(start=(0.1, 0.5), end=(0.4, 0.5), width=6, colour=red),
        Frame(edges=(0.5, 0.2, 0.7, 0.8), width=4, colour=green),
        Ring(centre=(0.85, 0.5), radius=0.1, width=4, colour=blue),
    ]
    pixels = np.asarray(marked(photo, marks))
    assert pixels[50, 50, 0] > 200 and pixels[40, 50, 0] < 10
    assert pixels[50, 101, 1] > 200 and pixels[50, 120, 1] < 10
    assert pixels[50, 151, 2] > 200 and pixels[50, 170, 2] < 10
    shares = np.array([[0.0, 1.0], [1.0, 0.0]])
    cells = np.asarray(over_photo(shares, photo)).astype(int).sum(axis=2)
    assert cells[25, 99] < cells[25, 100] and cells[75, 99] > cells[75, 100]
    assert len(np.unique(cells)) == 2
