"""One row of the graph refinement: what a position is like, and which positions it takes features from.

As ``networks.md`` has it: S = x̂ x̂ᵀ, A its edges, and a position takes D⁻¹ A from the others. Computed in float64 from
the graph's own values.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        similarity: cosine of the two positions' features.
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
        similarity: h×w float64, cosine of the position with every other; S.
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
    similarity = unit @ unit[row * shape[1] + column]
    adjacency = _adjacency(similarity, block)
    weights = adjacency / max(float(adjacency.sum()), _TINY)
    return BlockEdges(
        block=block, row=row, column=column, similarity=similarity.reshape(shape), weights=weights.reshape(shape)
    )


def _adjacency(similarity: NDArray[np.float64], block: Block) -> NDArray[np.float64]:
    """Return a row of A from one of S."""
    if block.edges == "softmax":
        exponent = similarity / block.parameter
        softmax: NDArray[np.float64] = np.exp(exponent - exponent.max())
        return softmax
    if block.edges == "topk":
        padded = np.concatenate([similarity, np.full(block.neighbours, _NOTHING)])
        last = np.sort(padded)[-block.neighbours]
        return np.maximum(np.where(similarity >= last, similarity, 0.0), 0.0)
    return np.maximum(similarity - block.parameter, 0.0)
