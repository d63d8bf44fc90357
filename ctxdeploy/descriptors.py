"""The type that crosses the wall between extraction and search."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalDescriptors:
    """The local descriptors of one photo, strongest attention first; n may be 0.

    Attributes:
        vectors: n×D float32, not normalised.
        attention: n float32 in (0, 1], divided by the largest of the photo.
        positions: n×2 float32, x then y, in pixels of the original photo (after EXIF rotation), centre of the cell:
            the centre of the top left pixel is (0.5, 0.5).
        scales: n float32, the scale at which the descriptor was found.
    """

    vectors: NDArray[np.float32]
    attention: NDArray[np.float32]
    positions: NDArray[np.float32]
    scales: NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.vectors)
        shapes = (self.vectors.ndim, self.attention.shape, self.positions.shape, self.scales.shape)
        if shapes != (2, (n,), (n, 2), (n,)):
            raise ConfigError(f"local descriptors of inconsistent shapes: {self.vectors.shape} and {shapes[1:]}")

    def __len__(self) -> int:
        return len(self.vectors)
