"""What a picture is, and the marks that several have."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.report.inspection.drawing import Frame, Mark

if TYPE_CHECKING:
    from ctxdeploy.report.inspection.drawing import Picture

# No colour of the map, with an edge of black: it stands out from bright and dark ground alike.
CHOSEN, BLACK = (60, 220, 255), (0, 0, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """A picture and what it shows.

    Attributes:
        file: its name.
        section: ``input``, ``attention``, ``selected``, ``bandwidth``, ``confidence``, ``edges`` or ``superfeatures``.
        title: a few words.
        image: RGB.
        large: drawn in the larger size.
        values: least, median and largest of what is shown in colour; None for a picture without values.
        ends: values of the darkest and the lightest colour.
        percent: values are shares.
        note: a line more.
    """

    file: str
    section: str
    title: str
    image: "Picture"
    large: bool = False
    values: tuple[float, float, float] | None = None
    ends: tuple[float, float] | None = None
    percent: bool = False
    note: str = ""

    def metadata(self) -> dict[str, Any]:
        """Return what JSON prints of it."""
        least, median, largest = self.values or (None, None, None)
        return {
            "file": self.file,
            "section": self.section,
            "title": self.title,
            "size": list(self.image.size),
            "min": least,
            "median": median,
            "max": largest,
            "colours": None if self.ends is None else list(self.ends),
        }


def centre(row: int, column: int, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return x and y of a cell's centre, in shares of the picture."""
    return (column + 0.5) / shape[1], (row + 0.5) / shape[0]


def cell_edges(row: int, column: int, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return left, upper, right and lower edge of a cell, in shares of the picture."""
    return column / shape[1], row / shape[0], (column + 1) / shape[1], (row + 1) / shape[0]


def frame(row: int, column: int, shape: tuple[int, ...]) -> list[Mark]:
    """Return the frame of the position that is looked at closely."""
    edges = cell_edges(row, column, shape)
    return [Frame(edges=edges, width=7, colour=BLACK), Frame(edges=edges, width=4, colour=CHOSEN)]


def three(values: NDArray[Any]) -> tuple[float, float, float]:
    """Return least, median and largest."""
    return float(values.min()), float(np.median(values)), float(values.max())
