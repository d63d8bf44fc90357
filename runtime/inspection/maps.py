"""What was found in a photo, as values: maps of each scale, the chosen position, and what is missing and why."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.runtime.decode.decode import Pixels
from ctxdeploy.runtime.inspection.edges import BlockEdges
from ctxdeploy.runtime.inspection.preparation import Preparation


@dataclass(frozen=True, kw_only=True, eq=False)
class SuperFeatures:
    """The super-features of one scale (FIRe).

    Attributes:
        strengths: N float32, their attention.
        shares: N×h×w float32, what each takes from each position; sums to 1 over the positions.
    """

    strengths: NDArray[np.float32]
    shares: NDArray[np.float32]

    def gathered(self) -> NDArray[np.float32]:
        """Return h×w: what a position gives to all, weighted by their strengths; 1 is the mean of the positions."""
        total = np.tensordot(self.strengths.astype(np.float64), self.shares.astype(np.float64), axes=1)
        result: NDArray[np.float32] = (total * (total.size / float(self.strengths.sum()))).astype(np.float32)
        return result

    def strongest(self, count: int, cell: tuple[int, int] | None) -> NDArray[np.intp]:
        """Return the numbers of the strongest ones, or of those that take most from a cell, relative to their mean."""
        values = self.strengths if cell is None else self.shares[:, cell[0], cell[1]]
        return np.argsort(-values, kind="stable")[:count]


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelMaps:
    """The maps of one scale, h×w cells; None for what the network does not have or the graph does not show.

    Attributes:
        scale: factor of the image pyramid.
        size: (width, height) in pixels of the input at this scale.
        selected: descriptors of this scale among the K that the network returns.
        attention: float32, before it is divided by the largest of the photo; with super-features what they gather.
        chosen: bool, the cells among the K; None with super-features, which have no cell.
        bandwidth: float32, b > 0; larger is narrower.
        confidence: float32, c in 0..1.
        kernel_size: side of the window of the learned smoothing.
        super_features: of this scale.
    """

    scale: float
    size: tuple[int, int]
    selected: int
    attention: NDArray[np.float32] | None = None
    chosen: NDArray[np.bool_] | None = None
    bandwidth: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None
    kernel_size: int | None = None
    super_features: SuperFeatures | None = None

    @property
    def positions(self) -> int:
        """Descriptors of this scale before the selection; 0 where the graph does not show them."""
        if self.super_features is not None:
            return len(self.super_features.strengths)
        return 0 if self.attention is None else self.attention.size

    def kernel(self, row: int, column: int) -> NDArray[np.float64] | None:
        """Return what a cell takes from its window, k×k shares that sum to 1; cells outside of the photo have 0."""
        if self.bandwidth is None or self.confidence is None or self.kernel_size is None:
            return None
        half = self.kernel_size // 2
        offsets = np.arange(-half, half + 1)
        squares = offsets[:, None] ** 2 + offsets[None, :] ** 2
        weights = np.exp(-float(self.bandwidth[row, column]) * squares)
        weights[half, half] = self.confidence[row, column]
        rows, columns = self.bandwidth.shape
        inside = ((row + offsets >= 0) & (row + offsets < rows))[:, None] & (
            (column + offsets >= 0) & (column + offsets < columns)
        )[None, :]
        weights = np.where(inside, weights, 0.0)
        shares: NDArray[np.float64] = weights / max(float(weights.sum()), 1e-30)
        return shares


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """The position that is looked at closely.

    Attributes:
        level: number of its scale.
        row: of its cell.
        column: of its cell.
        asked: the position that was asked for, x then y in pixels of the original photo; None for the strongest.
        position: the centre of the cell, in the same pixels.
        rank: its place among the descriptors that the network returns, from 1; None if it is not among them.
        blocks: its edges in each block of the graph refinement.
    """

    level: int
    row: int
    column: int
    asked: tuple[float, float] | None
    position: tuple[float, float]
    rank: int | None
    blocks: tuple[BlockEdges, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """A photo through the eyes of a network.

    Attributes:
        photo: as the network takes it.
        preparation: how it came to be that.
        descriptors: that the network returns, positions in pixels of the original photo.
        positions: n×2 float32, the same in pixels of the input.
        levels: of each scale, in the order of the bundle.
        level: number of the scale that is looked at closely.
        chosen: None where there is no single position: no maps, or super-features and none was asked for.
        missing: what cannot be shown, and why, a line each.
        seconds: that the network took, with its loading.
    """

    photo: Pixels
    preparation: Preparation
    descriptors: LocalDescriptors
    positions: NDArray[np.float32]
    levels: tuple[LevelMaps, ...]
    level: int
    chosen: Chosen | None
    missing: tuple[str, ...]
    seconds: float

    @property
    def strongest(self) -> float:
        """The largest attention of the photo over all scales, by which the network divides; 0 where it is not shown."""
        return max((float(level.attention.max()) for level in self.levels if level.attention is not None), default=0.0)
