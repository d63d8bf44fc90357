"""A query beside a photo that it found: where it lies there, and the matches that say so, as numbers for an SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.types import Box
from ctxdeploy.index import Verification

# Height of both photos in the drawing, the gap between them, and how many matches are drawn at most.
HEIGHT, GAP, MOST = 300.0, 8.0, 80

Line = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Two photos of one height side by side, in units of the drawing.

    Attributes:
        width, height: of all.
        query: x, y, width and height of the query's photo.
        photo: those of the photo that was found.
        lines: x0, y0, x1, y1 of matches, from the query to the photo.
        frame: points ``x,y x,y …`` of the query's frame, or its part's, as it lies in the photo.
        part: the same in the query; empty for a whole photo.
        matches: how many there are, drawn or not.
    """

    width: float
    height: float
    query: Line
    photo: Line
    lines: Sequence[Line]
    frame: str
    part: str
    matches: int


def draw(
    verification: Verification, query: tuple[int, int], photo: tuple[int, int], part: Box | None
) -> Drawing | None:
    """Return a verified hit as a drawing; None without a map.

    Args:
        verification: of the hit.
        query: (width, height) of the query's photo.
        photo: those of the photo that was found.
        part: of the query that was searched for; None for all.
    """
    if verification.affine is None:
        return None
    scales = (HEIGHT / query[1], HEIGHT / photo[1])
    widths = (query[0] * scales[0], photo[0] * scales[1])
    shift = np.array([widths[0] + GAP, 0.0])
    corners = _corners((0.0, 0.0, float(query[0]), float(query[1])) if part is None else _edges(part))
    mapped = corners @ verification.affine[:, :2].T + verification.affine[:, 2]
    starts = np.asarray(verification.query_points, np.float64) * scales[0]
    ends = np.asarray(verification.photo_points, np.float64) * scales[1] + shift
    some = np.linspace(0, len(starts) - 1, min(len(starts), MOST)).round().astype(np.int64)
    return Drawing(
        width=round(widths[0] + GAP + widths[1], 1),
        height=HEIGHT,
        query=(0.0, 0.0, round(widths[0], 1), HEIGHT),
        photo=(round(float(shift[0]), 1), 0.0, round(widths[1], 1), HEIGHT),
        lines=[_line(start, end) for start, end in zip(starts[some], ends[some], strict=True)],
        frame=_points(mapped * scales[1] + shift),
        part="" if part is None else _points(corners * scales[0]),
        matches=len(starts),
    )


def _edges(box: Box) -> Line:
    return box.x0, box.y0, box.x1, box.y1


def _corners(edges: Line) -> NDArray[np.float64]:
    x0, y0, x1, y1 = edges
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _points(corners: NDArray[np.float64]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def _line(start: NDArray[np.float64], end: NDArray[np.float64]) -> Line:
    (x0, y0), (x1, y1) = start, end
    return round(float(x0), 1), round(float(y0), 1), round(float(x1), 1), round(float(y1), 1)
