"""The rectangle of interest of a query."""

import math
from dataclasses import dataclass

from ctxdeploy.errors import ConfigError, PhotoError

TOLERANCE = 1.0  # pixels by which a box may leave the photo: ground truths are rounded, some are one-based


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels of the original photo, after EXIF rotation.

    The continuous coordinates are those of all positions: the top left pixel covers 0..1, its centre is (0.5, 0.5).

    Attributes:
        x0: left edge.
        y0: upper edge.
        x1: right edge, larger than ``x0``.
        y1: lower edge, larger than ``y0``.
    """

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(edge) for edge in (self.x0, self.y0, self.x1, self.y1)):
            raise ConfigError(f"box {self}: its edges must be finite numbers")
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise ConfigError(f"box {self} is empty: give it as x0,y0,x1,y1 with x0 < x1 and y0 < y1")

    @classmethod
    def parse(cls, text: str) -> "Box":
        """Return the box that ``"x0,y0,x1,y1"`` says; ``ConfigError`` if it says none."""
        try:
            x0, y0, x1, y1 = (float(part) for part in text.split(","))
        except ValueError as error:
            raise ConfigError(f"box {text!r} is not four numbers: give it as x0,y0,x1,y1") from error
        return cls(x0=x0, y0=y0, x1=x1, y1=y1)

    def __str__(self) -> str:
        return f"{self.x0:g},{self.y0:g},{self.x1:g},{self.y1:g}"

    def pixels(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the whole pixels (left, upper, right, lower) of the box in a photo of ``size`` (width, height).

        Edges go to the nearest integer, ties to the even one, which is what Pillow's ``crop`` and so the reference do.
        A box that leaves the photo by at most one pixel is clipped.

        Raises:
            PhotoError: the box lies outside the photo, or covers no whole pixel.
        """
        width, height = size
        outside = max(-self.x0, -self.y0, self.x1 - width, self.y1 - height)
        if outside > TOLERANCE:
            raise PhotoError(f"the box {self} does not lie in the photo of {width}×{height} pixels")
        left, upper = max(round(self.x0), 0), max(round(self.y0), 0)
        right, lower = min(round(self.x1), width), min(round(self.y1), height)
        if left >= right or upper >= lower:
            raise PhotoError(f"the box {self} covers no whole pixel of the photo of {width}×{height} pixels")
        return left, upper, right, lower
