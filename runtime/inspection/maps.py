"""What was found in a photo, as values: maps of each scale, the chosen position and its edges, what is missing and why.

Edges are a row of the graph refinement: what a position is like, and which positions it takes features from. As
``networks.md`` has it, S = x̂ x̂ᵀ, A are its edges, and a position takes D⁻¹ A from the others. They are computed in
float64 from the graph's own values.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.runtime.decode.decode import Pixels
from ctxdeploy.runtime.inspection.graph import Block

# Norms and sums below this are those of a position without any activation, as in the graph.
_TINY = 1e-12
# Below any cosine.
_NOTHING = -2.0


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An edge from the chosen position to another one.

    Attributes:
        row: of the feature map.
        column: of the feature map.
        similarity: cosine of the two positions' features; with ``attention`` the product of query and key.
        weight: share of what the chosen position takes, of 1 over all positions.
    """

    row: int
    column: int
    similarity: float
    weight: float


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockEdges:
    """The edges of one position in one block of the refinement.

    Attributes:
        block: kind and parameter of the edges.
        row: of the position.
        column: of the position.
        similarity: h×w float64, cosine of the position with every other; S. With ``attention`` the product of its query
            and every key.
        weights: h×w float64, shares that sum to 1 (0 everywhere at a position without activation); D⁻¹ A.
    """

    block: Block
    row: int
    column: int
    similarity: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def own(self) -> float:
        """The position's weight for itself."""
        return float(self.weights[self.row, self.column])

    @property
    def count(self) -> int:
        """Edges to other positions."""
        return int((self.weights > 0).sum()) - (self.own > 0)

    def strongest(self, count: int) -> list[Edge]:
        """Return the heaviest edges to other positions, heaviest first; equals in row-major order."""
        columns = self.weights.shape[1]
        flat = self.weights.reshape(-1)
        order = np.argsort(-flat, kind="stable")
        chosen = [i for i in order[: count + 1] if i != self.row * columns + self.column and flat[i] > 0][:count]
        return [
            Edge(
                row=int(i // columns),
                column=int(i % columns),
                similarity=float(self.similarity.reshape(-1)[i]),
                weight=float(flat[i]),
            )
            for i in chosen
        ]


def edges_of(nodes: NDArray[np.float32], block: Block, cell: tuple[int, int], shape: tuple[int, int]) -> BlockEdges:
    """Return the edges of one position.

    Args:
        nodes: N×C, what enters the block.
        block: kind of its edges.
        cell: row and column of the position.
        shape: h and w, h·w = N.
    """
    row, column = cell
    x = nodes.astype(np.float64)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _TINY)
    queries, keys = (unit @ matrix for matrix in block.projections) if block.projections else (unit, unit)
    similarity = keys @ queries[row * shape[1] + column]
    adjacency = _adjacency(similarity, block)
    weights = adjacency / max(float(adjacency.sum()), _TINY)
    return BlockEdges(
        block=block, row=row, column=column, similarity=similarity.reshape(shape), weights=weights.reshape(shape)
    )


def _adjacency(similarity: NDArray[np.float64], block: Block) -> NDArray[np.float64]:
    """Return a row of A from one of S."""
    if block.edges in ("softmax", "attention"):
        exponent = similarity / block.parameter
        softmax: NDArray[np.float64] = np.exp(exponent - exponent.max())
        return softmax
    if block.edges == "topk":
        padded = np.concatenate([similarity, np.full(block.neighbours, _NOTHING)])
        last = np.sort(padded)[-block.neighbours]
        return np.maximum(np.where(similarity >= last, similarity, 0.0), 0.0)
    return np.maximum(similarity - block.parameter, 0.0)


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
