"""Graph refinement of the feature map: residual graph convolutions over all pairs of positions (``networks.md``).

Edges of ``attention`` are those of dot-product attention with one head ("Attention is all you need", NeurIPS 2017):
a softmax of ⟨q, k⟩ / t, queries and keys two learned projections of the features of length 1, t learned too. With both
projections the identity they are those of ``softmax``.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.export.networks.config import Edges, Refinement
from ctxdeploy.export.networks.operators import emit_operator, is_exporting

# Rows of the N×N similarities are computed in this many blocks, so that the matrix never exists as a whole. A block is
# live twice, before and after the threshold. R50- with two graph convolutions at N=49,152 (2048×1536, scale 2) peaks at
# 2.8 GB in ONNX Runtime, its trunk alone at 2.4 GB; with 8 blocks it was 4.9 GB, with 16 3.1.
ROW_BLOCKS = 32
# They are that many where the map of a photo of 1024 pixels has 12,288 positions: at stride 16 and scale 2.
_REFERENCE_STRIDE, _REFERENCE_SCALE = 16, 2.0
# Norms and row sums below this are those of a position without any activation; it keeps its (zero) features.
_TINY = 1e-12
# Products with the edges are sums over all positions: 12,288 alike ones, features of 11 and edges of 0.5 exceed the
# 65504 of fp16. A power of two, which the division by the row sum takes out again, changes no digit of fp32.
_SHRINK = 2.0**-8


def row_blocks(stride: int, scale: float) -> int:
    """Return the number of blocks at a scale of the pyramid.

    So many that none is larger than those of scale 2 at stride 16: pairs of positions grow with the fourth power of the
    scale. 32 blocks at every scale were 3,584 small launches for each photo, seven scales and two convolutions, where
    these are 736 at stride 16 and 240 at stride 32.
    """
    pairs = (scale / _REFERENCE_SCALE) ** 4 * (_REFERENCE_STRIDE / stride) ** 2
    return min(ROW_BLOCKS, max(1, math.ceil(ROW_BLOCKS * pairs)))


# ``graph_rows`` or what stands for it.
Rows = Callable[[Tensor, Tensor, Tensor, Tensor, Edges, int], Tensor]


def edge_weights(similarity: Tensor, edges: Edges, parameter: Tensor, neighbours: int) -> Tensor:
    """Turn rows of similarities into edges.

    Args:
        similarity: B×R×N: cosines; of ``attention`` products of queries and keys.
        edges: the kind.
        parameter: one number: the threshold τ, or the temperature t of ``softmax`` and ``attention``; ``topk`` does not
            use it.
        neighbours: edges of a node with ``topk``. Nodes as similar as the last of them are kept too, so that the result
            does not depend on an order among equals. Negative similarities do not become edges.

    Returns:
        B×R×N, not negative.
    """
    if edges is Edges.THRESHOLD:
        return torch.relu(similarity - parameter)
    if edges in (Edges.SOFTMAX, Edges.ATTENTION):
        return torch.softmax(similarity / parameter, dim=-1)
    # Padded by `neighbours` columns below any cosine, so that TopK has enough of them on a tiny feature map.
    padded = F.pad(similarity, (0, neighbours), value=-2.0)
    last = torch.topk(padded, neighbours, dim=-1).values[..., -1:]
    return torch.relu(torch.where(similarity >= last, similarity, 0.0))


def graph_rows(
    block: Tensor, transposed: Tensor, projected: Tensor, parameter: Tensor, edges: Edges, neighbours: int
) -> Tensor:
    """Return D⁻¹ A x W of some rows of A.

    Args:
        block: B×R×C, the rows' features of length 1; of ``attention`` B×R×D, their queries.
        transposed: B×C×N, the same of all positions; of ``attention`` B×D×N, the keys.
        projected: B×N×C, x W times ``_SHRINK``.
        parameter: one number, see ``edge_weights``.

    Returns:
        B×R×C.
    """
    adjacency = edge_weights(block @ transposed, edges, parameter, neighbours)
    if edges in (Edges.SOFTMAX, Edges.ATTENTION):  # their row sums are 1
        return (adjacency @ projected) / _SHRINK
    # Divided after the product: N×C instead of N×N divisions.
    total = torch.clamp(adjacency.sum(dim=2, keepdim=True), min=_TINY)
    return (adjacency @ projected) / (total * _SHRINK)


def graph_convolution(
    x: Tensor,
    weight: Tensor,
    parameter: Tensor,
    edges: Edges,
    neighbours: int,
    rows: Rows = graph_rows,
    projections: Sequence[Tensor] = (),
    blocks: int = ROW_BLOCKS,
) -> Tensor:
    """One residual block: x + relu(D⁻¹ A x W), A the edges between the positions and D its row sums.

    Args:
        x: B×N×C.
        weight: C×C, applied from the right.
        parameter: one number, see ``edge_weights``.
        rows: computes a block of rows; the exporter writes one block and repeats it.
        projections: of ``attention``: to queries and to keys, C×D each, applied from the right.
        blocks: of rows, whose edges exist one after the other.

    Returns:
        B×N×C.
    """
    unit = x / torch.clamp(torch.linalg.vector_norm(x, dim=2, keepdim=True), min=_TINY)
    queries, keys = (unit @ projection for projection in projections) if projections else (unit, unit)
    transposed = keys.transpose(1, 2)
    projected = (x * _SHRINK) @ weight
    batch, n, dim = queries.shape
    if blocks == 1:
        return x + torch.relu(rows(queries, transposed, projected, parameter, edges, neighbours))
    # Blocks of one size, the last ones padded: sizes that differ cost the tracer 0.5 s each.
    size = (n + blocks - 1) // blocks
    padded = F.pad(queries, (0, 0, 0, blocks * size - n)).reshape(batch, blocks, size, dim)
    found = [rows(block, transposed, projected, parameter, edges, neighbours) for block in padded.unbind(1)]
    return x + torch.relu(torch.cat(found, dim=1)[:, :n])


class GraphConvolution(nn.Module):
    """A block of the refinement with its weight, its threshold or temperature, and its projections if it attends."""

    def __init__(self, channels: int, config: Refinement) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(channels, channels))
        if config.edges is Edges.THRESHOLD:
            self.threshold = nn.Parameter(torch.tensor(0.5))
        if config.edges in (Edges.SOFTMAX, Edges.ATTENTION):
            self.temperature = nn.Parameter(torch.tensor(0.1))
        if config.edges is Edges.ATTENTION:
            self.query = nn.Parameter(torch.zeros(channels, config.dim))
            self.key = nn.Parameter(torch.zeros(channels, config.dim))

    def parameter(self) -> Tensor:
        """Return the threshold or the temperature, 0 where the edges need neither."""
        if self.config.edges in (Edges.SOFTMAX, Edges.ATTENTION):
            return self.temperature
        return self.threshold if self.config.edges is Edges.THRESHOLD else self.weight.new_zeros(())

    def projections(self) -> tuple[Tensor, ...]:
        """Return those of ``attention``, to queries and to keys; none of other edges."""
        return (self.query, self.key) if self.config.edges is Edges.ATTENTION else ()

    def forward(self, x: Tensor) -> Tensor:
        edges, neighbours = self.config.edges, self.config.neighbours
        weight, parameter, projections = self.weight, self.parameter(), self.projections()
        if is_exporting():
            attributes = {"edges": edges.value, "neighbours": neighbours}
            return emit_operator("GraphConvolution", (x, weight, parameter, *projections), attributes, like=x)
        return graph_convolution(x, weight, parameter, edges, neighbours, projections=projections)


class GraphRefinement(nn.Module):
    """B×C×H×W to the same shape through a row of graph convolutions."""

    def __init__(self, channels: int, config: Refinement) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(GraphConvolution(channels, config) for _ in range(config.blocks))

    def forward(self, x: Tensor) -> Tensor:
        nodes = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            nodes = block(nodes)
        return nodes.transpose(1, 2).reshape(x.shape)
